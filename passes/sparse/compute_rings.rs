//! Which values are computed around the active set instead of being recorded for a halo.
//!
//! A block's second convolution reads the first one's result one pixel beyond the active set. Where the first one has few
//! channels to multiply, computing that ring costs less than a slot is worth: the active set of such an operator is the
//! level's and the ring around it, and nobody reads what is recorded outside.

use std::collections::HashSet;

use fisec_ir::{Activation, Conv, Graph, NodeId, Op, RING, ValueId};
use fisec_tensor::Mask;

use super::Sparsity;
use crate::analysis::representative_mask;
use crate::cost::pooled_masks;

/// Share of active latents that rings are weighed for.
const SHARE: f64 = 0.15;

/// Most multiply-accumulates, under two discs, for a byte that need not be recorded; masks found on pictures have three
/// times the ring. For Stable Diffusion 2 at 768×768 these are the five blocks of the finest level and one of the next.
const MOST_PER_BYTE: f64 = 120.0;

/// Bytes of a recorded element.
const ELEMENT: f64 = 2.0;

/// The operators from first convolutions to second ones whose results are computed on the ring too.
pub fn compute_rings(dense: &Graph, sparsity: &Sparsity) -> HashSet<NodeId> {
    let Some(&(height, width)) = sparsity.levels.sizes().first() else {
        return HashSet::new();
    };
    let masks = pooled_masks(representative_mask(height, width, SHARE), &sparsity.levels);
    let rings: Vec<f64> = masks.iter().map(ring_share).collect();
    let convs = dense.ids().into_iter();
    let chains = convs.filter_map(|id| chain(dense, sparsity, &rings, id));
    chains.flatten().collect()
}

/// Pixels of the ring as a share of the map's.
fn ring_share(mask: &Mask) -> f64 {
    mask.dilated(RING).share() - mask.share()
}

/// A first convolution and what stands between it and the second one.
fn chain(dense: &Graph, sparsity: &Sparsity, rings: &[f64], first: NodeId) -> Option<Vec<NodeId>> {
    neighbours(dense, first)?;
    let level = sparsity.sparse_level(ValueId { node: first, output: 0 })?;
    let weight = dense.operand_type(dense.operands(first)[1])?.shape;
    let products: usize = weight[1..].iter().product();
    if rings[level.0 as usize] * products as f64 > MOST_PER_BYTE * ELEMENT {
        return None;
    }
    let mut nodes = vec![first];
    loop {
        let last = *nodes.last()?;
        let user = dense.sole_user(ValueId { node: last, output: 0 })?;
        let reads_map = dense.operands(user)[0].value().map(|value| value.node) == Some(last);
        match dense.op(user) {
            Op::AddVector if reads_map && nodes.len() == 1 => nodes.push(user),
            Op::GroupNorm(norm) if matches!(norm.activation, Activation::None | Activation::Silu) => nodes.push(user),
            Op::Activate(Activation::Silu) => nodes.push(user),
            Op::Conv(_) if reads_map => {
                neighbours(dense, user)?;
                return Some(nodes);
            }
            _ => return None,
        }
    }
}

fn neighbours(dense: &Graph, id: NodeId) -> Option<&Conv> {
    match dense.op(id) {
        Op::Conv(conv) if conv.reads_neighbours() => Some(conv),
        _ => None,
    }
}
