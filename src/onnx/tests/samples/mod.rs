//! Models that are stored compressed.

use std::fs::File;
use std::io::copy;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// A fixed-size U-Net, unpacked into `folder`.
pub fn fixed_size(folder: &Path) -> PathBuf {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/onnx/ts17_static/model.onnx.gz");
    let model = folder.join("model.onnx");
    let mut packed = GzDecoder::new(File::open(packed).expect("the sample"));
    copy(&mut packed, &mut File::create(&model).expect("a file")).expect("unpacks");
    model
}
