//! Let recorded cross-attention steer a new prompt (Prompt-to-Prompt).
//!
//! Before: `%y = attention %q, %k, %v`, keys and values from the text.
//!
//! After, in `record` and `guide`: `%m = attention_maps %q, %k; cache.write s9, %m`
//!
//! After, in `guide`: `%r = cache.read s9; %y = attention %q, %k, %v, %r, %mapper, %blend, %weight, control`
//!
//! Mapper, blend and weight are inputs of the program: which words changed is known when it runs.

use fisec_ir::{
    Control, Graph, LevelId, NodeId, Op, Operand, Origin, SlotId, SlotInfo, Stage, ValueId, ValueType, maps_shape,
};
use fisec_plan::ControlInput;
use fisec_tensor::{DType, Shape};

use crate::analysis::{Places, Stages};
use crate::{Changes, PassError};

/// A cross-attention whose maps are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controlled {
    /// the attention, in every program made of the dense one
    pub attention: NodeId,
    /// where its maps go
    pub slot: SlotId,
    /// its resolution
    pub level: LevelId,
}

/// The cross-attentions of the `count` coarsest levels that have any, with their level; all levels when `None`.
pub fn cross_attentions(
    dense: &Graph,
    stages: &Stages,
    places: &Places,
    count: Option<usize>,
) -> Vec<(NodeId, LevelId)> {
    let found = dense.ids().into_iter().filter_map(|id| {
        let Op::Attention { control: None, .. } = dense.op(id) else {
            return None;
        };
        let [queries, keys] = [dense.operands(id)[0].value()?, dense.operands(id)[1].value()?];
        let reads_text = stages.get(id) == Stage::Step && stages.get(keys.node) == Stage::Prompt;
        // which images follow the prompt is told by their place along the first axis
        let of_images = [queries, keys].into_iter().all(|value| places.counts_images(value));
        let level = places.level_of(ValueId { node: id, output: 0 })?;
        (reads_text && of_images).then_some((id, level))
    });
    let found: Vec<(NodeId, LevelId)> = found.collect();
    let mut coarsest: Vec<LevelId> = found.iter().map(|(_, level)| *level).collect();
    coarsest.sort_unstable_by_key(|level| std::cmp::Reverse(level.0));
    coarsest.dedup();
    coarsest.truncate(count.unwrap_or(usize::MAX));
    found
        .into_iter()
        .filter(|(_, level)| coarsest.contains(level))
        .collect()
}

/// Records the maps of these attentions, each in a new slot.
pub fn expose_maps(
    graph: &mut Graph,
    attentions: &[(NodeId, LevelId)],
    exposed: &mut Vec<Controlled>,
) -> Result<Changes, PassError> {
    for &(attention, level) in attentions {
        let Op::Attention { heads, scale, .. } = *graph.op(attention) else {
            unreachable!("chosen among attentions")
        };
        let [q, k] = [0, 1].map(|position| graph.operands(attention)[position]);
        let origin =
            Origin::merged("expose_maps", [graph.origin(attention)]).because("control reads what words attend to");
        let value_type = maps_type(graph, attention, heads);
        let name = format!("{}.maps", graph.origin(attention).label());
        let name = graph.unique_slot_name(&name);
        let slot = graph.add_slot(SlotInfo {
            name,
            value_type: value_type.clone(),
            level: Some(level),
        });
        let maps = Op::AttentionMaps { heads, scale };
        let maps = graph.add_value(maps, vec![q, k], value_type, origin.clone());
        graph.add(Op::CacheWrite(slot), vec![maps.into()], vec![], origin);
        exposed.push(Controlled { attention, slot, level });
    }
    Ok(Changes(attentions.len()))
}

/// Puts every one of these attentions under control of the recorded maps.
pub fn control_attention(graph: &mut Graph, controlled: &[Controlled]) -> Result<Changes, PassError> {
    let Some(first) = controlled.first() else {
        return Ok(Changes(0));
    };
    let keys = graph.slot(first.slot).value_type.shape[2];
    let tables = ControlInput::ALL.map(|input| {
        let value = ValueType::full(DType::F32, Shape::from(input.dims(keys)));
        let origin = Origin {
            pass: "control_attention".into(),
            reason: "which words changed is known at run time".into(),
            ..Origin::default()
        };
        graph.add_value(Op::Input(input.name().into()), vec![], value, origin)
    });
    for each in controlled {
        steer(graph, each, tables);
    }
    Ok(Changes(controlled.len()))
}

fn steer(graph: &mut Graph, controlled: &Controlled, tables: [ValueId; 3]) {
    let id = controlled.attention;
    let Op::Attention { heads, scale, .. } = *graph.op(id) else {
        unreachable!("chosen among attentions")
    };
    let origin = Origin::merged("control_attention", [graph.origin(id)]).because("kept words look where they looked");
    let slot = graph.slot(controlled.slot).value_type.clone();
    let recorded = graph.add_value(Op::CacheRead(controlled.slot), vec![], slot, origin.clone());
    let mut operands: Vec<Operand> = graph.operands(id).to_vec();
    operands.push(recorded.into());
    operands.extend(tables.map(Operand::from));
    graph.set_op(
        id,
        Op::Attention {
            heads,
            scale,
            control: Some(Control),
        },
    );
    graph.set_operands(id, operands);
    graph.set_origin(id, origin);
}

fn maps_type(graph: &Graph, attention: NodeId, heads: usize) -> ValueType {
    let shape_of = |position: usize| {
        graph
            .operand_type(graph.operands(attention)[position])
            .map(|value| value.shape)
    };
    let (Some(q), Some(k)) = (shape_of(0), shape_of(1)) else {
        unreachable!("verified: queries and keys are values")
    };
    ValueType::full(DType::F32, maps_shape(q[0], heads, q[1], k[1]))
}
