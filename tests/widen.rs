//! The f32 form of a network in half precision computes what an f32 file of the same weights does, in ONNX Runtime.

#[path = "support/onnx_edit.rs"]
mod onnx_edit;

use std::fs;
use std::path::Path;

use fisec_onnx::widened;
use fisec_runtime::ort::OnnxRuntime;
use fisec_tensor::{DType, HostTensor};
use onnx_edit::{halved, rewidened, with_external_data};

/// f32 in another order of additions, some forty layers deep.
const TOLERANCE: f32 = 1e-4;

const NANO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nano-pipeline");

fn nano(network: &str) -> Vec<u8> {
    fs::read(Path::new(NANO).join(network).join("model.onnx")).unwrap()
}

fn noise(shape: &[usize], seed: u64) -> HostTensor {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    HostTensor::from_f32(shape.to_vec(), (0..shape.iter().product()).map(|_| next()).collect())
}

fn inputs(network: &str) -> Vec<(&'static str, HostTensor)> {
    match network {
        "text_encoder" => vec![("input_ids", HostTensor::from_i64([1, 77], (0..77).collect()))],
        "vae_decoder" => vec![("latent_sample", noise(&[1, 4, 6, 10], 1))],
        "vae_encoder" => vec![("sample", noise(&[1, 3, 32, 48], 2))],
        _ => vec![
            ("sample", noise(&[2, 4, 16, 16], 3)),
            ("timestep", HostTensor::from_f32(Vec::new(), vec![700.0])),
            ("encoder_hidden_states", noise(&[2, 77, 24], 4)),
        ],
    }
}

/// The first output of a model on inputs in the types that it declares.
fn run(runtime: &OnnxRuntime, model: &Path, inputs: &[(&str, HostTensor)]) -> HostTensor {
    let mut session = runtime.session(model, 1).expect("opens");
    let declared = session.inputs().to_vec();
    let given: Vec<(&str, HostTensor)> = inputs
        .iter()
        .map(|(name, value)| {
            let port = declared.iter().find(|port| port.name == *name).expect("an input");
            (*name, value.cast(port.dtype))
        })
        .collect();
    let given: Vec<(&str, &HostTensor)> = given.iter().map(|(name, value)| (*name, value)).collect();
    let output = session.outputs()[0].clone();
    session.run(&given, &[&output.name]).expect("runs").remove(0)
}

#[test]
fn every_network_in_half_precision_has_an_f32_form_with_its_weights() {
    let runtime = OnnxRuntime::load().expect("ONNX Runtime is installed");
    for network in ["text_encoder", "vae_decoder", "vae_encoder", "unet"] {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let half = halved(&nano(network));
        fs::write(file("model.onnx"), &half).unwrap();
        fs::write(file("reference.onnx"), rewidened(&half)).unwrap();
        let wide = widened(&file("model.onnx"), "model.onnx")
            .unwrap()
            .expect("it computes in half precision");
        assert!(wide.len() < half.len(), "{network}: weights are not copied");
        fs::write(file("wide.onnx"), &wide).unwrap();
        let inputs = inputs(network);
        let found = run(&runtime, &file("wide.onnx"), &inputs);
        assert_eq!(found.dtype(), DType::F32, "{network}");
        let (found, expected) = (
            found.to_f32_vec(),
            run(&runtime, &file("reference.onnx"), &inputs).to_f32_vec(),
        );
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let error = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(error <= TOLERANCE * largest, "{network}: off by {error} of {largest}");
        // there is nothing left to widen
        assert_eq!(widened(&file("wide.onnx"), "wide.onnx").unwrap(), None, "{network}");
    }
}

#[test]
fn external_data_stays_where_it_is() {
    let runtime = OnnxRuntime::load().expect("ONNX Runtime is installed");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let half = halved(&nano("vae_decoder"));
    let (model, data) = with_external_data(&half, "model.onnx_data");
    fs::write(file("model.onnx"), model).unwrap();
    fs::write(file("model.onnx_data"), data).unwrap();
    fs::write(file("reference.onnx"), rewidened(&half)).unwrap();
    let wide = widened(&file("model.onnx"), "model.onnx")
        .unwrap()
        .expect("it computes in half precision");
    fs::write(file("wide.onnx"), wide).unwrap();
    let inputs = inputs("vae_decoder");
    let found = run(&runtime, &file("wide.onnx"), &inputs).to_f32_vec();
    assert_eq!(found, run(&runtime, &file("reference.onnx"), &inputs).to_f32_vec());
}

#[test]
fn a_network_in_f32_has_no_other_form() {
    for network in ["text_encoder", "vae_decoder", "vae_encoder", "unet"] {
        assert_eq!(
            widened(&Path::new(NANO).join(network).join("model.onnx"), "model.onnx").unwrap(),
            None
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.onnx");
    fs::write(&broken, &halved(&nano("vae_decoder"))[..5000]).unwrap();
    assert!(widened(&broken, "model.onnx").is_err());
}
