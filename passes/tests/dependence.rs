//! The table of dependences promises no more than what the oracle shows: single elements of operands are changed, and every
//! element of the result that changes must be one that the table lets read them.

use std::collections::HashMap;

use fisec_ir::text::parse;
use fisec_ir::{Dependence, Graph, NodeId, Op, Operand, Reading};
use fisec_oracle::{Oracle, RandomData, Tensor, random_data};

/// One operator over inputs, in IR text. Shapes have no two equal axes where that can be.
const CASES: &[&str] = &[
    "w @w : f32[4,3,3,3]|x f32[2,3,5,7]|conv %x, @w, kernel=3x3 stride=1 pad=1 : f32[2,4,5,7]",
    "w @w : f32[4,3,1,1]|x f32[2,3,5,7]|conv %x, @w, kernel=1x1 stride=1 pad=0 : f32[2,4,5,7]",
    "w @w : f32[4,3,3,3]|x f32[2,3,5,7]|conv %x, @w, kernel=3x3 stride=2 pad=1 : f32[2,4,3,4]",
    "w @w : f32[4,3,3,3]|x f32[2,3,3,4]|conv %x, @w, kernel=3x3 stride=1 pad=1 upsample=5x7 : f32[2,4,5,7]",
    "w @g : f32[4]|x f32[2,4,5,7]|group_norm %x, @g, @g, groups=2 epsilon=1e-5 : f32[2,4,5,7]",
    "|x f32[2,4,5,7]|group_norm_stats %x, groups=2 : f32[2,2,2]",
    "|x f32[2,4,5,7] y f32[2,2,4]|affine %x, %y, activation=silu : f32[2,4,5,7]",
    "|x f32[2,4,3,4]|upsample %x, size=5x7 : f32[2,4,5,7]",
    "|x f32[2,4,5,7]|tokens %x : f32[2,35,4]",
    "|x f32[2,35,4]|spatial %x, size=5x7 : f32[2,4,5,7]",
    "w @g : f32[4]|x f32[2,5,4]|layer_norm %x, @g, @g, epsilon=1e-5 : f32[2,5,4]",
    "w @g : f32[7]|x f32[2,3,5,7]|layer_norm %x, @g, @g, epsilon=1e-5 : f32[2,3,5,7]",
    "w @w : f32[4,6]|x f32[2,5,4]|linear %x, @w : f32[2,5,6]",
    "w @w : f32[7,7]|x f32[2,3,5,7]|linear %x, @w : f32[2,3,5,7]",
    "w @w : f32[4,6]|x f32[2,5,4] y f32[2,5,6]|linear %x, @w, %y, residual : f32[2,5,6]",
    "|x f32[2,5,4] y f32[2,3,4] z f32[2,3,4]|attention %x, %y, %z, heads=2 scale=0.7 : f32[2,5,4]",
    "|x f32[2,5,4] y f32[2,5,4] z f32[2,5,4]|causal_attention %x, %y, %z, heads=2 scale=0.7 : f32[2,5,4]",
    "|x f32[2,5,4] y f32[2,3,4]|attention_maps %x, %y, heads=2 scale=0.7 : f32[2,5,3]",
    "|x f32[2,5,8]|geglu %x : f32[2,5,4]",
    "|x f32[2,4,5,7]|activate %x, function=silu : f32[2,4,5,7]",
    "|x f32[2,4,5,7] y f32[2,4,5,7]|add %x, %y : f32[2,4,5,7]",
    "|x f32[2,4,5,7] y f32[4,1,1]|add %x, %y : f32[2,4,5,7]",
    "|x f32[2,4,5,7] y f32[2,4]|add_vector %x, %y : f32[2,4,5,7]",
    "|x f32[1,4,5,7]|repeat %x, images=2 : f32[2,4,5,7]",
    "|x f32[2,4,5,7] y f32[2,3,5,7]|concat %x, %y, axis=1 : f32[2,7,5,7]",
    "|x f32[2,4,5] y f32[2,4,3]|concat %x, %y, axis=2 : f32[2,4,8]",
    "|x f32[2]|timestep_embedding %x, rows=2 width=8 flip shift=0.0 max_period=10000.0 : f32[2,8]",
    // opaque operators
    "|x f32[2,4,5,7]|onnx Sigmoid %x, opset=17 : f32[2,4,5,7]",
    "|x f32[2,4,5,7] y f32[5,1]|onnx Mul %x, %y, opset=17 : f32[2,4,5,7]",
    "|x f32[2,4,5,7]|onnx Transpose %x, opset=17 {perm=[0, 1, 3, 2]} : f32[2,4,7,5]",
    "|x f32[2,4,5,7]|onnx Transpose %x, opset=17 : f32[7,5,4,2]",
    "|x f32[2,4,5]|onnx Softmax %x, opset=17 {axis=1} : f32[2,4,5]",
    "|x f32[2,4,5]|onnx Softmax %x, opset=12 {axis=1} : f32[2,4,5]",
    "i @a : i64[] = [1]|x f32[2,4,5]|onnx CumSum %x, @a, opset=17 : f32[2,4,5]",
    "|x f32[2,4,5]|onnx ReduceMean %x, opset=17 {axes=[1]} : f32[2,1,5]",
    "|x f32[2,4,5]|onnx ReduceMean %x, opset=17 {axes=[1] keepdims=0} : f32[2,5]",
    "i @a : i64[1] = [-1]|x f32[2,4,5]|onnx ReduceSum %x, @a, opset=17 : f32[2,4,1]",
    "|x f32[2,4,5]|onnx ReduceMax %x, opset=17 : f32[1,1,1]",
    "|x f32[2,4,5]|onnx ArgMax %x, opset=17 {axis=1} : i64[2,1,5]",
    "i @k : i64[1] = [4]|x f32[2,4,5]|onnx TopK %x, @k, opset=17 {axis=1} : f32[2,4,5]",
    "|x f32[2,4,5] y f32[2,5,3]|onnx MatMul %x, %y, opset=17 : f32[2,4,3]",
    "|x f32[6,2,4,5] y f32[2,5,3]|onnx MatMul %x, %y, opset=17 : f32[6,2,4,3]",
    "|x f32[4,5] y f32[3,5] z f32[3]|onnx Gemm %x, %y, %z, opset=17 {transB=1} : f32[4,3]",
    "|x f32[5,4] y f32[5,3]|onnx Gemm %x, %y, opset=17 {transA=1} : f32[4,3]",
    "|x f32[2,3,5,4] y f32[2,3,7,4]|onnx Einsum %x, %y, opset=17 {equation=\"bhqd,bhkd->bhqk\"} : f32[2,3,5,7]",
    "|x f32[5,4] y f32[4,3]|onnx Einsum %x, %y, opset=17 {equation=\"ij,jk->ki\"} : f32[3,5]",
    "i @s : i64[1] = [-1]; @e : i64[1] = [-9223372036854775807]; @a : i64[1] = [1]; @p : i64[1] = [-1]|x f32[2,4,5]|onnx Slice %x, @s, @e, @a, @p, opset=17 : f32[2,4,5]",
    "i @s : i64[1] = [0]; @e : i64[1] = [9]; @a : i64[1] = [1]|x f32[2,4,5]|onnx Slice %x, @s, @e, @a, opset=17 : f32[2,4,5]",
    "i @s : i64[1] = [1]; @e : i64[1] = [3]; @a : i64[1] = [2]|x f32[2,4,5]|onnx Slice %x, @s, @e, @a, opset=17 : f32[2,4,2]",
    "i @p : i64[6] = [0, 1, 0, 0, -1, 0]|x f32[2,4,5]|onnx Pad %x, @p, opset=17 : f32[2,4,5]",
    "i @p : i64[3] = [3, 1, 1]|x f32[2,4,5]|onnx Gather %x, @p, opset=17 {axis=1} : f32[2,3,5]",
    "i @p : i64[] = [3]|x f32[2,4,5]|onnx Gather %x, @p, opset=17 {axis=1} : f32[2,5]",
    "i @p : i64[1,1] = [1]|x f32[2,4,5] y f32[1,4,5]|onnx ScatterND %x, @p, %y, opset=17 : f32[2,4,5]",
    "i @p : i64[3] = [2, 3, 5]|x f32[2,1,5]|onnx Expand %x, @p, opset=17 : f32[2,3,5]",
    "i @p : i64[3] = [1, 2, 1]|x f32[2,3,5]|onnx Tile %x, @p, opset=17 : f32[2,6,5]",
    "|x f32[2,3,5] y f32[2,4,5]|onnx Concat %x, %y, opset=17 {axis=1} : f32[2,7,5]",
    "w @g : f32[3]|x f32[2,3,5,7]|onnx InstanceNormalization %x, @g, @g, opset=17 : f32[2,3,5,7]",
    "w @g : f32[7]|x f32[2,3,5,7]|onnx LayerNormalization %x, @g, @g, opset=17 : f32[2,3,5,7]",
    "w @g : f32[5,7]|x f32[2,3,5,7]|onnx LayerNormalization %x, @g, @g, opset=17 {axis=2} : f32[2,3,5,7]",
    "w @w : f32[4,3,3,3]|x f32[2,3,5,7]|onnx Conv %x, @w, opset=17 {pads=[1, 1, 1, 1] dilations=[1, 1]} : f32[2,4,5,7]",
    "w @w : f32[4,3,3,3]|x f32[2,3,5,7]|onnx Conv %x, @w, opset=17 {pads=[2, 2, 2, 2] dilations=[2, 2]} : f32[2,4,5,7]",
    "|x f32[2,3,5,7]|onnx Trilu %x, opset=17 {upper=1} : f32[2,3,5,7]",
    "w @s : f32[3]|x f32[2,3,5]|onnx QuantizeLinear %x, @s, opset=17 {axis=1} : u8[2,3,5]",
    "|x f32[2,4,5]|onnx IsNaN %x, opset=17 : bool[2,4,5]",
];

