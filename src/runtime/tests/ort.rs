//! ONNX Runtime sessions on the tiny pipeline of tests/data. Needs the library (`cargo xtask setup`).

use std::path::{Path, PathBuf};

use fisec_runtime::RuntimeError;
use fisec_runtime::ort::{OnnxRuntime, Provider, Session};
use fisec_tensor::{DType, HostTensor};

fn nano_unet() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/nano-pipeline/unet/model.onnx")
}

fn open() -> Session {
    let runtime = OnnxRuntime::load().expect("ONNX Runtime is installed");
    runtime.session(&nano_unet(), 2).unwrap()
}

fn ramp(shape: &[usize], scale: f32) -> HostTensor {
    let count: usize = shape.iter().product();
    let values = (0..count)
        .map(|index| ((index * 37 % 101) as f32 - 50.0) * scale)
        .collect();
    HostTensor::from_f32(shape, values)
}

fn input_for(session: &Session, name: &str) -> HostTensor {
    let outlet = session.inputs().iter().find(|outlet| outlet.name == name).unwrap();
    let sizes = match name {
        "sample" => vec![2, 4, 16, 16],
        "timestep" => vec![1; outlet.dims.len()],
        _ => vec![2, 77, outlet.dims[2].unwrap()],
    };
    ramp(&sizes, 0.02).cast(outlet.dtype)
}

#[test]
fn runs_a_unet_and_reports_its_interface() {
    let mut session = open();
    let names: Vec<String> = session.inputs().iter().map(|outlet| outlet.name.clone()).collect();
    assert_eq!(names, ["sample", "timestep", "encoder_hidden_states"]);
    let output = session.outputs()[0].name.clone();
    let tensors: Vec<HostTensor> = names.iter().map(|name| input_for(&session, name)).collect();
    let inputs: Vec<(&str, &HostTensor)> = names.iter().map(String::as_str).zip(&tensors).collect();

    let first = session.run(&inputs, &[&output]).unwrap();
    let again = session.run(&inputs, &[&output]).unwrap();

    assert_eq!(first[0].shape().dims(), [2, 4, 16, 16]);
    assert_eq!(first[0].dtype(), DType::F32);
    assert_eq!(first, again);
    let values = first[0].as_f32().unwrap();
    assert!(values.iter().all(|value| value.is_finite()));
    assert!(values.iter().any(|&value| value != values[0]));
}

#[test]
fn unaligned_bytes_give_the_same_result() {
    let mut session = open();
    let output = session.outputs()[0].name.clone();
    let names: Vec<String> = session.inputs().iter().map(|outlet| outlet.name.clone()).collect();
    let tensors: Vec<HostTensor> = names.iter().map(|name| input_for(&session, name)).collect();
    let shifted: Vec<HostTensor> = tensors.iter().map(shifted_by_one_byte).collect();
    let pair = |tensors: &[HostTensor], session: &mut Session| {
        let inputs: Vec<(&str, &HostTensor)> = names.iter().map(String::as_str).zip(tensors).collect();
        session.run(&inputs, &[&output]).unwrap()
    };
    assert_eq!(pair(&tensors, &mut session), pair(&shifted, &mut session));
}

fn shifted_by_one_byte(tensor: &HostTensor) -> HostTensor {
    let mut bytes = vec![0u8];
    bytes.extend_from_slice(tensor.data());
    let data = bytes::Bytes::from(bytes).slice(1..);
    HostTensor::new(tensor.dtype(), tensor.shape().clone(), data).unwrap()
}

#[test]
fn a_missing_model_and_a_wrong_output_are_errors() {
    let runtime = OnnxRuntime::load().unwrap();
    let missing = runtime.session(Path::new("/nowhere/model.onnx"), 1).unwrap_err();
    assert!(matches!(missing, RuntimeError::OnnxRuntime { .. }));
    assert!(missing.to_string().contains("/nowhere/model.onnx"));

    let mut session = open();
    let sample = input_for(&session, "sample");
    let wrong = session.run(&[("sample", &sample)], &["no such output"]).unwrap_err();
    assert!(matches!(wrong, RuntimeError::OnnxRuntime { .. }));
}

/// Passes with and without a GPU: where a provider is missing the CPU computes the same, and the session says why.
#[test]
fn a_provider_that_cannot_be_used_gives_way_to_the_cpu() {
    let runtime = OnnxRuntime::load().unwrap();
    let reference = run_on(&mut runtime.session(&nano_unet(), 2).unwrap());
    for provider in [Provider::Cuda, Provider::TensorRt] {
        let mut session = runtime
            .clone()
            .with_provider(provider)
            .session(&nano_unet(), 2)
            .unwrap();
        assert_eq!(session.fallback().is_none(), session.provider() == provider);
        let result = run_on(&mut session);
        if session.provider() == Provider::Cpu {
            let reason = session.fallback().unwrap();
            assert!(reason.contains(provider.name()), "{reason}");
            assert_eq!(result, reference);
        }
    }
}

fn run_on(session: &mut Session) -> Vec<HostTensor> {
    let names: Vec<String> = session.inputs().iter().map(|outlet| outlet.name.clone()).collect();
    let tensors: Vec<HostTensor> = names.iter().map(|name| input_for(session, name)).collect();
    let inputs: Vec<(&str, &HostTensor)> = names.iter().map(String::as_str).zip(&tensors).collect();
    let output = session.outputs()[0].name.clone();
    session.run(&inputs, &[&output]).unwrap()
}
