//! Cross-attention control: what a plan that has it expects at run time.

use crate::{Plan, SlotId, SlotKind};

/// An input of a `guide` program under control. All are f32 and given with every step.
///
/// Of the conditioned images, the second half, each probability `p` of new token `t` becomes
/// `(blend[t] * Σ recorded[s] * mapper[s, t] + (1 - blend[t]) * p) * weight[t]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlInput {
    /// `[tokens, tokens]`: how much of each recorded token (row) makes a new one (column)
    Mapper,
    /// `[tokens]`: the recorded maps' share, 0 to 1
    Blend,
    /// `[tokens]`: a factor on the result
    Weight,
}

impl ControlInput {
    /// All, in the order of the attention's operands.
    pub const ALL: [ControlInput; 3] = [ControlInput::Mapper, ControlInput::Blend, ControlInput::Weight];

    /// The name in [`crate::Program::inputs`].
    pub const fn name(self) -> &'static str {
        match self {
            ControlInput::Mapper => "control.mapper",
            ControlInput::Blend => "control.blend",
            ControlInput::Weight => "control.weight",
        }
    }

    /// Dimensions for prompts of `tokens` tokens.
    pub fn dims(self, tokens: usize) -> Vec<usize> {
        match self {
            ControlInput::Mapper => vec![tokens; 2],
            ControlInput::Blend | ControlInput::Weight => vec![tokens],
        }
    }
}

impl Plan {
    /// Whether `guide` runs under control.
    pub fn has_control(&self) -> bool {
        self.programs.guide.inputs.contains_key(ControlInput::Mapper.name())
    }

    /// The slots that hold cross-attention maps, with their level.
    pub fn map_slots(&self) -> impl Iterator<Item = (SlotId, u32)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(index, slot)| match slot.kind {
            SlotKind::Maps { level } => Some((SlotId(index as u32), level)),
            _ => None,
        })
    }
}
