//! Sizes that follow from the graph: every symbol that some operator fixes is bound, the others are named.

#[path = "../../../tests/support/cases.rs"]
mod cases;

use std::fs;
use std::path::PathBuf;

use cases::Case;
use fisec_ir::{Graph, Op};
use fisec_onnx::{Bindings, Import, ImportError, Model, import};
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::tensor_shape_proto::dimension::Value as Size;
use onnx_protobuf::type_proto::Value as Kind;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto,
    ValueInfoProto, attribute_proto, type_proto,
};
use protobuf::{EnumOrUnknown, Message, MessageField};
use tempfile::TempDir;

/// A dimension: a number, a symbol, or nothing.
#[derive(Clone, Copy)]
enum Dim {
    Of(i64),
    Symbol(&'static str),
    Unnamed,
}
use Dim::{Of, Symbol, Unnamed};

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const BOOL: i32 = 9;

fn dimension(dim: Dim) -> Dimension {
    Dimension {
        value: match dim {
            Of(size) => Some(Size::DimValue(size)),
            Symbol(symbol) => Some(Size::DimParam(symbol.into())),
            Unnamed => None,
        },
        ..Dimension::default()
    }
}

fn info(name: &str, dims: &[Dim]) -> ValueInfoProto {
    let mut tensor = type_proto::Tensor {
        elem_type: FLOAT,
        ..type_proto::Tensor::default()
    };
    tensor.shape.mut_or_insert_default().dim = dims.iter().copied().map(dimension).collect();
    let kind = TypeProto {
        value: Some(Kind::TensorType(tensor)),
        ..TypeProto::default()
    };
    ValueInfoProto {
        name: name.into(),
        type_: MessageField::some(kind),
        ..ValueInfoProto::default()
    }
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        name: format!("{op_type} {output}"),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, name: &str, set: impl FnOnce(&mut AttributeProto)) -> NodeProto {
    let mut attribute = AttributeProto {
        name: name.into(),
        ..AttributeProto::default()
    };
    set(&mut attribute);
    node.attribute.push(attribute);
    node
}

fn with_int(node: NodeProto, name: &str, value: i64) -> NodeProto {
    with(node, name, |attribute| {
        attribute.i = value;
        attribute.type_ = EnumOrUnknown::new(attribute_proto::AttributeType::INT);
    })
}

fn with_graph(node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    with(node, name, |attribute| {
        attribute.g = MessageField::some(graph);
        attribute.type_ = EnumOrUnknown::new(attribute_proto::AttributeType::GRAPH);
    })
}

fn tensor(name: &str, data_type: i32, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type,
        dims: dims.to_vec(),
        raw_data: bytes,
        ..TensorProto::default()
    }
}

/// Zeros.
fn weight(name: &str, dims: &[i64]) -> TensorProto {
    let elements: i64 = dims.iter().product();
    tensor(name, FLOAT, dims, vec![0; 4 * elements as usize])
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: &[NodeProto]) -> FunctionProto {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: owned(inputs),
        output: owned(outputs),
        node: nodes.to_vec(),
        ..FunctionProto::default()
    }
}

fn call(name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        domain: "local".into(),
        ..node(name, inputs, output)
    }
}

