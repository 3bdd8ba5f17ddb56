//! Small U-Nets as people export them, each with something that needs care; `tests/data/cases` says what.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs::{self, File};
use std::io::copy;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// A case, unpacked into a folder of its own that goes when this is dropped.
pub struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    /// Unpacks `tests/data/cases/NAME`.
    pub fn open(name: &str) -> Self {
        let packed = packed(name);
        let folder = tempfile::tempdir().expect("a folder");
        let mut model = GzDecoder::new(File::open(packed.join("model.onnx.gz")).expect("the case's model"));
        copy(
            &mut model,
            &mut File::create(folder.path().join("model.onnx")).expect("a file"),
        )
        .expect("unpacks");
        fs::copy(packed.join("io.npz"), folder.path().join("io.npz")).expect("the case's tensors");
        Case { folder }
    }

    /// The ONNX file.
    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model.onnx")
    }

    /// Inputs (`in_<name>`) and ONNX Runtime's outputs for them (`out_<name>`).
    pub fn io(&self) -> PathBuf {
        self.folder.path().join("io.npz")
    }
}

fn packed(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = own.ancestors().map(|root| root.join("tests/data/cases"));
    let mut folders = roots.filter(|folder| folder.is_dir());
    folders.next().expect("tests/data/cases").join(name)
}
