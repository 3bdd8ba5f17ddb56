//! Any JSON as a plan with a checksum that fits: an error, or a plan whose weights and text can be read.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use fisec_plan::{Bundle, WeightId, json, program_text};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tempfile::TempDir;

const WEIGHTS: [u8; 4096] = [0x3c; 4096];
const ISLAND: &[u8] = b"an island is opened by ONNX Runtime alone";

/// A bundle without its plan; put `TMPDIR` into memory.
static BUNDLE: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("weights.bin"), WEIGHTS).expect("a temporary file");
    fs::write(folder.path().join("i.onnx"), ISLAND).expect("a temporary file");
    folder
});

fuzz_target!(|source: &str| {
    let Ok(Value::Object(mut plan)) = serde_json::from_str(source) else { return };
    plan.remove("checksum");
    let files = json!({"weights.bin": json::file_hash(&WEIGHTS), "i.onnx": json::file_hash(ISLAND)});
    plan.insert("files".to_owned(), files);
    let folder = BUNDLE.path();
    fs::write(folder.join("plan.json"), json::seal(&plan)).expect("a temporary file");
    let Ok(bundle) = Bundle::open(folder) else { return };
    let plan = bundle.plan();
    for index in 0..plan.weights.len() {
        let _ = bundle.weight(WeightId(index as u32));
    }
    for program in [Some(&plan.programs.record), Some(&plan.programs.guide), plan.programs.edit.as_ref()] {
        program.map(|program| program_text(plan, program));
    }
});
