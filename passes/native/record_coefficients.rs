//! Record a norm's scale and shift instead of its statistics, so that an edit computes nothing of a frozen norm.
//!
//! Before, in `record`: `cache.write "….stats", %s; %c = norm_coefficients %s`; in `edit`: `%s = cache.read "….stats";
//! %c = norm_coefficients %s`
//!
//! After, in `record`: `%c = norm_coefficients %s; cache.write "….stats", %c`; in `edit`: `%c = cache.read "….stats"`

use std::collections::HashSet;

use fisec_ir::{Graph, NodeId, Op, Operand, SlotId, SlotInfo, ValueId};

use crate::{Changes, PassError};

/// Rewrites every norm of `edit` that reads recorded statistics. `dense` are the programs that record: `record`, and
/// `guide` where it does too; their norms are spelled out and equal nodes merged.
pub fn record_coefficients(dense: &mut [&mut Graph], edit: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    let mut taken: HashSet<SlotId> = HashSet::new();
    // slots have one numbering in all programs, the ones that only dense programs know included
    edit.set_slots(dense[0].slots().to_vec());
    for id in edit.ids() {
        let Some(slot) = frozen_norm(edit, id) else { continue };
        let norms: Vec<Option<ValueId>> = dense.iter().map(|graph| same_norm(graph, edit, id, slot)).collect();
        if norms[0].is_none() {
            continue;
        }
        let value_type = edit.node(id).outputs()[0].clone();
        let info = SlotInfo {
            value_type: value_type.clone(),
            ..edit.slot(slot).clone()
        };
        let is_only_user = edit.sole_user(read_of(edit, id)).is_some();
        let in_place = is_only_user && taken.insert(slot);
        let target = match in_place {
            true => replace_slot(edit, slot, info.clone()),
            false => edit.add_slot(SlotInfo {
                name: format!("{}#{}", info.name, edit.slots().len()),
                ..info
            }),
        };
        for (graph, norm) in dense.iter_mut().zip(norms) {
            let Some(norm) = norm else { continue };
            if in_place {
                let write = writer(graph, slot).expect("same_norm found it");
                graph.set_operands(write, vec![norm.into()]);
            } else {
                let origin = graph.origin(norm.node).clone();
                graph.set_slots(edit.slots().to_vec());
                graph.add(Op::CacheWrite(target), vec![norm.into()], vec![], origin);
            }
        }
        let origin = edit
            .origin(id)
            .clone()
            .because("scale and shift recorded at the same step");
        let read = edit.add_value(Op::CacheRead(target), vec![], value_type, origin);
        edit.replace_uses(ValueId { node: id, output: 0 }, read);
        changes += Changes(1);
    }
    edit.prune();
    for graph in dense {
        graph.set_slots(edit.slots().to_vec());
        graph.prune();
    }
    Ok(changes)
}

fn replace_slot(graph: &mut Graph, slot: SlotId, info: SlotInfo) -> SlotId {
    let mut slots = graph.slots().to_vec();
    slots[slot.0 as usize] = info;
    graph.set_slots(slots);
    slot
}

fn read_of(edit: &Graph, id: NodeId) -> ValueId {
    edit.operands(id)[0].value().expect("checked by frozen_norm")
}

/// The slot whose statistics a norm reads.
fn frozen_norm(edit: &Graph, id: NodeId) -> Option<SlotId> {
    let Op::NormCoefficients { .. } = edit.op(id) else {
        return None;
    };
    match *edit.op(edit.operands(id)[0].value()?.node) {
        Op::CacheRead(slot) => Some(slot),
        _ => None,
    }
}

fn writer(graph: &Graph, slot: SlotId) -> Option<NodeId> {
    graph
        .ids()
        .into_iter()
        .find(|&id| *graph.op(id) == Op::CacheWrite(slot))
}

/// The coefficients of the same norm in a dense program: from the statistics that the slot records, with the same weights.
fn same_norm(graph: &Graph, edit: &Graph, id: NodeId, slot: SlotId) -> Option<ValueId> {
    let stats = graph.operands(writer(graph, slot)?)[0].value()?;
    let affine = |graph: &Graph, id: NodeId| -> Vec<Operand> { graph.operands(id)[1..].to_vec() };
    let mut users = graph.uses(stats).map(|(user, _)| user);
    let node = users.find(|&user| graph.op(user) == edit.op(id) && affine(graph, user) == affine(edit, id))?;
    Some(ValueId { node, output: 0 })
}
