//! Which operators a CUDA device runs with kernels of its own. All others stay islands.

use fisec_ir::{Activation, Conv, ConvOperand, Graph, NodeId, Op, Operand, Stage};
use fisec_plan::cuda::{CHANNELS, CONTROLLED_TOKENS, HEAD_DIMS, LARGEST_LAYER_NORM, has_causal, has_control};

use crate::analysis::Stages;

/// Whether a node of the step has a kernel. Earlier stages run once per prompt or schedule, in ONNX Runtime.
pub(super) fn has_device_kernel(graph: &Graph, stages: &Stages, id: NodeId) -> bool {
    match graph.op(id) {
        Op::Input(_)
        | Op::Output(_)
        | Op::CacheRead(_)
        | Op::CacheWrite(_)
        | Op::Scatter(_)
        | Op::Gather
        | Op::GroupNormStatsUpdate { .. } => true,
        _ if stages.get(id) != Stage::Step => false,
        Op::Tokens | Op::Spatial { .. } => true,
        Op::GroupNormStats { groups } => {
            let channels = channels(graph, id, 0);
            whole_vectors(channels) && channels.is_multiple_of(*groups)
        }
        Op::NormCoefficients { .. } => whole_vectors(last(graph, id)) && are_weights(graph, id, &[1, 2]),
        Op::Affine { activation } => is_applied(*activation) && whole_vectors(channels(graph, id, 0)),
        Op::Conv(conv) => conv_has_kernel(graph, id, conv),
        Op::LayerNorm { .. } => {
            let channels = last(graph, id);
            whole_vectors(channels) && channels <= LARGEST_LAYER_NORM && are_weights(graph, id, &[1, 2])
        }
        Op::Linear(linear) => {
            let normed = linear.layer_norm.is_none() || channels(graph, id, 0) <= LARGEST_LAYER_NORM;
            normed
                && is_tokens(graph, id)
                && whole_vectors(channels(graph, id, 0))
                && whole_vectors(last(graph, id))
                && are_weights(graph, id, &[1])
        }
        Op::Attention {
            heads, control: None, ..
        } => HEAD_DIMS.contains(&(channels(graph, id, 0) / heads.max(&1))),
        Op::Attention { heads, .. } | Op::AttentionMaps { heads, .. } => {
            has_control(channels(graph, id, 0) / heads.max(&1)) && tokens(graph, id) <= CONTROLLED_TOKENS
        }
        Op::CausalAttention { heads, .. } => {
            let channels = last(graph, id);
            channels.is_multiple_of(*heads) && has_causal(channels / heads, graph.node(id).outputs()[0].shape[1])
        }
        Op::Activate(Activation::Gelu | Activation::QuickGelu) => {
            is_tokens(graph, id) && whole_vectors(last(graph, id))
        }
        Op::Onnx(_) => Embedding::of(graph, id).is_some(),
        Op::Geglu => is_tokens(graph, id) && whole_vectors(last(graph, id)),
        Op::Activate(activation) => is_applied(*activation) && whole_vectors(channels(graph, id, 0)),
        Op::Add => {
            let operand = |at: usize| graph.operand_type(graph.operands(id)[at]).map(|value| value.shape);
            let are_values = graph.operands(id).iter().all(|operand| operand.value().is_some());
            are_values && operand(0) == operand(1) && whole_vectors(channels(graph, id, 0)) && is_rows(graph, id)
        }
        Op::Repeat { .. } => whole_vectors(channels(graph, id, 0)) && is_rows(graph, id),
        Op::Concat(concat) => {
            let axis = if graph.node(id).outputs()[0].shape.len() == 4 {
                1
            } else {
                2
            };
            let operands = 0..graph.operands(id).len();
            concat.axis == axis
                && is_rows(graph, id)
                && operands.into_iter().all(|at| whole_vectors(channels(graph, id, at)))
        }
        _ => false,
    }
}

/// What is done with ids and positions before the first layer of a text encoder.
pub(super) enum Embedding {
    /// `Gather` of rows by the program's own input
    Lookup,
    /// `Add` of a constant; positions of both operands
    Sum { value: usize, constant: usize },
}

impl Embedding {
    pub(super) fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let Op::Onnx(op) = graph.op(id) else { return None };
        let output = &graph.node(id).outputs()[0];
        let &[first, second] = graph.operands(id) else {
            return None;
        };
        let shape = |operand: Operand| graph.operand_type(operand).map(|value| value.shape);
        if !output.dtype.is_float()
            || output.shape.len() != 3
            || output.shape[0] != 1
            || !whole_vectors(output.shape[2])
        {
            return None;
        }
        if op.is("Gather") && op.int("axis", 0) == 0 {
            let is_input = matches!(graph.op(second.value()?.node), Op::Input(_));
            let table = first.weight().and(shape(first))?;
            return (is_input && table.len() == 2).then_some(Embedding::Lookup);
        }
        let (value, constant) = if first.value().is_some() { (0, 1) } else { (1, 0) };
        let [term, added] = [value, constant].map(|at| graph.operands(id)[at]);
        let fits = op.is("Add") && added.weight().is_some() && term.value().is_some();
        let same = shape(term)?.dims() == output.shape.dims() && shape(added)?.elements() == output.shape.elements();
        (fits && same).then_some(Embedding::Sum { value, constant })
    }
}

fn conv_has_kernel(graph: &Graph, id: NodeId, conv: &Conv) -> bool {
    let at = |which| conv.operand_index(which);
    let given = [ConvOperand::Weight, ConvOperand::Bias].into_iter().filter_map(at);
    // whoever scales or concatenates needs whole vectors of every source; a plain map is padded
    let sources = 0..=usize::from(conv.concat);
    let plain = !conv.affine && !conv.concat;
    is_applied(conv.activation)
        && (conv.affine || conv.activation == Activation::None)
        && are_weights(graph, id, &given.collect::<Vec<_>>())
        && (plain || sources.into_iter().all(|at| whole_vectors(channels(graph, id, at))))
}

fn is_applied(activation: Activation) -> bool {
    matches!(activation, Activation::None | Activation::Silu)
}

fn whole_vectors(channels: usize) -> bool {
    channels > 0 && channels.is_multiple_of(CHANNELS)
}

fn are_weights(graph: &Graph, id: NodeId, positions: &[usize]) -> bool {
    let operands = graph.operands(id);
    positions.iter().all(|&at| matches!(operands[at], Operand::Weight(_)))
}

fn is_tokens(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).outputs()[0].shape.len() == 3
}

fn is_rows(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).outputs()[0].shape.len(), 3 | 4)
}

fn last(graph: &Graph, id: NodeId) -> usize {
    graph.node(id).outputs()[0].shape.last().copied().unwrap_or(0)
}

/// Keys of an attention.
fn tokens(graph: &Graph, id: NodeId) -> usize {
    let keys = graph.operand_type(graph.operands(id)[1]);
    keys.map_or(usize::MAX, |keys| keys.shape[1])
}

/// Channels of an operand: axis 1 of maps, the last of everything else.
fn channels(graph: &Graph, id: NodeId, position: usize) -> usize {
    let value = graph.operand_type(graph.operands(id)[position]);
    value.map_or(0, |value| match value.shape[..] {
        [_, channels, _, _] => channels,
        _ => value.shape.last().copied().unwrap_or(0),
    })
}
