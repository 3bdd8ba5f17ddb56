//! Loading a library that is none. A process of its own: ONNX Runtime is loaded once per process.

use std::path::Path;

use fisec_runtime::RuntimeError;
use fisec_runtime::ort::OnnxRuntime;

#[test]
fn a_file_that_is_no_library_is_a_clean_error() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    for library in [manifest.as_path(), Path::new("/nowhere/libonnxruntime.so")] {
        let error = OnnxRuntime::load_from(library).err().expect("no library");
        assert!(matches!(error, RuntimeError::OnnxRuntimeUnusable { .. }));
        assert!(error.hint().unwrap().contains("cargo xtask setup"));
    }
}
