//! Any bytes as a model: an error with a place, or a graph that the canonical passes raise or refuse.
#![no_main]

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use fisec_onnx::{Bindings, import};
use fisec_passes::canonical::canonicalize;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Where the bytes become a file; put `TMPDIR` into memory.
static MODEL: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model.onnx");
    (folder, model)
});

fuzz_target!(|bytes: &[u8]| {
    let model = &MODEL.1;
    fs::write(model, bytes).expect("a temporary file");
    match import(model, &Bindings::unet(2, 16, 16, 77)) {
        Err(error) => assert!(error.to_string().contains("model.onnx"), "{error}"),
        Ok(imported) => {
            let mut graph = imported.graph;
            let _ = canonicalize(&mut graph, &mut |_, _| ControlFlow::Continue(()));
        }
    }
});
