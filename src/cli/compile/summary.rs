//! What `compile` prints.

use std::collections::BTreeMap;
use std::path::Path;

use fisec_plan::{Plan, Program, Remainder, Stage};
use serde_json::{Value, json};

use super::Compiled;
use crate::cli::output::path_json;
use crate::cli::{printable, units};

/// Multiply-accumulates of one step: dense, and predicted at 5, 15 and 30 %.
pub fn program_work(program: &Program) -> (u64, [u64; 3]) {
    let steps = || program.nodes.iter().filter(|node| node.stage == Stage::Step);
    let dense = steps().map(|node| node.macs_dense).sum();
    let predicted = std::array::from_fn(|share| steps().map(|node| node.macs_predicted[share]).sum());
    (dense, predicted)
}

pub fn text(compiled: &Compiled, target: &Path) -> String {
    let plan = &compiled.plan;
    let [channels, height, width] = plan.latent;
    let latents = format!("{channels}x{height}x{width} latents");
    let latents = match plan.samples() {
        samples if samples < plan.batch => format!("the same {latents}"),
        _ => latents,
    };
    let mut lines = vec![format!(
        "model       {} for {}, {} images of {latents}",
        plan.model, plan.target, plan.batch
    )];
    lines.push(format!("recognised  {}", counts(&compiled.recognised)));
    lines.push(match compiled.opaque.is_empty() {
        true => "opaque      nothing: every operator was recognised".into(),
        false => format!("opaque      {} (dense, in ONNX Runtime)", counts(&compiled.opaque)),
    });
    for level in plan.levels.iter().filter(|level| level.around.is_none()) {
        let kind = if level.sparse { "sparse" } else { "dense" };
        lines.push(format!(
            "level       {}x{} {kind}: {}",
            level.height, level.width, level.reason
        ));
    }
    if plan.options.remainder == Remainder::OnnxRuntime {
        lines.push("remainder   dense levels run in ONNX Runtime".into());
    }
    lines.push(format!("work        {}", work(plan)));
    lines.push(format!(
        "cache       {} per step in {} slots",
        units::bytes(plan.cache_bytes_per_step()),
        plan.slots.len()
    ));
    if let Ok(Some(device)) = fisec_runtime::device_memory(plan) {
        lines.push(format!(
            "device      {} at most: {} of weights, {} of values, two steps' slots, {} of text encoder and VAE",
            units::bytes(device.peak() as u64),
            units::bytes(device.weights as u64),
            units::bytes(device.values as u64),
            units::bytes(device.networks as u64)
        ));
    }
    let memory = compiled
        .memory
        .map(|memory| format!(", {} of memory beside mapped files", units::bytes(memory)));
    lines.push(format!(
        "plan        {} ({}), {} passes, {}{}",
        target.display(),
        units::bytes(size(plan)),
        compiled.passes,
        units::seconds(compiled.took.as_secs_f64()),
        memory.unwrap_or_default()
    ));
    lines
        .iter()
        .map(|line| printable::line(line))
        .collect::<Vec<_>>()
        .join("\n")
}

pub fn json(compiled: &Compiled, target: &Path) -> Value {
    let plan = &compiled.plan;
    let dense = program_work(&plan.programs.guide).0;
    json!({
        "plan": path_json(target),
        "model": plan.model,
        "model_hash": plan.model_hash,
        "target": plan.target,
        "batch": plan.batch,
        "samples": plan.samples(),
        "latent": plan.latent,
        "recognised": compiled.recognised,
        "opaque": compiled.opaque,
        "levels": plan.levels,
        "macs_dense": dense,
        "macs_predicted": plan.programs.edit.as_ref().map(|edit| program_work(edit).1),
        "break_even": plan.break_even,
        "cache_bytes_per_step": plan.cache_bytes_per_step(),
        "device_bytes": fisec_runtime::device_memory(plan).ok().flatten().map(|device| device.peak()),
        "slots": plan.slots.len(),
        "bytes": size(plan),
        "passes": compiled.passes,
        "seconds": compiled.took.as_secs_f64(),
        "memory": compiled.memory,
    })
}

fn work(plan: &Plan) -> String {
    let dense = program_work(&plan.programs.guide).0;
    let Some(edit) = &plan.programs.edit else {
        return format!(
            "{} per dense step; no level pays, so edits are dense",
            units::macs(dense)
        );
    };
    let [five, fifteen, thirty] = program_work(edit).1.map(units::macs);
    format!(
        "{} per dense step; predicted {five} / {fifteen} / {thirty} at 5 / 15 / 30 %; dense from {}",
        units::macs(dense),
        units::percent(plan.break_even)
    )
}

fn size(plan: &Plan) -> u64 {
    plan.files.values().map(|file| file.bytes).sum()
}

fn counts(counts: &BTreeMap<String, usize>) -> String {
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    counts.join(", ")
}
