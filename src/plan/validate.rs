//! Structure of a plan: every index in its table, every byte range in its file, every program executable in order.
//!
//! What a kernel's operands must look like is in `operand_shapes.rs`.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use fisec_tensor::{DType, Shape};

use crate::bundle::WEIGHTS;
use crate::operand_shapes::check_operands;
use crate::{Extent, Island, Kernel, Node, Plan, PlanError, Program, PromptProgram, SlotId, SlotKind, Stage, Value};

/// No value, slot or weight is larger: a larger one is a damaged number, not a tensor.
const LARGEST_TENSOR: u64 = 64 << 30;
/// Where errors about the prompt's program are.
const PROMPT: &str = "prompt";
/// Latent rows and columns, images per step, levels.
const LARGEST_DIMENSION: usize = 1 << 24;

/// Fails on the first contradiction.
pub(crate) fn validate(plan: &Plan) -> Result<(), PlanError> {
    check_header(plan)?;
    check_levels(plan)?;
    check_slots(plan)?;
    check_weights(plan)?;
    plan.islands.iter().try_for_each(|island| check_island(plan, island))?;
    check_island_files(plan)?;
    check_pipeline(plan)?;
    for (kind, program) in plan.programs.iter() {
        check_program(plan, kind.name(), program)?;
        check_samples(plan, kind.name(), program)?;
    }
    for (kind, program) in &plan.networks {
        check_network(plan, kind.name(), program)?;
    }
    plan.prompt
        .as_ref()
        .map_or(Ok(()), |prompt| check_prompt(plan, prompt))?;
    check_recorded(plan)
}

/// A path inside the bundle: relative, `/`-separated, without `..`.
pub(crate) fn check_path(relative: &str) -> Result<(), PlanError> {
    let is_plain = !relative.is_empty()
        && !relative.contains(['\\', '\0'])
        && Path::new(relative)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if is_plain {
        return Ok(());
    }
    Err(PlanError::invalid(
        "files",
        format!("`{relative}` does not stay inside the plan"),
    ))
}

fn check_header(plan: &Plan) -> Result<(), PlanError> {
    let fail = |message: &str| Err(PlanError::invalid("header", message));
    let dims = [plan.batch].into_iter().chain(plan.latent).chain(plan.context);
    if dims.clone().any(|dim| dim == 0 || dim > LARGEST_DIMENSION) {
        return fail("batch, latent size and context size must be positive and plausible");
    }
    if plan.target != "cpu" && !crate::cuda::TARGETS.contains(&plan.target.as_str()) {
        return fail("its target is unknown");
    }
    if let Some(file) = plan.modules.values().find(|file| !plan.files.contains_key(*file)) {
        return Err(PlanError::invalid("kernels", format!("{file} is not listed")));
    }
    if !(0.0..=1.0).contains(&plan.break_even) {
        return fail("the break-even share is not between 0 and 1");
    }
    Ok(())
}

fn check_levels(plan: &Plan) -> Result<(), PlanError> {
    for (index, level) in plan.levels.iter().enumerate() {
        let sizes = [level.height, level.width];
        if sizes.iter().any(|&size| size == 0 || size > LARGEST_DIMENSION) {
            return Err(PlanError::invalid(
                format!("level {index}"),
                "its size is not plausible",
            ));
        }
        let Some(inner) = level.around else { continue };
        let inner = plan.levels[..index]
            .get(inner as usize)
            .filter(|inner| inner.around.is_none());
        if inner.is_none_or(|inner| [inner.height, inner.width] != sizes) {
            return Err(PlanError::invalid(
                format!("level {index}"),
                "it is around no level of its size",
            ));
        }
    }
    Ok(())
}

fn check_slots(plan: &Plan) -> Result<(), PlanError> {
    for slot in &plan.slots {
        let place = format!("slot {}", slot.name);
        if tensor_bytes(slot.dtype, &slot.shape, &place)? != slot.bytes {
            return Err(PlanError::invalid(place, "its bytes do not follow from its shape"));
        }
        match slot.kind {
            SlotKind::Halo { level, .. } | SlotKind::Full { level } | SlotKind::Maps { level } => {
                check_rows(plan, level, &slot.shape, &place)?
            }
            SlotKind::Stats => {}
        }
    }
    Ok(())
}

fn check_weights(plan: &Plan) -> Result<(), PlanError> {
    let Some(file) = plan.files.get(WEIGHTS) else {
        return Err(PlanError::invalid("files", format!("there is no {WEIGHTS}")));
    };
    for weight in &plan.weights {
        let place = format!("weight {}", weight.name);
        if tensor_bytes(weight.dtype, &weight.shape, &place)? != weight.bytes {
            return Err(PlanError::invalid(place, "its bytes do not follow from its shape"));
        }
        let mut axes = weight.axes.clone();
        axes.sort_unstable();
        if !axes.is_empty() && !axes.iter().copied().eq(0..weight.shape.len()) {
            return Err(PlanError::invalid(place, "its axes are no order of its dimensions"));
        }
        if weight.offset % crate::ALIGNMENT != 0 {
            return Err(PlanError::invalid(place, "its offset is not aligned"));
        }
        if weight
            .offset
            .checked_add(weight.bytes)
            .is_none_or(|end| end > file.bytes)
        {
            return Err(PlanError::invalid(place, format!("it lies outside {WEIGHTS}")));
        }
    }
    Ok(())
}

