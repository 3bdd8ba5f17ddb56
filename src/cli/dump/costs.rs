//! What a plan knows about the nodes of a graph: work, slots, tile candidates.

use fisec_ir::Graph;
use fisec_ir::dump::{Details, Dump};
use fisec_passes::analysis::{REFERENCE_SHARES, dense_macs, representative_mask, sparse_macs};
use fisec_plan::{Extent, Kernel, Node, Plan, Program};
use fisec_runtime::Binding;
use fisec_tensor::active_tiles;

use crate::cli::units;

/// The graph with the work of its nodes, and what the plan says about calls that compute the same ONNX nodes.
pub fn with_costs<'g>(graph: &'g Graph, plan: &'g Plan) -> Dump<'g> {
    let program = plan.programs.iter().find(|(kind, _)| kind.name() == graph.name());
    let [share, ..] = REFERENCE_SHARES;
    let finest = plan.levels.first().map_or((1, 1), |level| (level.height, level.width));
    let binding = Binding::bind(plan, &representative_mask(finest.0, finest.1, share)).ok();
    let masks = binding.as_ref().map(|binding| {
        let levels = binding.levels().iter();
        levels.map(|active| active.mask().clone()).collect::<Vec<_>>()
    });
    Dump::new(graph).details(move |id| {
        let macs = dense_macs(graph, id);
        if macs == 0 {
            return Details::default();
        }
        let names = &graph.origin(id).names;
        let is_same = |node: &&Node| !names.is_empty() && node.provenance.origin == *names;
        let call = program.and_then(|(_, program)| Some((program, program.nodes.iter().find(is_same)?)));
        let mut notes = Vec::new();
        if let Some((program, node)) = call {
            notes.extend(slots(plan, node));
            notes.extend(taps(node));
            notes.extend(binding.iter().flat_map(|binding| candidates(program, node, binding)));
        }
        Details {
            macs: Some(macs),
            predicted_macs: masks.as_ref().map(|masks| sparse_macs(graph, id, masks)),
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

/// How a convolution of a doubled map is computed.
fn taps(node: &Node) -> Option<String> {
    let Kernel::Conv(conv) = &node.kernel else { return None };
    conv.by_parity?;
    Some("4 taps by the parity of the output, of 9 that the model has".into())
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