#[test]
fn calls_of_functions_become_their_nodes() {
    let mut alpha = node("LeakyRelu", &["i"], "o");
    alpha.attribute = vec![AttributeProto {
        name: "alpha".into(),
        ref_attr_name: "slope".into(),
        type_: EnumOrUnknown::new(attribute_proto::AttributeType::FLOAT),
        ..AttributeProto::default()
    }];
    let twice = [node("Relu", &["i"], "h"), call("Leak", &["h"], "o")];
    let functions = [
        function("Leak", &["i"], &["o"], &[alpha]),
        function("Twice", &["i"], &["o"], &twice),
    ];
    let sloped = with(call("Leak", &["b"], "y"), "slope", |attribute| {
        attribute.f = 0.25;
        attribute.type_ = EnumOrUnknown::new(attribute_proto::AttributeType::FLOAT);
    });
    let nodes = [call("Twice", &["x"], "a"), call("Twice", &["a"], "b"), sloped];
    let graph = graph(&[info("x", &[Of(4)])], &[], &nodes, &[info("y", &[Of(4)])]);
    let (_folder, path) = file_with(graph, &functions);
    let imported = import(&path, &Bindings::new()).expect("imports").graph;
    assert_eq!(
        operators(&imported),
        ["Relu", "LeakyRelu", "Relu", "LeakyRelu", "LeakyRelu"]
    );
    let slopes: Vec<bool> = imported
        .ids()
        .into_iter()
        .filter_map(|id| match imported.op(id) {
            Op::Onnx(op) if op.op_type == "LeakyRelu" => Some(op.attributes.contains_key("alpha")),
            _ => None,
        })
        .collect();
    assert_eq!(
        slopes,
        [false, false, true],
        "an attribute that a call does not give is left out"
    );
}

#[test]
fn functions_that_call_themselves_are_refused() {
    let functions = [function("Loop", &["i"], &["o"], &[call("Loop", &["i"], "o")])];
    let graph = graph(
        &[info("x", &[Of(4)])],
        &[],
        &[call("Loop", &["x"], "y")],
        &[info("y", &[Of(4)])],
    );
    let (_folder, path) = file_with(graph, &functions);
    let error = import(&path, &Bindings::new()).expect_err("endless");
    assert!(error.to_string().contains("function Loop"), "{error}");
}

fn graph(
    inputs: &[ValueInfoProto],
    weights: &[TensorProto],
    nodes: &[NodeProto],
    outputs: &[ValueInfoProto],
) -> GraphProto {
    GraphProto {
        name: "g".into(),
        input: inputs.to_vec(),
        initializer: weights.to_vec(),
        node: nodes.to_vec(),
        output: outputs.to_vec(),
        ..GraphProto::default()
    }
}

/// A model file.
fn file(graph: GraphProto) -> (TempDir, PathBuf) {
    file_with(graph, &[])
}

fn file_with(graph: GraphProto, functions: &[FunctionProto]) -> (TempDir, PathBuf) {
    let opset = |domain: &str, version: i64| OperatorSetIdProto {
        domain: domain.into(),
        version,
        ..OperatorSetIdProto::default()
    };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![opset("", 17), opset("com.microsoft", 1)],
        graph: MessageField::some(graph),
        functions: functions.to_vec(),
        ..ModelProto::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    fs::write(&path, model.write_to_bytes().expect("serialises")).expect("a file");
    (folder, path)
}

fn imported(graph: GraphProto, bindings: &Bindings) -> Result<Import, ImportError> {
    let (_folder, path) = file(graph);
    import(&path, bindings)
}

fn input_shape(graph: &Graph, name: &str) -> Vec<usize> {
    graph.value_type(graph.input(name).expect("an input")).shape.to_vec()
}

/// The channels `C` of an input `[1, C, 8, 8]` that a model fixes.
fn channels(weights: &[TensorProto], nodes: &[NodeProto], outputs: &[ValueInfoProto]) -> usize {
    let inputs = [info("x", &[Of(1), Symbol("C"), Of(8), Of(8)])];
    let import = imported(graph(&inputs, weights, nodes, outputs), &Bindings::new()).expect("C is fixed");
    input_shape(&import.graph, "x")[1]
}

/// The width `W` of an input `[2, 5, W]` that a model fixes.
fn width(weights: &[TensorProto], nodes: &[NodeProto], outputs: &[ValueInfoProto]) -> usize {
    let inputs = [info("x", &[Of(2), Of(5), Symbol("W")])];
    let import = imported(graph(&inputs, weights, nodes, outputs), &Bindings::new()).expect("W is fixed");
    input_shape(&import.graph, "x")[2]
}

fn open(name: &str) -> ValueInfoProto {
    info(name, &[Unnamed, Unnamed, Unnamed])
}

