//! What a kernel call reads and writes.

use crate::{Kernel, SlotId, ValueId, WeightId};

impl Kernel {
    /// Name as in `plan.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Island(_) => "island",
            Kernel::Conv(_) => "conv",
            Kernel::Linear(_) => "linear",
            Kernel::Attention(_) => "attention",
            Kernel::ControlledAttention(_) => "controlled_attention",
            Kernel::AttentionMaps(_) => "attention_maps",
            Kernel::LayerNorm { .. } => "layer_norm",
            Kernel::Geglu { .. } => "geglu",
            Kernel::Silu { .. } => "silu",
            Kernel::Gelu { .. } => "gelu",
            Kernel::Lookup { .. } => "lookup",
            Kernel::AddConstant { .. } => "add_constant",
            Kernel::CausalAttention(_) => "causal_attention",
            Kernel::Add { .. } => "add",
            Kernel::GroupNormStats { .. } => "group_norm_stats",
            Kernel::GroupNormStatsUpdate(_) => "group_norm_stats_update",
            Kernel::NormCoefficients(_) => "norm_coefficients",
            Kernel::Affine { .. } => "affine",
            Kernel::Repeat { .. } => "repeat",
            Kernel::Concat { .. } => "concat",
            Kernel::ReadSlot { .. } => "read_slot",
            Kernel::WriteSlot { .. } => "write_slot",
            Kernel::Gather { .. } => "gather",
            Kernel::Scatter { .. } => "scatter",
        }
    }

    /// Values read, in operand order.
    pub fn inputs(&self) -> Vec<ValueId> {
        match self {
            Kernel::Island(call) => call.inputs.clone(),
            Kernel::Conv(conv) => conv
                .sources
                .iter()
                .map(|source| source.value)
                .chain(conv.coefficients)
                .chain(conv.vector)
                .chain(conv.residual.map(|residual| residual.value))
                .collect(),
            Kernel::Linear(linear) => std::iter::once(linear.input)
                .chain(linear.residual.map(|residual| residual.value))
                .collect(),
            Kernel::Attention(attention) => vec![attention.q, attention.k, attention.v],
            Kernel::ControlledAttention(attention) => vec![
                attention.q,
                attention.k,
                attention.v,
                attention.recorded,
                attention.mapper,
                attention.blend,
                attention.weight,
            ],
            Kernel::AttentionMaps(maps) => vec![maps.q, maps.k],
            Kernel::LayerNorm { input, .. }
            | Kernel::Geglu { input, .. }
            | Kernel::Silu { input, .. }
            | Kernel::Gelu { input, .. }
            | Kernel::Lookup { ids: input, .. }
            | Kernel::AddConstant { input, .. }
            | Kernel::Repeat { input, .. }
            | Kernel::WriteSlot { input, .. }
            | Kernel::Gather { input, .. } => vec![*input],
            Kernel::CausalAttention(attention) => vec![attention.q, attention.k, attention.v],
            Kernel::Add { a, b, .. } => vec![*a, b.value],
            Kernel::GroupNormStats { input, .. } => vec![input.value],
            Kernel::GroupNormStatsUpdate(update) => vec![update.input],
            Kernel::NormCoefficients(norm) => vec![norm.stats],
            Kernel::Affine {
                input, coefficients, ..
            } => vec![*input, *coefficients],
            Kernel::Concat { inputs, .. } => inputs.clone(),
            Kernel::ReadSlot { .. } => vec![],
            Kernel::Scatter { rows, .. } => vec![*rows],
        }
    }

    /// Values written.
    pub fn outputs(&self) -> Vec<ValueId> {
        match self {
            Kernel::Island(call) => call.outputs.clone(),
            Kernel::Conv(conv) => vec![conv.output],
            Kernel::Linear(linear) => std::iter::once(linear.output)
                .chain(linear.siblings.iter().copied())
                .collect(),
            Kernel::Attention(attention) => vec![attention.output],
            Kernel::ControlledAttention(attention) => vec![attention.output],
            Kernel::AttentionMaps(maps) => vec![maps.output],
            Kernel::CausalAttention(attention) => vec![attention.output],
            Kernel::GroupNormStatsUpdate(update) => vec![update.output],
            Kernel::NormCoefficients(norm) => vec![norm.output],
            Kernel::LayerNorm { output, .. }
            | Kernel::Geglu { output, .. }
            | Kernel::Silu { output, .. }
            | Kernel::Gelu { output, .. }
            | Kernel::Lookup { output, .. }
            | Kernel::AddConstant { output, .. }
            | Kernel::Add { output, .. }
            | Kernel::GroupNormStats { output, .. }
            | Kernel::Affine { output, .. }
            | Kernel::Repeat { output, .. }
            | Kernel::Concat { output, .. }
            | Kernel::ReadSlot { output, .. }
            | Kernel::Gather { output, .. }
            | Kernel::Scatter { output, .. } => vec![*output],
            Kernel::WriteSlot { .. } => vec![],
        }
    }

    /// Constants read.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            Kernel::Conv(conv) => std::iter::once(conv.weight)
                .chain(conv.by_parity)
                .chain(conv.bias)
                .collect(),
            Kernel::Linear(linear) => {
                let norm = linear.layer_norm.map(|(gamma, beta, _)| [gamma, beta]);
                std::iter::once(linear.weight)
                    .chain(linear.bias)
                    .chain(norm.into_iter().flatten())
                    .collect()
            }
            Kernel::LayerNorm { gamma, beta, .. } => vec![*gamma, *beta],
            Kernel::NormCoefficients(norm) => vec![norm.gamma, norm.beta],
            Kernel::Lookup { table: weight, .. } | Kernel::AddConstant { constant: weight, .. } => vec![*weight],
            _ => vec![],
        }
    }

    /// Slots read at the current step.
    pub fn slots_read(&self) -> Vec<SlotId> {
        match self {
            Kernel::Conv(conv) => conv.sources.iter().filter_map(|source| source.outside).collect(),
            Kernel::Attention(attention) => attention.k_outside.into_iter().chain(attention.v_outside).collect(),
            Kernel::GroupNormStats { input, .. } => input.outside.into_iter().collect(),
            Kernel::GroupNormStatsUpdate(update) => vec![update.recorded, update.recorded_stats],
            Kernel::ReadSlot { slot, .. } => vec![*slot],
            Kernel::Scatter { base, .. } => base.iter().copied().collect(),
            _ => vec![],
        }
    }

    /// The slot that this call records.
    pub fn slot_written(&self) -> Option<SlotId> {
        match self {
            Kernel::WriteSlot { slot, .. } => Some(*slot),
            _ => None,
        }
    }
}
