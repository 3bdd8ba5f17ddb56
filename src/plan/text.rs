//! Programs as text: one line per kernel call, in the manner of IR text.

use std::fmt::Write;

use crate::{
    ConvKernel, ConvSource, Extent, Kernel, LinearKernel, Node, Plan, Program, SlotId, Stage, ValueId, WeightId,
};

/// A program as text, for people to read.
///
/// ```text
/// %4 = conv %2 outside=$0:conv_in, @conv1.weight, k=3x3 +silu : f32[2,64,64,64] active(0)   ; sparsify_conv: level 0 is sparse
/// ```
pub fn program_text(plan: &Plan, program: &Program) -> String {
    let mut text = String::new();
    for (name, id) in &program.inputs {
        let input = format!("%{} = input {name}{}", id.0, type_of(program, *id));
        let _ = writeln!(text, "{}", on_one_line(&input));
    }
    for node in &program.nodes {
        let _ = writeln!(text, "{}", on_one_line(&line(plan, program, node)));
    }
    for (name, id) in &program.outputs {
        let _ = writeln!(text, "{}", on_one_line(&format!("output {name} = %{}", id.0)));
    }
    text
}

/// Names come from the model: a line break or another control character in one is spelled out.
fn on_one_line(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for letter in line.chars() {
        match letter.is_control() {
            true => text.extend(letter.escape_default()),
            false => text.push(letter),
        }
    }
    text
}

fn line(plan: &Plan, program: &Program, node: &Node) -> String {
    let outputs = node.kernel.outputs();
    let results: Vec<String> = outputs.iter().map(|id| format!("%{}", id.0)).collect();
    let mut line = match results.is_empty() {
        true => String::new(),
        false => format!("{} = ", results.join(", ")),
    };
    line += &call(plan, &node.kernel);
    if let Some(first) = outputs.first() {
        line += &type_of(program, *first);
    }
    if node.stage != Stage::Step {
        line += match node.stage {
            Stage::Prompt => " once per prompt",
            _ => " once per timestep",
        };
    }
    line += &format!("   ; {}", node.name);
    if !node.provenance.pass.is_empty() {
        line += &format!(" ({}: {})", node.provenance.pass, node.provenance.reason);
    }
    line
}

fn type_of(program: &Program, id: ValueId) -> String {
    let value = &program.values[id.index()];
    let extent = match value.extent {
        Extent::Full => String::new(),
        Extent::Active(level) => format!(" active({level})"),
    };
    format!(" : {}[{}]{extent}", value.dtype, value.shape)
}

fn call(plan: &Plan, kernel: &Kernel) -> String {
    let name = kernel.name();
    let inputs: Vec<String> = kernel.inputs().iter().map(|id| format!("%{}", id.0)).collect();
    let inputs = inputs.join(", ");
    match kernel {
        Kernel::Island(call) => format!("island {} ({inputs})", plan.islands[call.island.index()].name),
        Kernel::Conv(conv) => conv_call(plan, conv),
        Kernel::Linear(linear) => linear_call(plan, linear),
        Kernel::Attention(attention) => {
            let outside = |name: &str, id: Option<SlotId>| {
                id.map_or(String::new(), |id| format!(", {name}_outside={}", slot(plan, id)))
            };
            let (k, v) = (outside("k", attention.k_outside), outside("v", attention.v_outside));
            format!("attention {inputs}{k}{v}, heads={}", attention.heads)
        }
        Kernel::ControlledAttention(attention) => format!("{name} {inputs}, heads={}", attention.heads),
        Kernel::AttentionMaps(maps) => format!("{name} {inputs}, heads={}", maps.heads),
        Kernel::GroupNormStats { input, groups, .. } => {
            format!("group_norm_stats {}, groups={groups}", source(plan, input))
        }
        Kernel::GroupNormStatsUpdate(update) => format!(
            "group_norm_stats_update {inputs}, recorded={}, stats={}",
            slot(plan, update.recorded),
            slot(plan, update.recorded_stats)
        ),
        Kernel::Affine { silu: true, .. } => format!("affine {inputs} +silu"),
        Kernel::ReadSlot { slot: id, .. } => format!("read_slot {}", slot(plan, *id)),
        Kernel::WriteSlot { slot: id, .. } => format!("write_slot {inputs} -> {}", slot(plan, *id)),
        Kernel::Scatter { base: Some(base), .. } => format!("scatter {inputs} over {}", slot(plan, *base)),
        _ => {
            let weights = kernel.weights();
            let weights: String = weights.iter().map(|id| format!(", {}", weight(plan, *id))).collect();
            format!("{name} {inputs}{weights}")
        }
    }
}

fn conv_call(plan: &Plan, conv: &ConvKernel) -> String {
    let sources: Vec<String> = conv.sources.iter().map(|input| source(plan, input)).collect();
    let [kh, kw] = conv.kernel;
    let mut text = format!("conv {}, {}", sources.join(" ++ "), weight(plan, conv.weight));
    text += &conv.bias.map_or(String::new(), |id| format!(", {}", weight(plan, id)));
    text += &format!(", k={kh}x{kw}");
    if conv.stride != [1, 1] {
        text += &format!(" stride={}x{}", conv.stride[0], conv.stride[1]);
    }
    if let Some([height, width]) = conv.upsample {
        text += &format!(" upsample={height}x{width}");
    }
    if conv.by_parity.is_some() {
        text += " by_parity";
    }
    if let Some(id) = conv.coefficients {
        text += &format!(" norm=%{}", id.0);
    }
    if conv.silu {
        text += " +silu";
    }
    if let Some(id) = conv.vector {
        text += &format!(" vector=%{}", id.0);
    }
    if let Some(residual) = conv.residual {
        text += &format!(" residual=%{}", residual.value.0);
    }
    if !conv.candidates.is_empty() {
        let tiles: Vec<String> = conv.candidates.iter().map(|each| each.tile.to_string()).collect();
        text += &format!(" tiles={}", tiles.join("|"));
    }
    text
}

fn linear_call(plan: &Plan, linear: &LinearKernel) -> String {
    let mut text = format!("linear %{}, {}", linear.input.0, weight(plan, linear.weight));
    text += &linear
        .bias
        .map_or(String::new(), |id| format!(", {}", weight(plan, id)));
    if linear.layer_norm.is_some() {
        text += " layer_norm+";
    }
    if linear.geglu {
        text += " +geglu";
    }
    if let Some(residual) = linear.residual {
        text += &format!(" residual=%{}", residual.value.0);
    }
    text
}

fn source(plan: &Plan, source: &ConvSource) -> String {
    match source.outside {
        Some(id) => format!("%{} outside={}", source.value.0, slot(plan, id)),
        None => format!("%{}", source.value.0),
    }
}

fn slot(plan: &Plan, id: SlotId) -> String {
    format!("${}:{}", id.0, plan.slots[id.index()].name)
}

fn weight(plan: &Plan, id: WeightId) -> String {
    format!("@{}", plan.weights[id.index()].name)
}