#[test]
fn a_convolution_fixes_its_channels() {
    let conv = node("Conv", &["x", "w"], "y");
    assert_eq!(
        channels(&[weight("w", &[8, 6, 3, 3])], std::slice::from_ref(&conv), &[open("y")]),
        6
    );
    let grouped = with_int(conv, "group", 3);
    assert_eq!(channels(&[weight("w", &[9, 2, 1, 1])], &[grouped], &[open("y")]), 6);
}

#[test]
fn products_fix_the_width_of_what_they_read() {
    let product = [node("MatMul", &["x", "w"], "y")];
    assert_eq!(width(&[weight("w", &[24, 16])], &product, &[open("y")]), 24);
    let cast = [node("Relu", &["x"], "r"), node("MatMul", &["r", "w"], "y")];
    assert_eq!(width(&[weight("w", &[24, 16])], &cast, &[open("y")]), 24);
    let turned = [
        with(node("Transpose", &["w"], "wt"), "perm", |attribute| {
            attribute.ints = vec![1, 0];
            attribute.type_ = EnumOrUnknown::new(attribute_proto::AttributeType::INTS);
        }),
        node("MatMul", &["x", "wt"], "y"),
    ];
    assert_eq!(width(&[weight("w", &[16, 24])], &turned, &[open("y")]), 24);
    let stored = [
        node("DequantizeLinear", &["q", "scale"], "w"),
        node("MatMul", &["x", "w"], "y"),
    ];
    let quantised = [tensor("q", 3, &[24, 16], vec![0; 24 * 16]), weight("scale", &[])];
    assert_eq!(width(&quantised, &stored, &[open("y")]), 24);
    let mut packed = node("MatMulNBits", &["x", "w", "s"], "y");
    packed.domain = "com.microsoft".into();
    let packed = with_int(with_int(packed, "K", 32), "N", 16);
    assert_eq!(
        width(&[weight("w", &[1]), weight("s", &[1])], &[packed], &[open("y")]),
        32
    );
}

#[test]
fn gemm_is_read_as_its_attributes_say() {
    let gemm = with_int(node("Gemm", &["x", "w"], "y"), "transB", 1);
    let inputs = [info("x", &[Of(2), Unnamed])];
    let graph = graph(
        &inputs,
        &[weight("w", &[16, 20])],
        &[gemm],
        &[info("y", &[Unnamed, Unnamed])],
    );
    let import = imported(graph, &Bindings::new()).expect("fixed");
    assert_eq!(input_shape(&import.graph, "x"), [2, 20]);
}

#[test]
fn norms_fix_what_they_scale() {
    let norm = [node("LayerNormalization", &["x", "g", "b"], "y")];
    assert_eq!(
        width(&[weight("g", &[40]), weight("b", &[40])], &norm, &[open("y")]),
        40
    );
}

#[test]
fn concatenation_leaves_the_rest() {
    let join = with_int(node("Concat", &["x", "more"], "all"), "axis", 1);
    let nodes = [join, node("Conv", &["all", "w"], "y")];
    let weights = [weight("more", &[1, 5, 8, 8]), weight("w", &[8, 9, 3, 3])];
    assert_eq!(channels(&weights, &nodes, &[open("y")]), 4);
}

#[test]
fn declared_outputs_and_sums_fix_what_no_weight_does() {
    let relu = [node("Relu", &["x"], "y")];
    let declared = info("y", &[Unnamed, Of(7), Unnamed, Unnamed]);
    assert_eq!(channels(&[], &relu, &[declared]), 7);
    let sum = [node("Add", &["x", "b"], "y")];
    assert_eq!(width(&[weight("b", &[12])], &sum, &[open("y")]), 12);
    // a weight says more than what is declared
    let conv = [node("Conv", &["x", "w"], "y"), node("Relu", &["x"], "z")];
    let wrong = info("z", &[Unnamed, Of(3), Unnamed, Unnamed]);
    assert_eq!(channels(&[weight("w", &[8, 6, 3, 3])], &conv, &[open("y"), wrong]), 6);
}

