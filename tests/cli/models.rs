//! Models as people have them: sizes, inputs, outputs and operators that are not the usual ones.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Output;

use fisec_ir::{Attribute, Graph, NodeId, OnnxOp, Op, Operand, Origin, ValueId, ValueType, WeightInfo};
use fisec_onnx::{Location, Ports, SinkError, WeightSink, export};
use fisec_runtime::ort::OnnxRuntime;
use fisec_tensor::{Constant, DType, HostTensor};
use npyz::WriterBuilder;
use npyz::npz::NpzWriter;

use crate::cases::Case;
use crate::machine::{Machine, assert_fails, json, stderr, stdout};
use crate::unet::{Random, Shape, random_unet};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn compile(machine: &Machine, model: &Path, more: &[&str]) -> Output {
    let target = machine.path("p.plan");
    let mut arguments = vec!["compile", text(model), "--size", "128", "-o", text(&target)];
    arguments.extend(more);
    machine.run(&arguments)
}

fn verify(machine: &Machine, model: &Path, io: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["verify", text(model), "--io", text(io)];
    arguments.extend(more);
    machine.run(&arguments)
}

/// Whether a case compiles and computes what is recorded, through every stage.
#[track_caller]
fn assert_works(case: &str, more: &[&str]) {
    let (machine, case) = (Machine::new(), Case::open(case));
    let compiled = compile(&machine, &case.model(), more);
    assert!(compiled.status.success(), "{}", stderr(&compiled));
    let verified = verify(&machine, &case.model(), &case.io(), &["--json"]);
    let results = json(&verified)["results"].as_array().expect("results").clone();
    let stages: Vec<&str> = results.iter().filter_map(|row| row["through"].as_str()).collect();
    let mut distinct = stages.clone();
    distinct.dedup();
    assert_eq!(
        distinct,
        ["ort", "import", "raised", "plan", "oracle"],
        "{}",
        stderr(&verified)
    );
    let of_plan: Vec<&serde_json::Value> = results.iter().filter(|row| row["through"] == "plan").collect();
    assert!(
        of_plan.len() == 2
            && of_plan.iter().all(|row| row["output"] == "out_sample")
            && of_plan[1]["program"] == "edit",
        "{results:?}"
    );
    assert!(
        results.iter().all(|row| row["relative"].as_f64() < Some(1e-4)),
        "{results:?}"
    );
}

#[test]
fn the_prediction_is_told_by_its_shape() {
    assert_works("prediction_not_first_output", &[]);
    let (machine, case) = (Machine::new(), Case::open("prediction_not_first_output"));
    let named = compile(&machine, &case.model(), &["--prediction", "features"]);
    assert_fails(&named, 1, "`features` f32[2,8,16,16]");
    assert_fails(
        &compile(&machine, &case.model(), &["--prediction", "none"]),
        1,
        "`out_sample` f32[2,4,16,16]",
    );
}

#[test]
fn channels_follow_from_the_weights() {
    assert_works("optimum_num_channels", &[]);
    assert_works("optimum_num_channels", &["--bind", "num_channels=4"]);
    let (machine, case) = (Machine::new(), Case::open("optimum_num_channels"));
    assert_fails(
        &compile(&machine, &case.model(), &["--bind", "colours=4"]),
        1,
        "num_channels",
    );
    assert_fails(
        &compile(&machine, &case.model(), &["--bind", "num_channels"]),
        2,
        "channels=4",
    );
    // verify binds as compile does
    let wrong = verify(
        &machine,
        &case.model(),
        &case.io(),
        &["--through", "raised", "--bind", "num_channels=5"],
    );
    assert_fails(&wrong, 1, "cannot infer the shape of `Conv`");
}

