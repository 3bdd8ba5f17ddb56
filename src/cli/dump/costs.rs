//! What a plan knows about the nodes of a graph: work, slots, tile candidates.

use fisec_ir::Graph;
use fisec_ir::dump::{Details, Dump};
use fisec_passes::analysis::{REFERENCE_SHARES, representative_mask};
use fisec_plan::{Extent, Kernel, Node, Plan, Program};
use fisec_runtime::Binding;
use fisec_tensor::active_tiles;

use crate::cli::units;

/// The graph with what the plan says about the same ONNX nodes.
pub fn with_costs<'g>(graph: &'g Graph, plan: &'g Plan) -> Dump<'g> {
    let program = plan.programs.iter().find(|(kind, _)| kind.name() == graph.name());
    let [share, ..] = REFERENCE_SHARES;
    let finest = plan.levels.first().map_or((1, 1), |level| (level.height, level.width));
    let binding = Binding::bind(plan, &representative_mask(finest.0, finest.1, share)).ok();
    Dump::new(graph).details(move |id| {
        let names = &graph.origin(id).names;
        let Some((_, program)) = program else {
            return Details::default();
        };
        let is_same = |node: &&Node| !names.is_empty() && node.provenance.origin == *names;
        let Some(node) = program.nodes.iter().find(is_same) else {
            return Details::default();
        };
        let mut notes: Vec<String> = slots(plan, node).collect();
        if let Some(binding) = &binding {
            notes.extend(candidates(program, node, binding));
        }
        Details {
            macs: Some(node.macs_dense),
            predicted_macs: Some(node.macs_predicted[0]),
            notes,
        }
    })
}

/// Slots that a call reads, with their bytes.
fn slots(plan: &Plan, node: &Node) -> impl Iterator<Item = String> {
    let read = node.kernel.slots_read().into_iter();
    read.map(|slot| {
        let slot = &plan.slots[slot.index()];
        format!("reads slot {}, {} per step", slot.name, units::bytes(slot.bytes))
    })
}

/// Tile sizes that a convolution may use and what each is predicted to take.
fn candidates(program: &Program, node: &Node, binding: &Binding) -> Vec<String> {
    let Kernel::Conv(conv) = &node.kernel else {
        return Vec::new();
    };
    let Extent::Active(level) = program.values[conv.output.index()].extent else {
        return Vec::new();
    };
    let mask = binding.active(level).mask();
    let describe = |candidate: &fisec_plan::TileCandidate| {
        let tiles = active_tiles(mask, candidate.tile).len();
        let time = units::seconds(candidate.predict(tiles) / 1e9);
        format!("tile {}: {tiles} tiles at 5 %, {time} predicted", candidate.tile)
    };
    conv.candidates.iter().map(describe).collect()
}
