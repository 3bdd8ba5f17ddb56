//! Raised graphs, exported again, compute in ONNX Runtime what torch computed. Skipped where ONNX Runtime is missing.

#[path = "support/npz.rs"]
mod npz;
#[path = "support/routes.rs"]
mod routes;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fisec_ir::Graph;
use fisec_onnx::{Bindings, ExportOptions, Location, SinkError, WeightSink, export};
use fisec_runtime::ort::{OnnxRuntime, find_library};
use fisec_tensor::{Constant, HostTensor};
use routes::{ROUTES, data, raised, relative_error};

fn onnx_runtime() -> Option<OnnxRuntime> {
    if find_library().is_none() {
        eprintln!("skipped: no ONNX Runtime library; run `cargo xtask setup` or set ORT_DYLIB_PATH");
        return None;
    }
    Some(OnnxRuntime::load().expect("the library loads"))
}

/// All weights one after another, 64-byte aligned.
#[derive(Default)]
struct OneFile(Vec<u8>);

impl WeightSink for OneFile {
    fn place(&mut self, _: &str, data: &Constant) -> Result<Location, SinkError> {
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        let (offset, values) = (self.0.len() as u64, data.materialize());
        self.0.extend_from_slice(values.data());
        Ok(Location {
            file: "weights.bin".into(),
            offset,
            length: values.data().len() as u64,
        })
    }
}

fn exported(graph: &Graph, options: &ExportOptions, folder: &Path) {
    let mut weights = OneFile::default();
    let model = export(graph, options, &mut weights).expect("exports");
    fs::write(folder.join("model.onnx"), model).expect("model");
    fs::write(folder.join("weights.bin"), weights.0).expect("weights");
}

type Tensors = BTreeMap<String, HostTensor>;

fn run(runtime: &OnnxRuntime, model: &Path, inputs: &Tensors) -> Tensors {
    let mut session = runtime.session(model, 1).expect("a session");
    let outputs: Vec<String> = session.outputs().iter().map(|outlet| outlet.name.clone()).collect();
    let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let inputs: Vec<(&str, &HostTensor)> = inputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let values = session.run(&inputs, &names).expect("runs");
    outputs.into_iter().zip(values).collect()
}

fn assert_close(found: &Tensors, expected: &Tensors, tolerance: f64, what: &str) {
    for (name, expected) in expected {
        let error = relative_error(&found[name].to_f64_vec(), &expected.to_f64_vec());
        assert!(error <= tolerance, "{what} {name}: {error:.1e}");
    }
}

#[test]
fn raised_graphs_run_in_onnx_runtime() {
    let Some(runtime) = onnx_runtime() else { return };
    for route in ROUTES {
        let folder = tempfile::tempdir().expect("folder");
        let graph = route.raised();
        exported(&graph, &ExportOptions::default(), folder.path());
        let (inputs, outputs) = route.recorded(&graph);
        let found = run(&runtime, &folder.path().join("model.onnx"), &inputs);
        assert_close(&found, &outputs, route.tolerance, route.name);
    }
}

/// Deterministic values between -1 and 1.
fn ramp(shape: &[usize], seed: usize) -> HostTensor {
    let count: usize = shape.iter().product();
    let value = |index: usize| ((index * 2_654_435_761 + seed * 40_503) % 2001) as f32 / 1000.0 - 1.0;
    HostTensor::from_f32(shape.to_vec(), (0..count).map(value).collect())
}

#[test]
fn quantised_networks_export_to_what_they_computed() {
    let Some(runtime) = onnx_runtime() else { return };
    let unet: Tensors = [
        ("sample".to_owned(), ramp(&[2, 4, 16, 16], 1)),
        ("timestep".to_owned(), HostTensor::from_f32(vec![], vec![481.0])),
        ("encoder_hidden_states".to_owned(), ramp(&[2, 77, 24], 2)),
    ]
    .into();
    let ids: Vec<i64> = (0..77).map(|index| 1 + index * 3 % 40).collect();
    let networks = [
        ("unet", Bindings::unet(2, 16, 16, 77), unet),
        (
            "vae_decoder",
            Bindings::vae(1, 4, 16, 16),
            [("latent_sample".to_owned(), ramp(&[1, 4, 16, 16], 3))].into(),
        ),
        (
            "vae_encoder",
            Bindings::vae(1, 3, 64, 64),
            [("sample".to_owned(), ramp(&[1, 3, 64, 64], 4))].into(),
        ),
        (
            "text_encoder",
            Bindings::text_encoder(1, 77),
            [("input_ids".to_owned(), HostTensor::from_i64(vec![1, 77], ids))].into(),
        ),
    ];
    for (name, bindings, inputs) in networks {
        let original = data().join("nano-pipeline").join(name).join("model.onnx");
        let folder = tempfile::tempdir().expect("folder");
        exported(&raised(&original, &bindings), &ExportOptions::default(), folder.path());
        let expected = run(&runtime, &original, &inputs);
        let found = run(&runtime, &folder.path().join("model.onnx"), &inputs);
        assert_close(&found, &expected, 1e-4, name); // f32 sums in another order
    }
}

#[test]
fn maps_at_ports_can_be_channels_last() {
    let Some(runtime) = onnx_runtime() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let original = data().join("nano-pipeline/vae_decoder/model.onnx");
    let graph = raised(&original, &Bindings::vae(1, 4, 16, 16));
    let options = ExportOptions {
        maps_nhwc_at_ports: true,
    };
    exported(&graph, &options, folder.path());
    let latent = ramp(&[1, 4, 16, 16], 5);
    let turned = transposed(&latent, [0, 2, 3, 1]);
    let expected = run(&runtime, &original, &[("latent_sample".to_owned(), latent)].into());
    let found = run(
        &runtime,
        &folder.path().join("model.onnx"),
        &[("latent_sample".to_owned(), turned)].into(),
    );
    let expected = expected
        .iter()
        .map(|(name, map)| (name.clone(), transposed(map, [0, 2, 3, 1])));
    assert_close(&found, &expected.collect(), 1e-4, "channels last");
}

fn transposed(map: &HostTensor, order: [usize; 4]) -> HostTensor {
    let permuted = fisec_tensor::Transform::Permute(order.to_vec());
    Constant::from(map.clone()).transformed(permuted).materialize()
}