#[test]
fn inputs_that_nothing_feeds_are_refused_with_what_they_are_for() {
    for (name, parts) in [
        ("lcm_timestep_cond", vec!["`timestep_cond`", "latent consistency"]),
        (
            "sdxl_dynamic",
            vec!["`text_embeds`", "`time_ids`", "Stable Diffusion XL"],
        ),
        (
            "inpaint_9_channels",
            vec!["`sample` f32[2,9,16,16]", "`out_sample` f32[2,4,16,16]", "inpainting"],
        ),
    ] {
        let (machine, case) = (Machine::new(), Case::open(name));
        let compiled = compile(&machine, &case.model(), &[]);
        let verified = verify(&machine, &case.model(), &case.io(), &["--through", "plan"]);
        for output in [&compiled, &verified] {
            parts.iter().for_each(|part| assert_fails(output, 1, part));
        }
        assert!(!machine.path("p.plan").exists());
        for stage in ["import", "raised", "oracle"] {
            let computed = verify(&machine, &case.model(), &case.io(), &["--through", stage]);
            assert!(computed.status.success(), "{name} {stage}: {}", stderr(&computed));
        }
    }
}

#[test]
fn a_model_of_one_image_is_told_apart() {
    let (machine, case) = (Machine::new(), Case::open("batch_1_static"));
    let refused = compile(&machine, &case.model(), &[]);
    assert_fails(&refused, 1, "dynamic batch axis or for a batch of 2");
    assert_fails(&refused, 1, "`--batch 1` and run without guidance, `--guidance 1`");
    assert_works("batch_1_static", &["--batch", "1"]);
}

#[test]
fn the_newest_text_encoders_are_understood() {
    let (machine, case) = (Machine::new(), Case::open("text_encoder_guarded"));
    let verified = verify(&machine, &case.model(), &case.io(), &["--json"]);
    let results = json(&verified)["results"].as_array().expect("results").clone();
    let rows = results
        .iter()
        .map(|row| (row["through"].as_str(), row["output"].as_str()));
    let stages = ["ort", "import", "raised", "oracle"].into_iter();
    let expected =
        stages.flat_map(|stage| ["last_hidden_state", "pooler_output"].map(|name| (Some(stage), Some(name))));
    assert!(rows.eq(expected), "{results:?}");
    assert!(
        results.iter().all(|row| row["relative"].as_f64() < Some(1e-4)),
        "{results:?}"
    );
}

const SHAPE: [usize; 4] = [2, 8, 16, 16];

fn map_type() -> ValueType {
    ValueType::full(DType::F32, SHAPE)
}

/// A small U-Net whose first map goes through `change`, as an ONNX file with ONNX Runtime's outputs.
struct Changed {
    machine: Machine,
    model: PathBuf,
    io: PathBuf,
}

