//! Operands by name, for operators whose operand list depends on what is fused into them.

use fisec_ir::{Conv, ConvOperand, Graph, Linear, LinearOperand, NodeId, Op, Operand, Origin};

const CONV_ORDER: [ConvOperand; 7] = [
    ConvOperand::Input,
    ConvOperand::SecondInput,
    ConvOperand::Weight,
    ConvOperand::Bias,
    ConvOperand::Coefficients,
    ConvOperand::Vector,
    ConvOperand::Residual,
];

const LINEAR_ORDER: [LinearOperand; 6] = [
    LinearOperand::Input,
    LinearOperand::Weight,
    LinearOperand::Bias,
    LinearOperand::Gamma,
    LinearOperand::Beta,
    LinearOperand::Residual,
];

/// A named operand of a convolution.
pub fn conv_operand(graph: &Graph, id: NodeId, conv: &Conv, which: ConvOperand) -> Option<Operand> {
    conv.operand_index(which).map(|position| graph.operands(id)[position])
}

/// A named operand of a linear.
pub fn linear_operand(graph: &Graph, id: NodeId, linear: &Linear, which: LinearOperand) -> Option<Operand> {
    linear.operand_index(which).map(|position| graph.operands(id)[position])
}

/// Turns the convolution `id` into `fused`, with some operands given anew and the others as they were.
pub fn set_conv(graph: &mut Graph, id: NodeId, fused: Conv, given: &[(ConvOperand, Operand)]) {
    let Op::Conv(old) = graph.op(id).clone() else {
        unreachable!("a convolution")
    };
    let operands = reassembled(&CONV_ORDER, given, |which| {
        let wanted = fused.operand_index(which).is_some();
        wanted.then(|| conv_operand(graph, id, &old, which))
    });
    graph.set_op(id, Op::Conv(fused));
    graph.set_operands(id, operands);
}

/// Turns the linear `id` into `fused`, with some operands given anew and the others as they were.
pub fn set_linear(graph: &mut Graph, id: NodeId, fused: Linear, given: &[(LinearOperand, Operand)]) {
    let Op::Linear(old) = graph.op(id).clone() else {
        unreachable!("a linear")
    };
    let operands = reassembled(&LINEAR_ORDER, given, |which| {
        let wanted = fused.operand_index(which).is_some();
        wanted.then(|| linear_operand(graph, id, &old, which))
    });
    graph.set_op(id, Op::Linear(fused));
    graph.set_operands(id, operands);
}

/// The operands in `order` that are wanted. `before` is `None` for an unwanted one, else what stood there so far.
fn reassembled<Name: Copy + PartialEq>(
    order: &[Name],
    given: &[(Name, Operand)],
    before: impl Fn(Name) -> Option<Option<Operand>>,
) -> Vec<Operand> {
    let wanted = order.iter().filter_map(|&which| Some((which, before(which)?)));
    wanted
        .map(|(which, before)| {
            let anew = given.iter().find(|(name, _)| *name == which);
            anew.map(|(_, operand)| *operand)
                .or(before)
                .expect("given or there before")
        })
        .collect()
}

/// Notes that `id` now also computes `absorbed`.
pub fn absorb_origin(graph: &mut Graph, id: NodeId, absorbed: NodeId, pass: &str) {
    let reason = graph.origin(id).reason.clone();
    let merged = Origin::merged(pass, [graph.origin(id), graph.origin(absorbed)]).because(reason);
    graph.set_origin(id, merged);
}
