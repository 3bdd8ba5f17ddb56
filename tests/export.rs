//! Raised graphs, exported again, compute in ONNX Runtime what torch computed. Skipped where ONNX Runtime is missing.

#[path = "support/npz.rs"]
mod npz;
#[path = "support/routes.rs"]
mod routes;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fisec_ir::{
    Activation, Concat, Control, Conv, Graph, GroupNorm, Linear, Op, Operand, Origin, TimestepEmbedding, ValueType,
    WeightInfo,
};
use fisec_onnx::{Bindings, Location, Ports, SinkError, WeightSink, export};
use fisec_oracle::{Oracle, Tensor};
use fisec_runtime::ort::{OnnxRuntime, find_library};
use fisec_tensor::{Constant, DType, HostTensor};
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

fn exported(graph: &Graph, ports: Ports, folder: &Path) {
    let mut weights = OneFile::default();
    let model = export(graph, ports, &mut weights).expect("exports");
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
        exported(&graph, Ports::Plain, folder.path());
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
        exported(&raised(&original, &bindings), Ports::Plain, folder.path());
        let expected = run(&runtime, &original, &inputs);
        let found = run(&runtime, &folder.path().join("model.onnx"), &inputs);
        assert_close(&found, &expected, 1e-4, name); // f32 sums in another order
    }
}

/// Adds a weight of deterministic values.
fn weight(graph: &mut Graph, name: &str, shape: &[usize]) -> Operand {
    let data = ramp(shape, name.len() + 7 * graph.weights().len()).into();
    let name = name.to_owned();
    graph.add_weight(WeightInfo { name, data }).into()
}

