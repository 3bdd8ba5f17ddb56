//! What a model declares, without a graph.

use std::fs;
use std::path::{Path, PathBuf};

use fisec_onnx::{Declared, inspect};
use fisec_tensor::DType;

fn nano(part: &str) -> PathBuf {
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/nano-pipeline");
    pipeline.join(part).join("model.onnx")
}

#[test]
fn inputs_outputs_and_the_vocabulary_are_told() {
    let found = inspect(&nano("text_encoder")).unwrap();
    let ids = Declared {
        name: "input_ids".into(),
        dtype: Some(DType::I64),
        dims: found.inputs[0].dims.clone(),
        is_used: true,
    };
    assert_eq!(found.inputs, [ids]);
    assert_eq!(found.inputs[0].dims.as_ref().unwrap().len(), 2);
    assert_eq!(found.outputs[0].name, "last_hidden_state");
    assert_eq!(found.table_rows, Some(231));
    assert_eq!(found.external, Vec::<PathBuf>::new());
    let decoder = inspect(&nano("vae_decoder")).unwrap();
    assert_eq!((decoder.inputs.len(), decoder.table_rows), (1, None));
    assert_eq!(decoder.inputs[0].dims.as_ref().unwrap().len(), 4);
}

#[test]
fn external_data_is_named_relative_to_the_model() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/onnx/dynamo20_dyn/model.onnx");
    let found = inspect(&model).unwrap();
    assert_eq!(found.external, [PathBuf::from("model.onnx.data")]);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("model.onnx");
    fs::copy(&model, &copy).unwrap();
    let error = inspect(&copy).unwrap_err();
    assert!(error.to_string().contains("model.onnx.data"), "{error}");
    let data = fs::read(model.with_file_name("model.onnx.data")).unwrap();
    fs::write(folder.path().join("model.onnx.data"), &data[..data.len() / 2]).unwrap();
    let error = inspect(&copy).unwrap_err();
    assert!(error.hint.unwrap().contains("truncated"));
}

/// A file that is cut anywhere is refused: at each of its last 200 bytes, and at 200 places before them.
#[test]
fn cut_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("model.onnx");
    for part in ["text_encoder", "vae_decoder", "vae_encoder"] {
        let bytes = fs::read(nano(part)).unwrap();
        let ends = (1..=200).map(|cut| bytes.len() - cut);
        let spread = (0..200).map(|index| index * (bytes.len() - 200) / 200 + index % 7);
        for length in ends.chain(spread) {
            fs::write(&copy, &bytes[..length]).unwrap();
            assert!(inspect(&copy).is_err(), "{part}: {length} of {} bytes", bytes.len());
        }
    }
}