#[test]
fn one_symbol_is_one_size() {
    let inputs = [
        info("x", &[Symbol("n"), Of(4)]),
        info("z", &[Of(3), Symbol("n"), Symbol("n")]),
    ];
    let nodes = [node("Relu", &["x"], "y"), node("Relu", &["z"], "v")];
    let outputs = [info("y", &[Of(6), Of(4)]), open("v")];
    let import = imported(graph(&inputs, &[], &nodes, &outputs), &Bindings::new()).expect("fixed");
    assert_eq!(input_shape(&import.graph, "z"), [3, 6, 6]);
}

#[test]
fn what_nothing_fixes_is_named_and_can_be_given() {
    let model = || {
        let inputs = [info("x", &[Of(1), Symbol("count"), Unnamed])];
        graph(&inputs, &[], &[node("Relu", &["x"], "y")], &[open("y")])
    };
    let missing = imported(model(), &Bindings::new()).expect_err("not fixed");
    assert!(missing.to_string().contains("input x"), "{missing}");
    assert!(
        missing.message.contains("dimension 1") && missing.message.contains("`count`"),
        "{missing}"
    );
    assert!(missing.hint.expect("a hint").contains("--bind count="));
    let unnamed = imported(model(), &Bindings::new().symbol("count", 5)).expect_err("one is left");
    assert!(unnamed.hint.expect("a hint").contains("--bind x:2="));
    let bindings = Bindings::new().symbol("count", 5).symbol("x:2", 3);
    let import = imported(model(), &bindings).expect("all given");
    assert_eq!(input_shape(&import.graph, "x"), [1, 5, 3]);
    let unknown = imported(model(), &bindings.symbol("colour", 3)).expect_err("no such symbol");
    assert!(unknown.message.contains("`colour`"), "{unknown}");
    assert!(unknown.hint.expect("a hint").contains("count, x:1, x:2"));
}

#[test]
fn inputs_that_nothing_reads_need_no_size() {
    let inputs = [info("x", &[Of(4)]), info("return_dict", &[Symbol("anything"), Of(3)])];
    let graph = graph(&inputs, &[], &[node("Relu", &["x"], "y")], &[info("y", &[Of(4)])]);
    let recorded = Bindings::new().input("return_dict", &[5, 5]);
    for (bindings, expected) in [(Bindings::new(), [1, 3]), (recorded, [5, 3])] {
        let import = imported(graph.clone(), &bindings).expect("imports");
        assert_eq!(input_shape(&import.graph, "return_dict"), expected);
    }
}

