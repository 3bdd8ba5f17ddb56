//! Models that no exporter wrote: whatever is wrong in a graph, the canonical passes finish or say so.

#[path = "../../tests/support/npz.rs"]
mod npz;
#[path = "../../tests/support/routes.rs"]
mod routes;

use std::ops::ControlFlow;

use fisec_ir::{Attribute, Graph, NodeId, Op, Operand, Origin, ValueType, WeightId, WeightInfo};
use fisec_onnx::{Bindings, import};
use fisec_passes::canonical::{canonicalize, fold_constants, simplify};
use fisec_tensor::{Constant, DType, HostTensor};
use routes::{ROUTES, data};

/// A small generator of reproducible choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

const OPERATORS: [&str; 16] = [
    "MatMul",
    "Gemm",
    "Conv",
    "Reshape",
    "Transpose",
    "Slice",
    "Concat",
    "Softmax",
    "Add",
    "Resize",
    "Pad",
    "Gather",
    "Split",
    "Squeeze",
    "GroupNormalization",
    "Attention",
];
const FUSED_OPERATORS: [&str; 8] = [
    "MultiHeadAttention",
    "Attention",
    "NhwcConv",
    "GroupNorm",
    "SkipGroupNorm",
    "SkipLayerNormalization",
    "BiasSplitGelu",
    "FusedMatMul",
];
const EXTREMES: [i64; 8] = [-1, 0, 1, 2, 7, -9, i64::MAX, i64::MIN];

/// Breaks one node in one way.
fn mutate(graph: &mut Graph, choices: &mut Choices) {
    let nodes: Vec<NodeId> = graph
        .ids()
        .into_iter()
        .filter(|&id| matches!(graph.op(id), Op::Onnx(_)))
        .collect();
    let id = nodes[choices.below(nodes.len())];
    let (Op::Onnx(mut op), mut operands) = (graph.op(id).clone(), graph.operands(id).to_vec()) else {
        return;
    };
    let position = choices.below(operands.len().max(1));
    match choices.below(6) {
        0 => drop(operands.pop()),
        1 if !operands.is_empty() => {
            operands[position] = Operand::Weight(WeightId(choices.below(graph.weights().len()) as u32));
        }
        2 if !operands.is_empty() => operands[position] = Operand::Absent,
        3 => op.op_type = OPERATORS[choices.below(OPERATORS.len())].into(),
        4 => {
            op.domain = "com.microsoft".into();
            op.op_type = FUSED_OPERATORS[choices.below(FUSED_OPERATORS.len())].into();
            op.attributes
                .insert("num_heads".into(), Attribute::Int(choices.below(4) as i64));
        }
        _ => {
            let value = EXTREMES[choices.below(EXTREMES.len())];
            for attribute in op.attributes.values_mut() {
                match attribute {
                    Attribute::Int(number) => *number = value,
                    Attribute::Ints(numbers) if choices.below(2) == 0 => numbers.push(value),
                    Attribute::Ints(numbers) => numbers.iter_mut().for_each(|number| *number = value),
                    _ => {}
                }
            }
        }
    }
    graph.set_op(id, Op::Onnx(op));
    graph.set_operands(id, operands);
}

#[test]
fn broken_graphs_are_refused_or_kept_opaque() {
    let mut choices = Choices(3);
    let mut models: Vec<_> = ROUTES.iter().map(|route| (route.model(), route.bindings())).collect();
    models.push((
        data().join("nano-pipeline/vae_encoder/model.onnx"),
        Bindings::vae(1, 3, 64, 64),
    ));
    models.push((
        data().join("nano-pipeline/text_encoder/model.onnx"),
        Bindings::text_encoder(1, 77),
    ));
    let mut refused = 0;
    for (model, bindings) in models {
        let sound = import(&model, &bindings).expect("imports").graph;
        for _ in 0..120 {
            let mut graph = sound.clone();
            mutate(&mut graph, &mut choices);
            if let Err(error) = canonicalize(&mut graph, &mut |_, _| ControlFlow::Continue(())) {
                assert!(!error.node.is_empty() && !error.message.is_empty());
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "some of these cannot be made sense of");
}

fn onnx(op_type: &str) -> Op {
    Op::Onnx(fisec_ir::OnnxOp {
        domain: String::new(),
        op_type: op_type.into(),
        opset: 17,
        attributes: Default::default(),
    })
}

fn weight(graph: &mut Graph, name: &str, data: Constant) -> Operand {
    let name = name.to_owned();
    graph.add_weight(WeightInfo { name, data }).into()
}

/// What eager attention adds to its scores at 768 pixels: 3.4 GB of zeros, which must never exist.
#[test]
fn zeros_the_size_of_scores_take_no_memory() {
    let mut graph = Graph::new("test");
    let scores = ValueType::full(DType::F32, [10, 9216, 9216]);
    let named = |name: &str| Origin::imported(name);
    let x = graph.add_value(Op::Input("scores".into()), vec![], scores.clone(), named("scores"));
    let dims = HostTensor::from_i64([3], vec![10, 9216, 9216]);
    let dims = weight(&mut graph, "dims", dims.into());
    let factor = weight(&mut graph, "factor", HostTensor::from_f32([], vec![0.0]).into());
    let unknown = fisec_onnx::unknown_type();
    let filled = graph.add_value(onnx("ConstantOfShape"), vec![dims], unknown.clone(), named("fill"));
    let zeros = graph.add_value(
        onnx("Mul"),
        vec![filled.into(), factor],
        unknown.clone(),
        named("zeros"),
    );
    let sum = graph.add_value(onnx("Add"), vec![x.into(), zeros.into()], unknown, named("sum"));
    graph.add(Op::Output("sum".into()), vec![sum.into()], vec![], named("output"));
    fold_constants(&mut graph).expect("folds");
    assert_eq!(graph.value_type(sum), &scores);
    simplify(&mut graph).expect("simplifies");
    let (output, _) = graph.outputs()[0];
    assert_eq!(graph.operands(output), [Operand::Value(x)]);
}

/// A weight of gigabytes that is transposed, cut and cast stays a description of that.
#[test]
fn large_weights_are_transformed_on_demand() {
    let mut graph = Graph::new("test");
    let named = |name: &str| Origin::imported(name);
    let large = weight(
        &mut graph,
        "large",
        Constant::filled(DType::F16, [40_000, 50_000], 0.25),
    );
    let unknown = fisec_onnx::unknown_type();
    let turned = graph.add_value(onnx("Transpose"), vec![large], unknown.clone(), named("turned"));
    let bounds = [7, 9, 0].map(|bound| {
        let bound = HostTensor::from_i64([1], vec![bound]);
        weight(&mut graph, "bound", bound.into())
    });
    let operands = [vec![turned.into()], bounds.to_vec()].concat();
    let rows = graph.add_value(onnx("Slice"), operands, unknown, named("rows"));
    let output = graph.add(Op::Output("rows".into()), vec![rows.into()], vec![], named("output"));
    fold_constants(&mut graph).expect("folds");
    let folded = graph.operands(output)[0].weight().expect("folded");
    let data = &graph.weight(folded).data;
    assert_eq!((data.dtype(), &data.shape()[..]), (DType::F16, &[2, 40_000][..]));
    assert_eq!(data.fill_value(), Some(0.25));
}
