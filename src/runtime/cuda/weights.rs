//! Constants of the steps on the device.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fisec_kernels::cuda::{FoldParams, fold_norm};
use fisec_plan::{Bundle, Node, Plan, Stage, WeightId};

use super::driver::{Buffer, Device, Functions};
use super::folded::Fold;
use crate::RuntimeError;

/// Weights begin at multiples of this.
const ALIGNMENT: usize = 256;

/// All weights that native nodes read, in one buffer.
pub(super) struct Weights {
    _buffer: Buffer,
    pub(super) addresses: HashMap<WeightId, u64>,
    _extra: Buffer,
    pub(super) folded: HashMap<WeightId, FoldedWeight>,
}

/// What stands beside a weight that holds a layer norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoldedWeight {
    /// f16
    pub(super) bias: u64,
    /// f32, one for every column
    pub(super) column_sums: u64,
}

/// Where everything folded is, from `base` on, and the bytes in all.
pub(super) fn place_folded(
    plan: &Plan,
    folds: &BTreeMap<WeightId, Fold>,
    base: u64,
) -> (HashMap<WeightId, FoldedWeight>, usize) {
    let mut bytes = 0;
    let placed = folds.keys().map(|&id| {
        let columns = columns(plan, id);
        let place = FoldedWeight {
            column_sums: base + bytes as u64,
            bias: base + (bytes + columns * size_of::<f32>()) as u64,
        };
        bytes = (bytes + columns * (size_of::<f32>() + 2)).next_multiple_of(ALIGNMENT);
        (id, place)
    });
    (placed.collect(), bytes)
}

/// Columns of a product's packed weight.
fn columns(plan: &Plan, id: WeightId) -> usize {
    plan.weights[id.index()].shape[1]
}

impl Weights {
    /// Those of the given nodes that run at every step; some hold layer norms.
    pub(super) fn upload<'a>(
        device: &Arc<Device>,
        functions: &Functions,
        bundle: &Bundle,
        nodes: impl Iterator<Item = &'a Node>,
        folds: &BTreeMap<WeightId, Fold>,
    ) -> Result<Self, RuntimeError> {
        let plan = bundle.plan();
        let steps = nodes.filter(|node| node.stage == Stage::Step);
        let used: BTreeSet<WeightId> = steps.flat_map(|node| node.kernel.weights()).collect();
        let mut offsets = Vec::with_capacity(used.len());
        let mut bytes = 0usize;
        for id in used {
            offsets.push((id, bytes));
            bytes = (bytes + plan.weights[id.index()].bytes as usize).next_multiple_of(ALIGNMENT);
        }
        let mut buffer = device.allocate(bytes)?;
        for &(id, offset) in &offsets {
            buffer.write(offset, bundle.weight(id)?.data())?;
        }
        let base = buffer.address();
        let addresses = offsets.into_iter().map(|(id, offset)| (id, base + offset as u64));
        let extra = device.allocate(place_folded(plan, folds, 0).1)?;
        let weights = Weights {
            addresses: addresses.collect(),
            folded: place_folded(plan, folds, extra.address()).0,
            _buffer: buffer,
            _extra: extra,
        };
        for (&id, fold) in folds {
            let params = weights.fold(plan, id, fold);
            // SAFETY: all of its addresses are those of `weights`.
            unsafe { device.launch(functions, &fold_norm(&params))? };
        }
        device.synchronize()?;
        Ok(weights)
    }

    fn fold(&self, plan: &Plan, id: WeightId, fold: &Fold) -> FoldParams {
        let place = self.folded[&id];
        FoldParams {
            weights: self.addresses[&id],
            gamma: self.addresses[&fold.gamma],
            beta: self.addresses[&fold.beta],
            bias: fold.bias.map_or(0, |bias| self.addresses[&bias]),
            folded_bias: place.bias,
            column_sums: place.column_sums,
            channels: plan.weights[fold.gamma.index()].shape.elements() as i32,
            cout: columns(plan, id) as i32,
        }
    }
}