fn check_island(plan: &Plan, island: &Island) -> Result<(), PlanError> {
    let place = format!("island {}", island.name);
    if !plan.files.contains_key(&island.file) {
        return Err(PlanError::invalid(
            place,
            format!("its file {} is not listed", island.file),
        ));
    }
    for port in island.inputs.iter().chain(&island.outputs) {
        tensor_bytes(port.dtype, &port.shape, &place)?;
    }
    Ok(())
}

/// Each island is a model of its own.
fn check_island_files(plan: &Plan) -> Result<(), PlanError> {
    let mut files = BTreeSet::new();
    match plan.islands.iter().find(|island| !files.insert(&island.file)) {
        Some(island) => Err(PlanError::invalid(
            format!("island {}", island.name),
            format!("its file {} is another island's", island.file),
        )),
        None => Ok(()),
    }
}

fn check_pipeline(plan: &Plan) -> Result<(), PlanError> {
    let Some(pipeline) = &plan.pipeline else { return Ok(()) };
    let files = [&pipeline.text_encoder, &pipeline.vae_decoder, &pipeline.scheduler];
    for file in files
        .into_iter()
        .chain(&pipeline.vae_encoder)
        .chain(pipeline.widened.values())
    {
        if !plan.files.contains_key(file) {
            return Err(PlanError::invalid("pipeline", format!("{file} is not listed")));
        }
    }
    let folder = format!("{}/", pipeline.tokenizer);
    let is_listed = |file: &String| *file == pipeline.tokenizer || file.starts_with(&folder);
    if !plan.files.keys().any(is_listed) {
        return Err(PlanError::invalid("pipeline", "its tokenizer is not listed"));
    }
    if pipeline.vae_scale == 0 || pipeline.vae_scale > 64 || !pipeline.scaling_factor.is_normal() {
        return Err(PlanError::invalid(
            "pipeline",
            "the scale of its decoder is not plausible",
        ));
    }
    Ok(())
}

/// The prompt's program gives what the island does.
fn check_prompt(plan: &Plan, prompt: &PromptProgram) -> Result<(), PlanError> {
    let fail = |message: &str| Err(PlanError::invalid(PROMPT, message));
    check_network(plan, PROMPT, &prompt.program)?;
    let Some(island) = plan.islands.get(prompt.island.index()) else {
        return fail("it stands for an island that does not exist");
    };
    if island.outputs.len() != prompt.outputs.len() {
        return fail("it has another number of outputs than its island");
    }
    for (id, port) in prompt.outputs.iter().zip(&island.outputs) {
        let value = prompt.program.values.get(id.index());
        if value.is_none_or(|value| value.shape != port.shape) {
            return fail("an output has another shape than its island's");
        }
    }
    Ok(())
}

/// A network is dense, knows no slots, and runs on a device.
fn check_network(plan: &Plan, place: &str, program: &Program) -> Result<(), PlanError> {
    check_program(plan, place, program)?;
    let fail = |message: &str| Err(PlanError::invalid(place, message));
    if !plan.is_cuda() {
        return fail("its target does not compute it");
    }
    if program.inputs.len() != 1 {
        return fail("it should have one input");
    }
    let is_dense = |value: &Value| value.extent == Extent::Full && value.stage == Stage::Step;
    if !program.values.iter().all(is_dense) {
        return fail("all of it should be dense and run every time");
    }
    let knows_slots = |node: &Node| node.kernel.slot_written().is_some() || !node.kernel.slots_read().is_empty();
    match program.nodes.iter().any(knows_slots) {
        true => fail("it names slots"),
        false => Ok(()),
    }
}

fn check_program(plan: &Plan, kind: &str, program: &Program) -> Result<(), PlanError> {
    for (index, value) in program.values.iter().enumerate() {
        check_value(plan, value, &format!("{kind}, value {index}"))?;
    }
    for (name, id) in program.inputs.iter().chain(&program.outputs) {
        if id.index() >= program.values.len() {
            return Err(PlanError::invalid(
                format!("{kind}, {name}"),
                "it is bound to a value that does not exist",
            ));
        }
    }
    for (names, name) in [(&program.inputs, "sample"), (&program.outputs, "prediction")] {
        if !names.contains_key(name) {
            return Err(PlanError::invalid(kind.to_string(), format!("it has no `{name}`")));
        }
    }
    check_order(plan, kind, program)
}

