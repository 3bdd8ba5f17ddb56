//! Convolutions that can be computed by the parity of their output pixels.

use fisec_ir::{Conv, Graph, NodeId, Padding};
use fisec_tensor::PARITY_TAPS;

/// Whether the convolution is 3×3 over a map of exactly twice the rows and columns of its input: each output then sees
/// 2×2 distinct pixels. An odd size is not: its last pixel has a tap outside where others have a pixel twice.
pub fn is_doubled(conv: &Conv, input: [usize; 2]) -> bool {
    let around = Padding {
        top: 1,
        left: 1,
        bottom: 1,
        right: 1,
    };
    conv.upsample == Some(input.map(|side| 2 * side))
        && (conv.kernel, conv.stride, conv.padding) == ([3, 3], [1, 1], around)
}

/// Taps of an output that a kernel multiplies.
pub fn multiplied_taps(conv: &Conv, input: [usize; 2]) -> usize {
    match is_doubled(conv, input) {
        true => PARITY_TAPS,
        false => conv.kernel.iter().product(),
    }
}

/// Rows and columns of a convolution's input map.
pub fn input_size(graph: &Graph, id: NodeId) -> Option<[usize; 2]> {
    let input = graph.operand_type(*graph.operands(id).first()?)?;
    match input.shape[..] {
        [_, _, height, width] => Some([height, width]),
        _ => None,
    }
}
