//! The reader against another one: `onnx-protobuf` must find the same inputs and the same weights in the same files.

mod samples;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fisec_onnx::{Bindings, import, onnx_number};
use onnx_protobuf::ModelProto;
use protobuf::Message;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(path)
}

/// Shape, element type as ONNX numbers it, and a hash of the little-endian bytes.
type Weight = (Vec<i64>, i32, String);

/// Initializers whose bytes stand in the file as they are.
fn independently(model: &ModelProto) -> BTreeMap<String, Weight> {
    let stored = model
        .graph
        .initializer
        .iter()
        .filter(|tensor| !tensor.raw_data.is_empty());
    stored
        .map(|tensor| {
            let hash = blake3::hash(&tensor.raw_data).to_hex().to_string();
            (tensor.name.clone(), (tensor.dims.clone(), tensor.data_type, hash))
        })
        .collect()
}

fn compare(path: &Path, bindings: &Bindings) {
    let file = path.display();
    let model = ModelProto::parse_from_bytes(&std::fs::read(path).expect("a file")).expect("onnx-protobuf reads it");
    let graph = import(path, bindings).expect("imports").graph;
    let names: Vec<String> = graph.inputs().iter().map(|(_, name)| (*name).to_owned()).collect();
    let initializers: Vec<&str> = model
        .graph
        .initializer
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    let inputs = model
        .graph
        .input
        .iter()
        .map(|input| input.name.as_str())
        .filter(|name| !initializers.contains(name));
    assert_eq!(names, inputs.collect::<Vec<_>>(), "{file}: inputs");
    let weights = independently(&model);
    assert!(
        weights.len() > 20,
        "{file}: {} weights are too few to mean anything",
        weights.len()
    );
    for (name, expected) in weights {
        let weight = graph
            .weight_named(&name)
            .unwrap_or_else(|| panic!("{file}: `{name}` is missing"));
        let tensor = graph.weight(weight).data.materialize();
        let dims = tensor.shape().iter().map(|&dim| dim as i64).collect();
        let hash = blake3::hash(tensor.data()).to_hex().to_string();
        assert_eq!((dims, onnx_number(tensor.dtype()), hash), expected, "{file}: `{name}`");
    }
}

#[test]
fn another_reader_finds_the_same_unet() {
    let folder = tempfile::tempdir().expect("a folder");
    compare(&samples::fixed_size(folder.path()), &Bindings::unet(2, 16, 16, 77));
    compare(&data("nano-pipeline/unet/model.onnx"), &Bindings::unet(2, 16, 16, 77));
}

#[test]
fn another_reader_finds_the_same_text_encoder_and_decoder() {
    let text_encoder = data("nano-pipeline/text_encoder/model.onnx");
    compare(&text_encoder, &Bindings::text_encoder(2, 77));
    compare(
        &data("nano-pipeline/vae_decoder/model.onnx"),
        &Bindings::vae(1, 4, 16, 16),
    );
}
