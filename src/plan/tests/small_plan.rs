//! A small plan with every table in use.

use std::collections::BTreeMap;
use std::path::Path;

use fisec_plan::*;
use fisec_tensor::{DType, HostTensor, Shape, TileSize};

/// Writes a 4×4 plan with one sparse convolution and one island to `target`.
pub fn write(target: &Path) -> Plan {
    let mut writer = BundleWriter::create(target).unwrap();
    let plan = plan(&mut writer);
    writer.finish(plan).unwrap()
}

/// Fills `writer` and returns the plan that fits it.
pub fn plan(writer: &mut BundleWriter) -> Plan {
    let weight = HostTensor::from_f32([3, 3, 4, 4], (0..144).map(|i| i as f32).collect());
    let weight = writer.add_weight("conv.weight", &weight).unwrap();
    let bias = HostTensor::from_f32([4], vec![0.5; 4]);
    let bias = writer.add_weight("conv.bias", &bias).unwrap();
    writer.add_file("islands/dense.onnx", b"not read here").unwrap();
    writer.add_file("graph.fir", b"# text\n").unwrap();
    Plan {
        format: FORMAT,
        fisec: "0.1.0".into(),
        target: "cpu".into(),
        model: "small".into(),
        model_hash: "00".into(),
        batch: 2,
        latent: [4, 4, 4],
        context: [77, 8],
        options: CompileOptions {
            keys: Keys::Full,
            norm: Norm::Frozen,
            sparse_levels: None,
            cache_dtype: DType::F16,
            control_levels: Some(0),
            samples: Samples::Each,
            remainder: fisec_plan::Remainder::Native,
            halos: Halos::Recorded,
        },
        levels: vec![Level {
            height: 4,
            width: 4,
            around: None,
            sparse: true,
            reason: "pays up to 40 %".into(),
        }],
        slots: vec![Slot {
            name: "conv_in".into(),
            kind: SlotKind::Halo { level: 0, radius: 1 },
            dtype: DType::F16,
            shape: [2, 4, 4, 4].into(),
            bytes: 256,
        }],
        weights: vec![],
        islands: vec![Island {
            name: "dense".into(),
            file: "islands/dense.onnx".into(),
            inputs: vec![port("sample")],
            outputs: vec![port("hidden"), port("prediction")],
            nodes: vec!["/conv_in".into()],
            macs: 1000,
        }],
        programs: Programs {
            record: dense(true),
            guide: dense(false),
            edit: Some(sparse(weight, bias)),
        },
        networks: Default::default(),
        prompt: None,
        break_even: 0.4,
        modules: Default::default(),
        pipeline: None,
        files: BTreeMap::new(),
    }
}

fn port(name: &str) -> Port {
    Port {
        name: name.into(),
        dtype: DType::F32,
        shape: [2, 4, 4, 4].into(),
    }
}

fn value(extent: Extent) -> Value {
    Value {
        dtype: DType::F32,
        shape: Shape::from([2, 4, 4, 4]),
        extent,
        stage: Stage::Step,
    }
}

fn node(name: &str, kernel: Kernel) -> Node {
    Node {
        name: name.into(),
        kernel,
        stage: Stage::Step,
        provenance: Provenance {
            origin: vec!["/conv_in".into()],
            pass: "lower".into(),
            reason: "test".into(),
        },
        macs_dense: 1000,
        macs_predicted: [50, 150, 300],
    }
}

fn program(values: Vec<Value>, prediction: u32, nodes: Vec<Node>) -> Program {
    Program {
        values,
        inputs: BTreeMap::from([("sample".into(), ValueId(0))]),
        outputs: BTreeMap::from([("prediction".into(), ValueId(prediction))]),
        nodes,
    }
}

fn dense(records: bool) -> Program {
    let call = IslandCall {
        island: IslandId(0),
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(1), ValueId(2)],
    };
    let mut nodes = vec![node("dense", Kernel::Island(call))];
    if records {
        nodes.push(node(
            "record conv_in",
            Kernel::WriteSlot {
                input: ValueId(1),
                slot: SlotId(0),
            },
        ));
    }
    program(vec![value(Extent::Full); 3], 2, nodes)
}

fn sparse(weight: WeightId, bias: WeightId) -> Program {
    let conv = ConvKernel {
        sources: vec![ConvSource {
            value: ValueId(1),
            outside: Some(SlotId(0)),
        }],
        input_size: [4, 4],
        upsample: None,
        output_size: [4, 4],
        weight,
        by_parity: None,
        bias: Some(bias),
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        coefficients: None,
        silu: true,
        vector: None,
        residual: None,
        output: ValueId(2),
        candidates: vec![TileCandidate {
            tile: TileSize::PIXEL,
            bytes: 288.0,
            macs: 288.0,
            cost: TileCost {
                t0: 1.0,
                beta: 0.1,
                theta: 10.0 / 3.0,
            },
        }],
    };
    let active = Extent::Active(0);
    let values = vec![value(Extent::Full), value(active), value(active), value(Extent::Full)];
    let gather = Kernel::Gather {
        input: ValueId(0),
        output: ValueId(1),
    };
    let scatter = Kernel::Scatter {
        rows: ValueId(2),
        base: None,
        output: ValueId(3),
    };
    let nodes = vec![
        node("gather", gather),
        node("conv", Kernel::Conv(conv)),
        node("scatter", scatter),
    ];
    program(values, 3, nodes)
}
