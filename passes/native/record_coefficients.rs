//! Record a norm's scale and shift instead of its statistics, so that an edit computes nothing of a frozen norm.
//!
//! Before, in `record`: `cache.write "….stats", %s; %c = norm_coefficients %s`; in `edit`: `%s = cache.read "….stats";
//! %c = norm_coefficients %s`
//!
//! After, in `record`: `%c = norm_coefficients %s; cache.write "….stats", %c`; in `edit`: `%c = cache.read "….stats"`

use std::collections::HashSet;

use fisec_ir::{Graph, NodeId, Op, Operand, SlotId, SlotInfo, ValueId};

use crate::{Changes, PassError};

/// Rewrites every norm of `edit` that reads recorded statistics which nothing else reads as statistics.
///
/// In `record`, norms are spelled out and equal nodes merged.
pub fn record_coefficients(record: &mut Graph, edit: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    let mut taken: HashSet<SlotId> = HashSet::new();
    for id in edit.ids() {
        let Some(slot) = frozen_norm(edit, id) else { continue };
        let Some(coefficients) = same_norm(record, edit, id, slot) else {
            continue;
        };
        let value_type = edit.node(id).outputs()[0].clone();
        let info = SlotInfo {
            value_type: value_type.clone(),
            ..edit.slot(slot).clone()
        };
        let only_user = edit.users(read_of(edit, id)).len() == 1;
        let slot = if only_user && taken.insert(slot) {
            let mut slots = edit.slots().to_vec();
            slots[slot.0 as usize] = info;
            edit.set_slots(slots);
            let write = writer(record, slot).expect("same_norm found it");
            record.set_operands(write, vec![coefficients.into()]);
            slot
        } else {
            let name = format!("{}#{}", info.name, edit.slots().len());
            let slot = edit.add_slot(SlotInfo { name, ..info });
            let origin = record.origin(coefficients.node).clone();
            record.add(Op::CacheWrite(slot), vec![coefficients.into()], vec![], origin);
            slot
        };
        let origin = edit
            .origin(id)
            .clone()
            .because("scale and shift recorded at the same step");
        let read = edit.add_value(Op::CacheRead(slot), vec![], value_type, origin);
        edit.replace_uses(ValueId { node: id, output: 0 }, read);
        changes += Changes(1);
    }
    record.set_slots(edit.slots().to_vec());
    edit.prune();
    record.prune();
    Ok(changes)
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

fn writer(record: &Graph, slot: SlotId) -> Option<NodeId> {
    record
        .ids()
        .into_iter()
        .find(|&id| *record.op(id) == Op::CacheWrite(slot))
}

/// The coefficients of the same norm in `record`: from the statistics that the slot records, with the same weights.
fn same_norm(record: &Graph, edit: &Graph, id: NodeId, slot: SlotId) -> Option<ValueId> {
    let stats = record.operands(writer(record, slot)?)[0].value()?;
    let affine = |graph: &Graph, id: NodeId| -> Vec<Operand> { graph.operands(id)[1..].to_vec() };
    let mut users = record.users(stats).into_iter().map(|(user, _)| user);
    let node = users.find(|&user| record.op(user) == edit.op(id) && affine(record, user) == affine(edit, id))?;
    Some(ValueId { node, output: 0 })
}
