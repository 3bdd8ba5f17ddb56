//! From a dense program to one that computes only active pixels and tokens.

mod compute_rings;
mod freeze_norm;
mod mark_sparse;
mod spread_demand;
mod update_stats;

pub use compute_rings::compute_rings;
pub use freeze_norm::freeze_norm;
pub use mark_sparse::mark_sparse;
pub use spread_demand::spread_demand;
pub use update_stats::update_stats;

use std::collections::{HashMap, HashSet};

use fisec_ir::{Graph, LevelId, NodeId, SlotId, SlotInfo, ValueId, ValueType};

use crate::analysis::{Levels, Places};

/// What the sparse passes share: where the active levels are, and which value of the dense program each slot records.
///
/// Node ids survive cloning, so a [`ValueId`] of the dense graph means the same value in every program made of it.
#[derive(Clone, Debug)]
pub struct Sparsity {
    /// all resolutions
    pub levels: Levels,
    /// which values of the dense program are maps or tokens of which level
    pub places: Places,
    /// how many of the finest levels compute only active pixels
    pub sparse_levels: usize,
    /// nodes that are computed on the ring around the active set too
    pub rings: HashSet<NodeId>,
    /// what `record` must write into each slot
    pub recorded: HashMap<SlotId, Recorded>,
}

/// The value of the dense program that a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// the value itself
    Value(ValueId),
    /// mean and variance of its channel groups
    Stats {
        /// the map
        of: ValueId,
        /// number of groups
        groups: usize,
    },
}

impl Sparsity {
    /// The level of a value when that level is sparse.
    pub fn sparse_level(&self, value: ValueId) -> Option<LevelId> {
        self.places
            .level_of(value)
            .filter(|level| (level.0 as usize) < self.sparse_levels)
    }

    fn slot(&mut self, graph: &mut Graph, name: &str, value_type: ValueType, recorded: Recorded) -> SlotId {
        let level = match recorded {
            Recorded::Value(value) => self.places.level_of(value),
            Recorded::Stats { .. } => None,
        };
        let name = graph.unique_slot_name(name);
        let slot = graph.add_slot(SlotInfo {
            name,
            value_type,
            level,
        });
        self.recorded.insert(slot, recorded);
        slot
    }

    /// Drops slots that no `cache.read` uses any more and renumbers the others.
    pub fn compact_slots(&mut self, graph: &mut Graph) {
        let mut kept = Vec::new();
        let mut renumbered: HashMap<SlotId, SlotId> = HashMap::new();
        for id in graph.ids() {
            let fisec_ir::Op::CacheRead(slot) = *graph.op(id) else {
                continue;
            };
            let new = *renumbered.entry(slot).or_insert_with(|| {
                kept.push(graph.slot(slot).clone());
                SlotId(kept.len() as u32 - 1)
            });
            graph.set_op(id, fisec_ir::Op::CacheRead(new));
        }
        let recorded = renumbered
            .iter()
            .filter_map(|(old, new)| Some((*new, *self.recorded.get(old)?)));
        self.recorded = recorded.collect();
        graph.set_slots(kept);
    }
}