impl Changed {
    fn new(change: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Self {
        let machine = Machine::new();
        let mut graph = random_unet(&Shape {
            size: [16, 16],
            channels: vec![8, 16],
            ..Shape::default()
        });
        let is_map = |id: &fisec_ir::NodeId| matches!(graph.op(*id), Op::Conv(_));
        let first = graph.ids().into_iter().find(is_map).expect("a convolution");
        let map = ValueId { node: first, output: 0 };
        assert_eq!(graph.value_type(map).shape[..], SHAPE);
        let readers = graph.users(map);
        let changed = change(&mut graph, map);
        for (reader, position) in readers {
            graph.set_operand(reader, position, changed.into());
        }
        let (model, io) = (machine.path("model.onnx"), machine.path("io.npz"));
        fs::write(&model, written(&graph, &machine.path("weights.bin"))).unwrap();
        Changed { machine, model, io }
    }

    /// Records ONNX Runtime's outputs for random inputs.
    fn record(&self) {
        let mut session = OnnxRuntime::load()
            .expect("ONNX Runtime")
            .session(&self.model, 1)
            .expect("a session");
        let mut random = Random(7);
        let mut inputs: BTreeMap<String, HostTensor> = BTreeMap::new();
        for input in session.inputs() {
            let dims: Vec<usize> = input.dims.iter().map(|dim| dim.expect("fixed")).collect();
            let value = match dims.len() {
                1 => HostTensor::from_f32(dims.clone(), vec![481.0; dims[0]]),
                _ => random.tensor(&dims, 0.0, 1.0),
            };
            inputs.insert(input.name.clone(), value);
        }
        let given: Vec<(&str, &HostTensor)> = inputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let output = session.run(&given, &["prediction"]).expect("runs").remove(0);
        let mut archive = NpzWriter::new(BufWriter::new(File::create(&self.io).unwrap()));
        let arrays = inputs.iter().map(|(name, value)| (format!("in_{name}"), value));
        for (name, value) in arrays.chain([("out_prediction".to_owned(), &output)]) {
            let shape: Vec<u64> = value.shape().iter().map(|&dim| dim as u64).collect();
            let array = archive.array(&name, Default::default()).unwrap();
            let mut array = array.default_dtype().shape(&shape).begin_nd().unwrap();
            array.extend(value.to_f32_vec()).unwrap();
            array.finish().unwrap();
        }
    }

    /// Whether it compiles with `operators` left to ONNX Runtime, and computes what ONNX Runtime computes of the file.
    #[track_caller]
    fn assert_works(&self, operators: &[&str]) {
        let compiled = compile(&self.machine, &self.model, &[]);
        assert!(compiled.status.success(), "{}", stderr(&compiled));
        let printed = stdout(&compiled);
        let opaque = printed
            .lines()
            .find(|line| line.starts_with("opaque"))
            .unwrap_or_default();
        operators
            .iter()
            .for_each(|name| assert!(opaque.contains(name), "{name} in {printed}"));
        self.record();
        let verified = verify(&self.machine, &self.model, &self.io, &["--json"]);
        let results = json(&verified)["results"].as_array().expect("results").clone();
        let stages: Vec<&str> = results.iter().filter_map(|row| row["through"].as_str()).collect();
        assert!(
            stages.starts_with(&["ort", "import", "raised", "plan"]),
            "{}",
            stderr(&verified)
        );
        assert!(
            results.iter().all(|row| row["relative"].as_f64() < Some(1e-4)),
            "{results:?}"
        );
    }
}

/// The graph as an ONNX file that declares no types but those of its inputs and outputs.
fn written(graph: &Graph, weights: &Path) -> Vec<u8> {
    struct Beside(Vec<u8>);
    impl WeightSink for Beside {
        fn place(&mut self, _: &str, data: &Constant) -> Result<Location, SinkError> {
            let (offset, data) = (self.0.len() as u64, data.materialize());
            self.0.extend_from_slice(data.data());
            let length = data.data().len() as u64;
            Ok(Location {
                file: "weights.bin".into(),
                offset,
                length,
            })
        }
    }
    let mut sink = Beside(Vec::new());
    let model = export(graph, Ports::Plain, &mut sink).expect("exports");
    fs::write(weights, sink.0).unwrap();
    model
}

fn operator(
    graph: &mut Graph,
    [domain, op_type]: [&str; 2],
    operands: &[Operand],
    attributes: &[(&str, Attribute)],
    result: ValueType,
) -> ValueId {
    let attributes = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    let op = Op::Onnx(OnnxOp {
        domain: domain.into(),
        op_type: op_type.into(),
        opset: if domain.is_empty() { 17 } else { 1 },
        attributes: attributes.collect(),
    });
    graph.add_value(op, operands.to_vec(), result, Origin::imported(op_type))
}

fn scalar(graph: &mut Graph, value: f32) -> Operand {
    let data = HostTensor::from_f32(vec![], vec![value]).into();
    graph
        .add_weight(WeightInfo {
            name: format!("scalar {value}"),
            data,
        })
        .into()
}

#[test]
fn operators_that_only_onnx_runtime_knows_run_there() {
    let pooled = Changed::new(|graph, map| {
        let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
        let attributes = [("kernel_shape", ints(&[3, 3])), ("pads", ints(&[1, 1, 1, 1]))];
        operator(graph, ["", "AveragePool"], &[map.into()], &attributes, map_type())
    });
    pooled.assert_works(&["AveragePool"]);

    let guarded = Changed::new(|graph, map| {
        let test = operator(
            graph,
            ["", "IsNaN"],
            &[map.into()],
            &[],
            ValueType::full(DType::Bool, SHAPE),
        );
        let zero = scalar(graph, 0.0);
        operator(graph, ["", "Where"], &[test.into(), zero, map.into()], &[], map_type())
    });
    guarded.assert_works(&["IsNaN", "Where"]);

    let contrib = Changed::new(|graph, map| {
        let data = Random(3).tensor(&[8, 8, 1, 1], 0.0, 0.5).into();
        let weight = graph.add_weight(WeightInfo {
            name: "fused".into(),
            data,
        });
        let activation = [("activation", Attribute::String("Relu".into()))];
        operator(
            graph,
            ["com.microsoft", "FusedConv"],
            &[map.into(), weight.into()],
            &activation,
            map_type(),
        )
    });
    contrib.assert_works(&["FusedConv"]);

    let blocked = Changed::new(|graph, map| {
        let domain = "com.microsoft.nchwc";
        let inside = operator(graph, [domain, "ReorderInput"], &[map.into()], &[], map_type());
        let channels = [("channels", Attribute::Int(SHAPE[1] as i64))];
        operator(
            graph,
            [domain, "ReorderOutput"],
            &[inside.into()],
            &channels,
            map_type(),
        )
    });
    blocked.assert_works(&["ReorderInput", "ReorderOutput"]);
}

/// A constant that folding leaves alone is read by the prompt's stage and by the steps.
#[test]
fn constants_that_are_computed_reach_every_stage() {
    let read = Changed::new(|graph, map| {
        let text = |&(id, _): &(NodeId, &str)| graph.node(id).outputs()[0].shape.len() == 3;
        let context = graph.inputs().into_iter().find(text).expect("a text input").0;
        let context = ValueId {
            node: context,
            output: 0,
        };
        let half = scalar(graph, 0.5);
        let one = ValueType::full(DType::F32, Vec::new());
        let constant = operator(graph, ["", "Erf"], &[half], &[], one);
        let readers = graph.users(context);
        let text_type = graph.value_type(context).clone();
        let moved = operator(graph, ["", "Add"], &[context.into(), constant.into()], &[], text_type);
        for (reader, position) in readers {
            graph.set_operand(reader, position, moved.into());
        }
        operator(graph, ["", "Mul"], &[map.into(), constant.into()], &[], map_type())
    });
    read.assert_works(&["Erf"]);
}

/// Rows of a matrix are images here, and a triangle treats each row in its own way.
#[test]
fn images_that_a_triangle_tells_apart_are_computed_each() {
    let cut = Changed::new(|graph, map| {
        let is_row_per_image = |&id: &NodeId| {
            let output = &graph.node(id).outputs()[0];
            output.shape.len() == 2 && output.shape[0] == SHAPE[0] && !matches!(graph.op(id), Op::Input(_))
        };
        let rows = graph.ordered().unwrap().into_iter().find(is_row_per_image);
        let rows = ValueId {
            node: rows.expect("a time embedding"),
            output: 0,
        };
        let readers = graph.users(rows);
        let result = graph.value_type(rows).clone();
        let triangle = operator(
            graph,
            ["", "Trilu"],
            &[rows.into()],
            &[("upper", Attribute::Int(1))],
            result,
        );
        for (reader, position) in readers {
            graph.set_operand(reader, position, triangle.into());
        }
        map
    });
    cut.assert_works(&["Trilu"]);
}

/// Booleans and integers of the prompt's stage that the steps' operators read: the integer is not a float's.
#[test]
fn values_of_every_type_go_from_stage_to_stage() {
    let crossing = Changed::new(|graph, map| {
        let onnx =
            |graph: &mut Graph, op, operands: &[Operand], result| operator(graph, ["", op], operands, &[], result);
        let cast = |graph: &mut Graph, of: ValueId, to: i64, result| {
            operator(graph, ["", "Cast"], &[of.into()], &[("to", Attribute::Int(to))], result)
        };
        let (float, long) = (1, 7);
        let one = |dtype| ValueType::full(dtype, [1, 1, 1]);
        let whole = |dtype| ValueType::full(dtype, SHAPE);
        let text = |&(id, _): &(NodeId, &str)| graph.node(id).outputs()[0].shape.len() == 3;
        let context = graph.inputs().into_iter().find(text).expect("a text input").0;
        let context = ValueId {
            node: context,
            output: 0,
        };
        let mean = onnx(graph, "ReduceMean", &[context.into()], one(DType::F32));
        let zero = scalar(graph, 0.0);
        let flag = onnx(graph, "Greater", &[mean.into(), zero], one(DType::Bool));
        let negated = onnx(graph, "Neg", &[map.into()], map_type());
        let chosen = onnx(graph, "Where", &[flag.into(), map.into(), negated.into()], map_type());
        let [large, two] = [(1 << 24) + 1, 2].map(|value| {
            let data = HostTensor::from_i64(vec![], vec![value]).into();
            let name = format!("integer {value}");
            Operand::from(graph.add_weight(WeightInfo { name, data }))
        });
        let count = cast(graph, mean, long, one(DType::I64));
        let count = onnx(graph, "Add", &[count.into(), large], one(DType::I64));
        let places = cast(graph, map, long, whole(DType::I64));
        let sum = onnx(graph, "Add", &[places.into(), count.into()], whole(DType::I64));
        let parity = onnx(graph, "Mod", &[sum.into(), two], whole(DType::I64));
        let parity = cast(graph, parity, float, map_type());
        onnx(graph, "Add", &[chosen.into(), parity.into()], map_type())
    });
    crossing.assert_works(&["Where", "Mod"]);
}

#[test]
fn shapes_that_depend_on_values_are_refused_with_a_sentence() {
    let found = Changed::new(|graph, map| {
        let places = operator(
            graph,
            ["", "NonZero"],
            &[map.into()],
            &[],
            ValueType::full(DType::I64, [4, 1]),
        );
        let count = operator(
            graph,
            ["", "Size"],
            &[places.into()],
            &[],
            ValueType::full(DType::I64, []),
        );
        let to = [("to", Attribute::Int(1))];
        let count = operator(
            graph,
            ["", "Cast"],
            &[count.into()],
            &to,
            ValueType::full(DType::F32, []),
        );
        operator(graph, ["", "Add"], &[map.into(), count.into()], &[], map_type())
    });
    let output = compile(&found.machine, &found.model, &[]);
    assert_fails(&output, 1, "cannot infer the shape of `NonZero`");
    assert_fails(&output, 1, "depends on the values");
}

#[test]
fn what_onnx_runtime_refuses_is_refused_with_its_reason() {
    let foreign =
        Changed::new(|graph, map| operator(graph, ["somewhere.else", "Mystery"], &[map.into()], &[], map_type()));
    let output = compile(&foreign.machine, &foreign.model, &[]);
    assert_fails(&output, 1, "`Mystery` of domain `somewhere.else`");
    assert_fails(&output, 1, "ONNX Runtime refuses it: ");
}

#[test]
fn without_onnx_runtime_the_compiler_says_what_it_needs() {
    let pooled = Changed::new(|graph, map| {
        let kernel = [("kernel_shape", Attribute::Ints(vec![1, 1]))];
        operator(graph, ["", "AveragePool"], &[map.into()], &kernel, map_type())
    });
    let target = pooled.machine.path("p.plan");
    let mut command = pooled
        .machine
        .command(&["compile", text(&pooled.model), "--size", "128", "-o", text(&target)]);
    let output = command
        .env("ORT_DYLIB_PATH", pooled.machine.path("nowhere.so"))
        .output()
        .unwrap();
    assert_fails(&output, 1, "cannot infer the shape of `AveragePool`");
    assert_fails(&output, 1, "cargo xtask setup");
}

#[test]
fn several_outputs_that_could_be_the_prediction_are_listed() {
    let machine = Machine::new();
    let mut graph = random_unet(&Shape {
        size: [16, 16],
        channels: vec![8, 16],
        ..Shape::default()
    });
    let (output, _) = graph.outputs()[0];
    let prediction = graph.operands(output)[0];
    graph.remove(output);
    let latents = ValueType::full(DType::F32, [2, 4, 16, 16]);
    let shifted = operator(&mut graph, ["", "Add"], &[prediction, prediction], &[], latents);
    for (name, value) in [("first", shifted.into()), ("second", prediction)] {
        graph.add(Op::Output(name.into()), vec![value], vec![], Origin::default());
    }
    let model = machine.path("model.onnx");
    fs::write(&model, written(&graph, &machine.path("weights.bin"))).unwrap();
    let refused = compile(&machine, &model, &[]);
    for part in [
        "ambiguous",
        "`first` f32[2,4,16,16]",
        "`second` f32[2,4,16,16]",
        "--prediction",
    ] {
        assert_fails(&refused, 1, part);
    }
    let chosen = compile(&machine, &model, &["--prediction", "second"]);
    assert!(chosen.status.success(), "{}", stderr(&chosen));
}