fn graph(case: &str) -> Graph {
    let [weights, inputs, line] = case.split('|').collect::<Vec<_>>()[..] else {
        panic!("{case}")
    };
    let mut text = "graph case\n".to_owned();
    if let Some(declared) = weights.strip_prefix("w ") {
        text += &format!("weights {{\n  {declared} = random(3, 1.0)\n}}\n");
    } else if let Some(declared) = weights.strip_prefix("i ") {
        text += &format!("weights {{\n  {}\n}}\n", declared.replace("; ", "\n  "));
    }
    let words: Vec<&str> = inputs.split_whitespace().collect();
    for pair in words.chunks(2) {
        text += &format!("%{} = input \"{}\" : {}\n", pair[0], pair[0], pair[1]);
    }
    text += &format!("%out = {line}\noutput %out, \"out\"\n");
    parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn index(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    index
}

/// Whether the table lets an element of the result read an element of an operand.
fn may_read(
    dependence: &Dependence,
    position: usize,
    result: &[usize],
    operand: &[usize],
    shapes: [&[usize]; 2],
) -> bool {
    let [result_shape, operand_shape] = shapes;
    (0..result.len()).all(|axis| match dependence.reading(position, axis) {
        Reading::Same(own) => operand[own] == result[axis],
        Reading::Joined(outer, inner) => operand[outer] * operand_shape[inner] + operand[inner] == result[axis],
        Reading::Split(own, true) => operand[own] % result_shape[axis] == result[axis],
        Reading::Split(own, false) => operand[own] / (operand_shape[own] / result_shape[axis]) == result[axis],
        Reading::Near(own) => {
            // a window of at most five moves along with the result
            let scale = operand_shape[own] as f64 / result_shape[axis] as f64;
            (operand[own] as f64 - result[axis] as f64 * scale).abs() <= 3.0
        }
        Reading::Placed(_) | Reading::Whole => true,
    })
}

fn outputs(graph: &Graph, data: &RandomData) -> Tensor {
    let run = Oracle::new(graph).inputs(data.inputs.clone()).run();
    run.unwrap_or_else(|error| panic!("{error}")).outputs["out"].clone()
}

/// Operands that are inputs, with their names and positions.
fn inputs(graph: &Graph, node: NodeId) -> Vec<(usize, String)> {
    let operands = graph.operands(node).iter().enumerate();
    let named = operands.filter_map(|(position, operand)| match operand {
        Operand::Value(value) => match graph.op(value.node) {
            Op::Input(name) => Some((position, name.clone())),
            _ => None,
        },
        _ => None,
    });
    named.collect()
}

fn check(case: &str) {
    let graph = graph(case);
    let (output, _) = graph.outputs()[0];
    let node = graph.operands(output)[0].value().expect("computed").node;
    let dependence = Dependence::of(&graph, node, 0);
    let data = random_data(&graph, 7);
    let before = outputs(&graph, &data);
    let (mut read, names) = (HashMap::<usize, usize>::new(), inputs(&graph, node));
    for (position, name) in &names {
        let operand = &data.inputs[name];
        for flat in 0..operand.data.len() {
            let mut changed = data.clone();
            let element = &mut changed.inputs.get_mut(name).expect("an input").data[flat];
            *element = 1.5 - *element;
            let after = outputs(&graph, &changed);
            let at = index(flat, &operand.shape);
            for (place, _) in (before.data.iter().zip(&after.data).enumerate()).filter(|(_, (a, b))| a != b) {
                let result = index(place, &before.shape);
                assert!(
                    may_read(&dependence, *position, &result, &at, [&before.shape, &operand.shape]),
                    "{case}: {result:?} reads operand {position} at {at:?}, {dependence:?}"
                );
                *read.entry(*position).or_default() += 1;
            }
        }
    }
    let silent = case.contains("IsNaN");
    assert!(
        silent || names.iter().all(|(position, _)| read.contains_key(position)),
        "{case}: nothing was read"
    );
}

#[test]
fn elements_read_no_others_than_the_table_says() {
    CASES.iter().for_each(|case| check(case));
}

/// The table is worth something: these are not the default.
#[test]
fn what_is_known_is_said() {
    let reading = |case: &str, position: usize, axis: usize| {
        let graph = graph(case);
        let (output, _) = graph.outputs()[0];
        let node = graph.operands(output)[0].value().expect("computed").node;
        Dependence::of(&graph, node, 0).reading(position, axis)
    };
    let softmax = "|x f32[2,4,5]|onnx Softmax %x, opset=17 {axis=1} : f32[2,4,5]";
    assert_eq!(
        [0, 1, 2].map(|axis| reading(softmax, 0, axis)),
        [Reading::Same(0), Reading::Placed(1), Reading::Same(2)]
    );
    let unknown = "|x f32[2,4,5]|onnx Mystery %x, opset=1 domain=\"org.unknown\" : f32[2,4,5]";
    assert_eq!([0, 1, 2].map(|axis| reading(unknown, 0, axis)), [Reading::Whole; 3]);
    let flip = "i @s : i64[1] = [-1]; @e : i64[1] = [-9]; @a : i64[1] = [1]; @p : i64[1] = [-1]|x f32[2,4,5]|onnx Slice %x, @s, @e, @a, @p, opset=17 : f32[2,4,5]";
    assert_eq!(
        [0, 1, 2].map(|axis| reading(flip, 0, axis)),
        [Reading::Same(0), Reading::Whole, Reading::Same(2)]
    );
}
