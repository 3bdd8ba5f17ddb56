//! Sequences of tensors, as far as exporters use them: cut a value, take one part.

use fisec_ir::{Graph, NodeId, Operand, WeightInfo};
use fisec_tensor::HostTensor;

use super::infer_shapes::axis;
use super::pattern::{made_by, onnx, result, scalar, standard, weight_ints};

/// Turns `SequenceAt(SplitToSequence(x, sizes), i)` into the `Slice` that it is.
pub(super) fn slice_of_sequence(graph: &mut Graph, id: NodeId) -> Option<()> {
    if !onnx(graph, result(id))?.is("SequenceAt") {
        return None;
    }
    let sequence = made_by(graph, graph.operands(id)[0], "SplitToSequence")?;
    let index = scalar(graph, *graph.operands(id).get(1)?)? as i64;
    let operands = graph.operands(sequence).to_vec();
    let shape = graph.operand_type(operands[0])?.shape;
    let op = onnx(graph, result(sequence))?;
    let axis = axis(op.int("axis", 0), shape.len())?;
    let sizes = part_sizes(graph, operands.get(1).copied(), shape[axis] as i64)?;
    if operands.len() < 2 && op.int("keepdims", 1) == 0 {
        return None;
    }
    let index = if index < 0 { index + sizes.len() as i64 } else { index };
    let index = usize::try_from(index).ok().filter(|&index| index < sizes.len())?;
    let start: i64 = sizes[..index].iter().sum();
    let bounds = [start, start + sizes[index], axis as i64].map(|value| {
        let data = HostTensor::from_i64(vec![1], vec![value]).into();
        let name = format!("{}.bound", graph.origin(id).label());
        Operand::Weight(graph.add_weight(WeightInfo { name, data }))
    });
    graph.set_op(id, standard("Slice", &[]));
    graph.set_operands(id, [vec![operands[0]], bounds.to_vec()].concat());
    Some(())
}

/// Parts of a sequence that are listed; exporters cut a value into a handful.
const MOST_PARTS: i64 = 1 << 12;

/// The sizes of all parts, [`MOST_PARTS`] at most: as listed, or equal ones with what is left as the last.
fn part_sizes(graph: &Graph, split: Option<Operand>, total: i64) -> Option<Vec<i64>> {
    let Some(split) = split else {
        let parts = usize::try_from(total).ok().filter(|_| total <= MOST_PARTS)?;
        return Some(vec![1; parts]);
    };
    let listed = weight_ints(graph, split)?;
    let scalar_size = graph.operand_type(split)?.shape.is_empty();
    if !scalar_size {
        let is_sane = listed.len() <= MOST_PARTS as usize && listed.iter().all(|&size| size >= 0);
        return is_sane.then_some(listed);
    }
    let size = *listed.first().filter(|&&size| size > 0 && total / size < MOST_PARTS)?;
    Some(
        (0..total)
            .step_by(size as usize)
            .map(|start| size.min(total - start))
            .collect(),
    )
}