/// Rewrites the dimensions of all inputs.
fn redimensioned(case: &str, dim: impl Fn(&str, usize) -> Option<String>) -> (TempDir, PathBuf) {
    let case = Case::open(case);
    let mut model = ModelProto::parse_from_bytes(&fs::read(case.model()).expect("a model")).expect("ONNX");
    let graph = model.graph.mut_or_insert_default();
    for input in &mut graph.input {
        let name = input.name.clone();
        let Some(Kind::TensorType(tensor)) = &mut input.type_.mut_or_insert_default().value else {
            panic!("a tensor")
        };
        for (axis, each) in tensor.shape.mut_or_insert_default().dim.iter_mut().enumerate() {
            each.value = dim(&name, axis).map(Size::DimParam);
        }
    }
    for output in &mut graph.output {
        let Some(Kind::TensorType(tensor)) = &mut output.type_.mut_or_insert_default().value else {
            panic!("a tensor")
        };
        tensor.shape.clear();
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    fs::write(&path, model.write_to_bytes().expect("serialises")).expect("a file");
    (folder, path)
}

#[test]
fn a_unet_needs_no_more_than_its_size() {
    type Spelling<'a> = &'a dyn Fn(&str, usize) -> Option<String>;
    let spellings: [Spelling<'_>; 2] = [&|_, _| None, &|name, axis| Some(format!("{name}_dim_{axis}"))];
    for name in [
        "optimum_num_channels",
        "attention_slicing",
        "prediction_not_first_output",
    ] {
        for spelling in spellings {
            let (_folder, path) = redimensioned(name, spelling);
            let graph = import(&path, &Bindings::unet(2, 16, 16, 7)).expect("bound").graph;
            assert_eq!(input_shape(&graph, "sample"), [2, 4, 16, 16], "{name}");
            assert_eq!(input_shape(&graph, "encoder_hidden_states"), [2, 7, 24], "{name}");
        }
    }
    let (_folder, path) = redimensioned("inpaint_9_channels", |_, _| None);
    let graph = import(&path, &Bindings::unet(2, 16, 16, 7)).expect("bound").graph;
    assert_eq!(input_shape(&graph, "sample"), [2, 9, 16, 16]);
}

#[test]
fn declared_types_follow_from_symbols_and_their_arithmetic() {
    let mut unknown = node("Mystery", &["x"], "m");
    unknown.domain = "custom".into();
    let inputs = [info("x", &[Of(1), Symbol("height")])];
    let mut graph = graph(
        &inputs,
        &[],
        &[unknown, node("Relu", &["m"], "y")],
        &[info("y", &[Unnamed])],
    );
    graph.value_info = vec![info("m", &[Symbol("height"), Symbol("8*((height - 1)//8) + 8")])];
    let import = imported(graph, &Bindings::new().symbol("height", 90)).expect("imports");
    let mystery = import.graph.ids().into_iter().find(|&id| match import.graph.op(id) {
        Op::Onnx(op) => op.op_type == "Mystery",
        _ => false,
    });
    let outputs = import.graph.node(mystery.expect("there")).outputs();
    assert_eq!(outputs[0].shape[..], [90, 96]);
}

/// `If` over `condition`: the sum of `x` and `one`, or their product.
fn branches(condition: &str, nodes: &[NodeProto], weights: &[TensorProto]) -> GraphProto {
    let branch = |op_type: &str| {
        graph(
            &[],
            &[weight("own", &[4])],
            &[node(op_type, &["x", "own"], "r")],
            &[info("r", &[])],
        )
    };
    let choice = with_graph(
        with_graph(node("If", &[condition], "z"), "then_branch", branch("Add")),
        "else_branch",
        branch("Mul"),
    );
    let nodes = [nodes, &[choice, node("Relu", &["z"], "y")]].concat();
    graph(&[info("x", &[Of(4)])], weights, &nodes, &[info("y", &[Of(4)])])
}

fn operators(graph: &Graph) -> Vec<String> {
    let ids = graph.ids().into_iter();
    let names = ids.filter_map(|id| match graph.op(id) {
        Op::Onnx(op) => Some(op.op_type.clone()),
        _ => None,
    });
    names.collect()
}

#[test]
fn the_branch_of_a_constant_condition_is_taken() {
    for (truth, taken) in [(1, "Add"), (0, "Mul")] {
        let condition = tensor("c", BOOL, &[], vec![truth]);
        let import = imported(branches("c", &[], &[condition]), &Bindings::new()).expect("imports");
        assert_eq!(operators(&import.graph), [taken, "Relu"]);
    }
}

#[test]
fn a_condition_that_shapes_decide_is_asked_for() {
    let nodes = [node("Shape", &["x"], "s"), node("Equal", &["s", "four"], "c")];
    let four = tensor("four", INT64, &[1], 4i64.to_le_bytes().to_vec());
    let model = || branches("c", &nodes, std::slice::from_ref(&four));
    let (_folder, path) = file(model());
    let mut asked = 0;
    let import = Model::open(&path)
        .expect("opens")
        .import(&Bindings::new(), &mut |_, _| {
            asked += 1;
            Some(false)
        });
    assert!(operators(&import.expect("imports").graph).contains(&"Mul".to_owned()));
    assert_eq!(asked, 1);
    let refused = imported(model(), &Bindings::new()).expect_err("not decided");
    assert!(refused.message.contains("control flow"), "{refused}");
}