/// A graph with every operator of dense programs, each with everything that fusion can put into it.
fn every_operator() -> Graph {
    let mut graph = Graph::new("every");
    let f32s = |shape: &[usize]| ValueType::full(DType::F32, shape);
    let named = |name: &str| Origin::imported(name);
    let input = |graph: &mut Graph, name: &str, shape: &[usize]| {
        graph.add_value(Op::Input(name.into()), vec![], f32s(shape), named(name))
    };
    let (map, low) = (
        input(&mut graph, "map", &[2, 8, 6, 10]),
        input(&mut graph, "low", &[2, 8, 3, 5]),
    );
    let (text, time) = (input(&mut graph, "text", &[2, 7, 12]), input(&mut graph, "time", &[]));
    let mut add = |op: Op, operands: Vec<Operand>, shape: &[usize]| {
        let label = op.name().to_owned();
        graph.add_value(op, operands, f32s(shape), named(&label))
    };
    let embedding = TimestepEmbedding {
        rows: 1,
        width: 8,
        flip_sin_to_cos: true,
        shift: 0.0,
        max_period: 10_000.0,
    };
    let time = add(Op::TimestepEmbedding(embedding), vec![time.into()], &[1, 8]);
    let time = add(Op::Activate(Activation::Silu), vec![time.into()], &[1, 8]);
    let time = add(Op::Repeat { images: 2 }, vec![time.into()], &[2, 8]);
    let stats = add(Op::GroupNormStats { groups: 4 }, vec![map.into()], &[2, 4, 2]);
    let affine = [weight(&mut graph, "gamma", &[8]), weight(&mut graph, "beta", &[8])];
    let (kernel, bias) = (
        weight(&mut graph, "kernel", &[8, 16, 3, 3]),
        weight(&mut graph, "bias", &[8]),
    );
    let wide = weight(&mut graph, "wide coefficients", &[2, 2, 16]);
    let gated = [
        weight(&mut graph, "gated", &[8, 32]),
        weight(&mut graph, "gated bias", &[32]),
    ];
    let [q, k, v] = ["q", "k", "v"].map(|name| weight(&mut graph, name, &[if name == "q" { 8 } else { 12 }, 16]));
    let back = weight(&mut graph, "back", &[16, 8]);
    let mut add = |op: Op, operands: Vec<Operand>, shape: &[usize]| {
        let label = op.name().to_owned();
        graph.add_value(op, operands, f32s(shape), named(&label))
    };
    let coefficients = add(
        Op::NormCoefficients {
            groups: 4,
            epsilon: 1e-5,
        },
        vec![stats.into(), affine[0], affine[1]],
        &[2, 2, 8],
    );
    let silu = Activation::Silu;
    let scaled = add(
        Op::Affine { activation: silu },
        vec![map.into(), coefficients.into()],
        &[2, 8, 6, 10],
    );
    let norm = GroupNorm {
        groups: 2,
        epsilon: 1e-6,
        activation: silu,
    };
    let normed = add(
        Op::GroupNorm(norm),
        vec![scaled.into(), affine[0], affine[1]],
        &[2, 8, 6, 10],
    );
    let fused = Conv {
        upsample: Some([6, 10]),
        concat: true,
        affine: true,
        activation: silu,
        vector: true,
        residual: true,
        ..Conv::same(3, 1)
    };
    let operands = vec![low.into(), low.into(), kernel, bias, wide, time.into(), normed.into()];
    let map = add(Op::Conv(fused), operands, &[2, 8, 6, 10]);
    let map = add(Op::AddVector, vec![map.into(), time.into()], &[2, 8, 6, 10]);
    let tokens = add(Op::Tokens, vec![map.into()], &[2, 60, 8]);
    let queries = Linear {
        layer_norm: Some(1e-5),
        ..Linear::plain(false)
    };
    let q = add(
        Op::Linear(queries),
        vec![tokens.into(), q, affine[0], affine[1]],
        &[2, 60, 16],
    );
    let [k, v] = [k, v].map(|weight| add(Op::Linear(Linear::plain(false)), vec![text.into(), weight], &[2, 7, 16]));
    let attention = Op::Attention {
        heads: 2,
        scale: 0.3,
        control: None,
    };
    let attended = add(attention, vec![q.into(), k.into(), v.into()], &[2, 60, 16]);
    let maps = add(
        Op::AttentionMaps { heads: 2, scale: 0.3 },
        vec![q.into(), k.into()],
        &[2, 60, 7],
    );
    let recorded = add(Op::Input("recorded".into()), vec![], &[2, 60, 7]);
    let [mapper, blend, strength] = [("mapper", vec![7, 7]), ("blend", vec![7]), ("weight", vec![7])]
        .map(|(name, shape)| add(Op::Input(name.into()), vec![], &shape));
    let controlled = Op::Attention {
        heads: 2,
        scale: 0.3,
        control: Some(Control),
    };
    let tables = [recorded, mapper, blend, strength].map(Operand::from);
    let operands = [attended.into(), k.into(), v.into()].into_iter().chain(tables);
    let attended = add(controlled, operands.collect(), &[2, 60, 16]);
    let residual = Linear {
        residual: true,
        ..Linear::plain(false)
    };
    let tokens = add(
        Op::Linear(residual),
        vec![attended.into(), back, tokens.into()],
        &[2, 60, 8],
    );
    let tokens = add(
        Op::LayerNorm { epsilon: 1e-5 },
        vec![tokens.into(), affine[0], affine[1]],
        &[2, 60, 8],
    );
    let whole = Linear {
        geglu: true,
        ..Linear::plain(true)
    };
    let inside = add(Op::Linear(whole), vec![tokens.into(), gated[0], gated[1]], &[2, 60, 16]);
    let product = add(
        Op::Linear(Linear::plain(true)),
        vec![tokens.into(), gated[0], gated[1]],
        &[2, 60, 32],
    );
    let apart = add(Op::Geglu, vec![product.into()], &[2, 60, 16]);
    let both = add(Op::Add, vec![inside.into(), apart.into()], &[2, 60, 16]);
    let split = add(Op::Geglu, vec![both.into()], &[2, 60, 8]);
    let map = add(Op::Spatial { height: 6, width: 10 }, vec![split.into()], &[2, 8, 6, 10]);
    let large = add(
        Op::Upsample { height: 12, width: 20 },
        vec![map.into()],
        &[2, 8, 12, 20],
    );
    let odd = add(Op::Upsample { height: 5, width: 9 }, vec![low.into()], &[2, 8, 5, 9]);
    let doubled = add(
        Op::Concat(Concat { axis: 1 }),
        vec![large.into(), large.into()],
        &[2, 16, 12, 20],
    );
    let outputs = [("large", doubled), ("odd", odd), ("maps", maps), ("stats", stats)];
    for (name, value) in outputs {
        graph.add(Op::Output(name.into()), vec![value.into()], vec![], named(name));
    }
    graph
}

#[test]
fn every_operator_means_in_onnx_runtime_what_it_means_in_the_oracle() {
    let Some(runtime) = onnx_runtime() else { return };
    let (folder, graph) = (tempfile::tempdir().expect("folder"), every_operator());
    exported(&graph, Ports::Plain, folder.path());
    let inputs: Tensors = [
        ("map".to_owned(), ramp(&[2, 8, 6, 10], 1)),
        ("low".to_owned(), ramp(&[2, 8, 3, 5], 2)),
        ("text".to_owned(), ramp(&[2, 7, 12], 3)),
        ("time".to_owned(), HostTensor::from_f32(vec![], vec![321.0])),
        ("recorded".to_owned(), ramp(&[2, 60, 7], 4)),
        ("mapper".to_owned(), ramp(&[7, 7], 5)),
        ("blend".to_owned(), ramp(&[7], 6)),
        ("weight".to_owned(), ramp(&[7], 7)),
    ]
    .into();
    let tensors = inputs
        .iter()
        .map(|(name, value)| (name.clone(), Tensor::from_host(value)));
    let expected = Oracle::new(&graph).inputs(tensors).run().expect("the oracle runs");
    let expected = expected
        .outputs
        .iter()
        .map(|(name, value)| (name.clone(), value.to_host()));
    let found = run(&runtime, &folder.path().join("model.onnx"), &inputs);
    assert_close(&found, &expected.collect(), 1e-4, "every operator"); // f32 against f64
}

