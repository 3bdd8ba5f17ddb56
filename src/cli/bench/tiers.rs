//! How long the steps of an edit take by where the base's slots are.

use std::ops::ControlFlow;

use fisec_plan::{Plan, ScratchFolder, SlotId};
use fisec_runtime::cache::{ImageKey, MemoryCache, Store};
use fisec_runtime::{Binding, Executor, HISTORY, RuntimeError, SampledSteps, SlotSink, SlotSource, StepUpdate};
use fisec_tensor::HostTensor;
use serde_json::{Value, json};

use super::timing::{Timing, noise};
use crate::cli::failure::Failure;
use crate::cli::region::Region;
use crate::cli::{output, units};

/// Steps of an edit: enough that the first fetch, which nothing hides, is a small part.
const STEPS: usize = 8;

/// An edit's steps with the slots in one place.
pub struct Row {
    region: String,
    tier: &'static str,
    step: Timing,
    fetched: u64,
}

/// A recording in memory that the device does not know.
struct Host<'a>(&'a MemoryCache);

impl SlotSource for Host<'_> {
    fn slot(&self, step: usize, slot: SlotId) -> Result<HostTensor, RuntimeError> {
        self.0.slot(step, slot)
    }
}

/// Measures every region with slots on the device, in the host's memory and in files.
pub fn measure(
    executor: &mut Executor,
    plan: &Plan,
    regions: &[Region],
    runs: u32,
    is_interrupted: impl Fn() -> bool,
) -> Result<Vec<Row>, Failure> {
    let timesteps: Vec<f32> = (0..STEPS).map(|step| 900.0 - 100.0 * step as f32).collect();
    executor.set_timesteps(&timesteps)?;
    let size = plan.latent.iter().product();
    let latents: Vec<Vec<f32>> = (0..=STEPS as u64).map(|step| noise(size, step + 3)).collect();
    let mut recorded = MemoryCache::new(&plan.slots);
    for (step, latents) in latents.iter().take(STEPS).enumerate() {
        executor.record(step, &latents.repeat(plan.samples()), &mut recorded)?;
    }
    // on the disk where remembered images are
    let place = Store::open(None)?.folder().join("bench");
    let folder = ScratchFolder::beside(&place).map_err(Failure::file(&place))?;
    let store = Store::open(Some(folder.path()))?;
    let id = write(&store, plan, &recorded, &latents)?;
    let mut rows = Vec::new();
    for region in regions {
        let binding = Binding::bind(plan, &region.mask)?;
        let mut tiers = ["device", "host", "disk"].map(|tier| Row {
            region: region.name.clone(),
            tier,
            step: Timing::default(),
            fetched: 0,
        });
        // the first round captures graphs and makes memory
        for run in 0..=runs {
            // opened anew: what is read for the first time is checked
            let entry = store.get(&id)?;
            let sources: [&dyn SlotSource; 3] = [&recorded, &Host(&recorded), &entry];
            for (row, source) in tiers.iter_mut().zip(sources) {
                edit(executor, &binding, source, &latents)?;
                let report = executor.last_step();
                row.fetched = report.slot_bytes;
                if run > 0 {
                    row.step.add(report.time);
                }
            }
            if is_interrupted() {
                return Err(Failure::interrupted());
            }
        }
        rows.extend(tiers);
    }
    Ok(rows)
}

fn edit(
    executor: &mut Executor,
    binding: &Binding,
    source: &dyn SlotSource,
    latents: &[Vec<f32>],
) -> Result<(), Failure> {
    let update = StepUpdate {
        guidance: 5.0,
        latents: 1.0,
        prediction: -0.01,
        history: [0.0; HISTORY],
        kept: None,
        sample_scale: 1.0,
    };
    let recorded: Vec<&[f32]> = latents[1..].iter().map(Vec::as_slice).collect();
    let steps = SampledSteps {
        first: 0,
        updates: &[update; STEPS],
        latents: &latents[0],
        sample_scale: 1.0,
        history: &[],
        recorded: &recorded,
        source,
    };
    let made = executor.edit_steps(binding, &steps, None, &mut |_| ControlFlow::Continue(()))?;
    match made {
        Some(_) => Ok(()),
        None => Err(Failure::new("a step of its edit does not run on the GPU alone")
            .hint("compile it without `--remainder onnx-runtime`; `fisec bench PLAN` times steps one by one")),
    }
}

/// The recording as an image of the store.
fn write(store: &Store, plan: &Plan, recorded: &MemoryCache, latents: &[Vec<f32>]) -> Result<String, Failure> {
    let [channels, height, width] = plan.latent;
    let key = ImageKey {
        plan: plan.model_hash.clone(),
        prompt: "bench".into(),
        negative: String::new(),
        seed: 0,
        sampler: "ddim".into(),
        steps: STEPS,
        guidance: 5.0,
        width,
        height,
    };
    let mut recording = store.begin(key, None, "", &plan.slots, STEPS)?;
    let maps: Vec<SlotId> = plan.map_slots().map(|(slot, _)| slot).collect();
    let slots = (0..plan.slots.len() as u32)
        .map(SlotId)
        .filter(|slot| !maps.contains(slot));
    for slot in slots {
        for step in 0..STEPS {
            recording.put(step, slot, recorded.slot(step, slot)?)?;
        }
    }
    recording.set_latents(&HostTensor::from_f32(
        [latents.len(), channels, height, width],
        latents.concat(),
    ));
    recording.set_image(Vec::new());
    Ok(recording.commit()?.manifest().id.clone())
}

/// The rows for people.
pub fn text(rows: &[Row]) -> String {
    let heading = ["edit", "slots", "step", "fastest", "slowest", "of device", "fetched"].map(str::to_owned);
    let mut table = vec![heading.to_vec()];
    for row in rows {
        let fetched = if row.fetched > 0 {
            units::bytes(row.fetched)
        } else {
            String::new()
        };
        table.push(vec![
            row.region.clone(),
            row.tier.into(),
            units::seconds(row.step.median()),
            units::seconds(row.step.fastest()),
            units::seconds(row.step.slowest()),
            format!("{:.2}", row.step.median() / device(rows, row)),
            fetched,
        ]);
    }
    output::table(&table, &[2, 3, 4, 5, 6])
}

/// The rows for programs.
pub fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "edit": row.region,
            "slots": row.tier,
            "step_seconds": row.step.median(),
            "fastest_seconds": row.step.fastest(),
            "slowest_seconds": row.step.slowest(),
            "of_device": row.step.median() / device(rows, row),
            "fetched_bytes": row.fetched,
        })
    };
    rows.iter().map(row).collect()
}

/// The time of the same edit with all slots on the device.
fn device(rows: &[Row], row: &Row) -> f64 {
    let same = rows
        .iter()
        .find(|other| other.region == row.region && other.tier == "device");
    same.map_or(f64::NAN, |same| same.step.median())
}