/// All programs take one latent for all images, or one for each.
fn check_samples(plan: &Plan, kind: &str, program: &Program) -> Result<(), PlanError> {
    let [channels, height, width] = plan.latent;
    let samples = plan.samples();
    let found = &program.values[program.inputs["sample"].index()].shape;
    let is_one_or_all = samples == 1 || samples == plan.batch;
    match is_one_or_all && found.dims() == [samples, height, width, channels] {
        true => Ok(()),
        false => Err(PlanError::invalid(
            kind,
            format!("`sample` is [{found}], which are no latents of the plan"),
        )),
    }
}

fn check_value(plan: &Plan, value: &Value, place: &str) -> Result<(), PlanError> {
    tensor_bytes(value.dtype, &value.shape, place)?;
    match value.extent {
        Extent::Full => Ok(()),
        Extent::Active(level) => check_rows(plan, level, &value.shape, place),
    }
}

/// Every node reads what an input or a node before it wrote, and nothing of a stage that its own does not follow.
fn check_order(plan: &Plan, kind: &str, program: &Program) -> Result<(), PlanError> {
    let mut written = vec![false; program.values.len()];
    for id in program.inputs.values() {
        written[id.index()] = true;
    }
    for node in &program.nodes {
        let place = format!("{kind}, node {}", node.name);
        let fail = |message: String| Err(PlanError::invalid(place.clone(), message));
        check_indices(plan, program, node, &place)?;
        for id in node.kernel.inputs() {
            if !written[id.index()] {
                return fail(format!("it reads value {} before it is computed", id.0));
            }
            // the stages before the steps run apart from each other
            let stage = program.values[id.index()].stage;
            if stage != node.stage && node.stage != Stage::Step {
                return fail(format!("it reads value {} of another stage", id.0));
            }
        }
        for id in node.kernel.outputs() {
            if std::mem::replace(&mut written[id.index()], true) {
                return fail(format!("it computes value {} a second time", id.0));
            }
            if program.values[id.index()].stage != node.stage {
                return fail(format!("value {} has another stage than the node", id.0));
            }
        }
        check_operands(plan, program, &node.kernel, &place)?;
    }
    match program.outputs.iter().find(|(_, id)| !written[id.index()]) {
        Some((name, _)) => Err(PlanError::invalid(
            kind.to_string(),
            format!("`{name}` is never computed"),
        )),
        None => Ok(()),
    }
}

fn check_indices(plan: &Plan, program: &Program, node: &Node, place: &str) -> Result<(), PlanError> {
    let kernel = &node.kernel;
    let fail = |what: &str| {
        Err(PlanError::invalid(
            place,
            format!("it names {what} that does not exist"),
        ))
    };
    let mut values = kernel.inputs().into_iter().chain(kernel.outputs());
    if values.any(|id| id.index() >= program.values.len()) {
        return fail("a value");
    }
    if kernel.weights().iter().any(|id| id.index() >= plan.weights.len()) {
        return fail("a weight");
    }
    let mut slots = kernel.slots_read().into_iter().chain(kernel.slot_written());
    if slots.any(|id| id.index() >= plan.slots.len()) {
        return fail("a slot");
    }
    match kernel {
        Kernel::Island(call) if call.island.index() >= plan.islands.len() => fail("an island"),
        _ => Ok(()),
    }
}

/// Every slot is written once by `record`, and only by it.
fn check_recorded(plan: &Plan) -> Result<(), PlanError> {
    let written = |program: &Program| -> Vec<SlotId> {
        let nodes = program.nodes.iter();
        nodes.filter_map(|node| node.kernel.slot_written()).collect()
    };
    let recorded = written(&plan.programs.record);
    let distinct: BTreeSet<_> = recorded.iter().collect();
    if distinct.len() != recorded.len() {
        return Err(PlanError::invalid("record", "a slot is written twice"));
    }
    match (0..plan.slots.len()).find(|&slot| !distinct.contains(&SlotId(slot as u32))) {
        Some(slot) => Err(PlanError::invalid(
            format!("slot {}", plan.slots[slot].name),
            "`record` does not write it",
        )),
        None => Ok(()),
    }
}

/// Maps `[N, H, W, C]` and tokens `[N, L, C]` must have the level's pixels.
fn check_rows(plan: &Plan, level: u32, shape: &Shape, place: &str) -> Result<(), PlanError> {
    let Some(level) = plan.levels.get(level as usize) else {
        return Err(PlanError::invalid(place, "it names a level that does not exist"));
    };
    let fits = match shape.dims() {
        [_, height, width, _] => (*height, *width) == (level.height, level.width),
        [_, tokens, _] => *tokens == level.height * level.width,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(PlanError::invalid(
        place,
        format!("[{shape}] is no map of {}x{} pixels", level.height, level.width),
    ))
}

fn tensor_bytes(dtype: DType, shape: &Shape, place: &str) -> Result<u64, PlanError> {
    shape
        .checked_elements()
        .and_then(|elements| elements.checked_mul(dtype.size()))
        .map(|bytes| bytes as u64)
        .filter(|&bytes| bytes <= LARGEST_TENSOR)
        .ok_or_else(|| PlanError::invalid(place, format!("{dtype}[{shape}] is not a plausible tensor")))
}