#[test]
fn maps_at_ports_can_be_channels_last() {
    let Some(runtime) = onnx_runtime() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let original = data().join("nano-pipeline/vae_decoder/model.onnx");
    let graph = raised(&original, &Bindings::vae(1, 4, 16, 16));
    exported(&graph, Ports::ChannelsLast, folder.path());
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

/// Four channels of the latent and three of the image are padded to eight.
#[test]
fn ports_can_be_rows_of_a_device() {
    let Some(runtime) = onnx_runtime() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let original = data().join("nano-pipeline/vae_decoder/model.onnx");
    let graph = raised(&original, &Bindings::vae(1, 4, 16, 16));
    exported(&graph, Ports::DeviceRows { vector: 8 }, folder.path());
    let latent = ramp(&[1, 4, 16, 16], 5).cast(DType::F16).cast(DType::F32);
    let rows = widened(&transposed(&latent, [0, 2, 3, 1]), 9.0).cast(DType::F16);
    let expected = run(&runtime, &original, &[("latent_sample".to_owned(), latent)].into());
    let found = run(
        &runtime,
        &folder.path().join("model.onnx"),
        &[("latent_sample".to_owned(), rows)].into(),
    );
    let expected = expected
        .iter()
        .map(|(name, map)| (name.clone(), widened(&transposed(map, [0, 2, 3, 1]), 0.0)));
    assert!(found.values().all(|value| value.dtype() == DType::F16));
    let found = found.into_iter().map(|(name, value)| (name, value.cast(DType::F32)));
    // the output is rounded to halves
    assert_close(&found.collect(), &expected.collect(), 1e-3, "device rows");
}

/// Rows padded with `filling` to a multiple of eight channels.
fn widened(rows: &HostTensor, filling: f32) -> HostTensor {
    let mut dims = rows.shape().to_vec();
    let channels = dims.pop().expect("channels");
    dims.push(channels.next_multiple_of(8));
    let values = rows.to_f32_vec();
    let padded = values.chunks(channels).flat_map(|row| {
        let padding = std::iter::repeat_n(filling, channels.next_multiple_of(8) - channels);
        row.iter().copied().chain(padding).collect::<Vec<_>>()
    });
    HostTensor::from_f32(dims, padded.collect())
}

fn transposed(map: &HostTensor, order: [usize; 4]) -> HostTensor {
    let permuted = fisec_tensor::Transform::Permute(order.to_vec());
    Constant::from(map.clone()).transformed(permuted).materialize()
}

#[test]
fn operators_of_old_sets_are_written_as_later_sets_have_them() {
    let Some(runtime) = onnx_runtime() else { return };
    let mut graph = Graph::new("old");
    let x_type = ValueType::full(DType::F32, [2, 3, 1, 4]);
    let x = graph.add_value(Op::Input("x".into()), vec![], x_type.clone(), Origin::default());
    let cases: [(&str, &str, Vec<i64>, &[usize]); 4] = [
        ("Squeeze", "axes", vec![2], &[2, 3, 4]),
        ("Unsqueeze", "axes", vec![0], &[1, 2, 3, 1, 4]),
        ("ReduceSum", "axes", vec![1], &[2, 1, 1, 4]),
        ("Softmax", "", vec![], &[2, 3, 1, 4]),
    ];
    for (op_type, list, values, shape) in cases {
        let attributes = match list {
            "" => Default::default(),
            list => [(list.to_owned(), fisec_ir::Attribute::Ints(values))].into(),
        };
        let op = Op::Onnx(fisec_ir::OnnxOp {
            domain: String::new(),
            op_type: op_type.into(),
            opset: 11,
            attributes,
        });
        let ty = ValueType::full(DType::F32, shape);
        let y = graph.add_value(op, vec![x.into()], ty, Origin::default());
        graph.add(Op::Output(op_type.into()), vec![y.into()], vec![], Origin::default());
    }
    let folder = tempfile::tempdir().expect("folder");
    exported(&graph, Ports::Plain, folder.path());
    let values = ramp(&x_type.shape, 5);
    let found = run(
        &runtime,
        &folder.path().join("model.onnx"),
        &[("x".to_owned(), values.clone())].into(),
    );
    assert_eq!(found["Squeeze"].shape()[..], [2, 3, 4]);
    assert_eq!(found["Unsqueeze"].to_f32_vec(), values.to_f32_vec());
    let x = values.to_f64_vec();
    let sums: Vec<f64> = (0..8)
        .map(|at| (0..3).map(|row| x[at / 4 * 12 + row * 4 + at % 4]).sum())
        .collect();
    assert!(relative_error(&found["ReduceSum"].to_f64_vec(), &sums) < 1e-6);
    // before set 13 a softmax is over everything behind the images
    let total = |image: usize| -> f64 { x[image * 12..][..12].iter().map(|x| x.exp()).sum() };
    let weights: Vec<f64> = x.iter().enumerate().map(|(at, x)| x.exp() / total(at / 12)).collect();
    assert!(relative_error(&found["Softmax"].to_f64_vec(), &weights) < 1e-6);
}
