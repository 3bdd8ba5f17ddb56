//! `fisec bench`: how long steps take.

mod costs;
mod networks;
mod nodes;
mod tiers;
mod timing;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fisec_passes::cost::CostTable;
use fisec_plan::{Bundle, Plan, ProgramKind, SlotId};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{Binding, Control, Executor, NodeTime, RuntimeError, SlotSink, describe_cuda};
use fisec_tensor::HostTensor;
use serde_json::{Value, json};

use super::console::Console;
use super::failure::Failure;
use super::region::{Region, Regions};
use super::{interrupt, numbers};
use super::{output, units};
use timing::Timing;

/// Measured when no region is given.
const SHARES: [f64; 3] = [0.05, 0.15, 0.30];

/// Measured for a cost table: also where sparse steps stop paying.
const CALIBRATED: [f64; 5] = [0.05, 0.15, 0.30, 0.60, 1.0];

/// Somewhere in the middle of every schedule.
const TIMESTEP: f32 = 500.0;

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  fisec bench demo.plan\n  fisec bench demo.plan --edit-size 5% --runs 20 --per-node"
)]
pub struct Arguments {
    /// Folder that `fisec compile` wrote
    plan: PathBuf,
    #[command(flatten)]
    regions: Regions,
    /// Steps of each kind to time, after one that does not count
    #[arg(long, default_value_t = 10, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Threads [default: all]
    #[arg(long, allow_negative_numbers = true, value_parser = numbers::whole(numbers::THREADS))]
    threads: Option<usize>,
    /// Measure what work costs on this machine and print a table for `fisec compile --costs`
    #[arg(long)]
    calibrate: bool,
    /// Time text encoder and VAE instead of steps, where the plan's device computes them
    #[arg(long, conflicts_with = "calibrate")]
    networks: bool,
    /// Measure edits whose slots are on the device, in the host's memory and in files instead
    #[arg(long, conflicts_with_all = ["calibrate", "per_node"])]
    tiers: bool,
    /// Also print where each program spends its time
    #[arg(long)]
    per_node: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A kind of step with its times.
struct Row {
    name: String,
    times: Timing,
    /// seconds to bind the mask
    binding: Option<Timing>,
    macs: u64,
    nodes: Vec<NodeTime>,
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    let bundle = Bundle::open(&arguments.plan)?;
    let plan = bundle.plan().clone();
    if arguments.tiers && !plan.is_cuda() {
        let failure = Failure::new("only plans for a GPU keep slots in different places");
        return Err(failure.hint("compile it with `--target cuda:sm_90a`"));
    }
    let regions = match plan.programs.edit {
        Some(_) if arguments.calibrate => arguments.regions.of(&plan, &CALIBRATED)?,
        Some(_) => arguments.regions.of(&plan, &SHARES)?,
        None => Vec::new(),
    };
    let runtime = OnnxRuntime::load()?;
    let executor = match arguments.threads {
        Some(threads) => Executor::with_threads(bundle, Some(runtime), threads.max(1))?,
        None => Executor::new(bundle, Some(runtime))?,
    };
    if arguments.networks {
        return networks::run(&executor, arguments.runs, arguments.per_node, arguments.json);
    }
    let mut bench = Bench::prepare(executor, &plan, &regions)?;
    if arguments.tiers {
        let rows = tiers::measure(
            &mut bench.executor,
            &plan,
            &regions,
            arguments.runs,
            interrupt::is_requested,
        )?;
        return match arguments.json {
            true => output::print_json(&tiers::json(&rows)),
            false => output::print(&tiers::text(&rows)),
        };
    }
    let bar = console.progress("measuring", u64::from(arguments.runs));
    for run in 0..=arguments.runs {
        // The first round warms caches and opens sessions.
        bench.round(&plan, &regions, run > 0)?;
        bar.set_position(run.into());
        if interrupt::is_requested() {
            return Err(Failure::interrupted());
        }
    }
    bar.finish_and_clear();
    if let Some(reason) = bench.executor.take_refusal() {
        console.warn(&reason);
    }
    if arguments.per_node || (arguments.calibrate && plan.is_cuda()) {
        bench.measure_nodes(&regions)?;
    }
    if arguments.calibrate {
        return output::print_json(&bench.cost_table(&plan, arguments.threads)?);
    }
    match arguments.json {
        true => output::print_json(&bench.json(&plan)),
        false => output::print(&bench.text(arguments.per_node)),
    }
}

struct Bench {
    executor: Executor,
    sample: Vec<f32>,
    recorded: MemoryCache,
    bindings: Vec<Binding>,
    record: Row,
    /// what edits are compared with
    dense: Row,
    /// under attention control, where the plan has any: otherwise `dense` is the guided step
    guide: Option<(Row, Control)>,
    edits: Vec<Row>,
}

/// Most steps of a schedule record no cross-attention maps: only the first ones do.
struct WithoutMaps<'a> {
    recorded: &'a mut MemoryCache,
    maps: Vec<SlotId>,
}

impl SlotSink for WithoutMaps<'_> {
    fn recording(&self) -> Option<&str> {
        SlotSink::recording(self.recorded)
    }

    fn wants(&self, _step: usize, slot: SlotId) -> bool {
        !self.maps.contains(&slot)
    }

    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
        self.recorded.put(step, slot, value)
    }
}

impl Bench {
    fn prepare(mut executor: Executor, plan: &Plan, regions: &[Region]) -> Result<Self, Failure> {
        executor.set_timesteps(&[TIMESTEP])?;
        let [tokens, width] = plan.context;
        let context = timing::noise(plan.batch * tokens * width, 1);
        executor.set_context(&HostTensor::from_f32([plan.batch, tokens, width], context))?;
        executor.prepare(ProgramKind::Record)?;
        executor.prepare(executor.dense_program())?;
        if !regions.is_empty() {
            executor.prepare(ProgramKind::Edit)?;
        }
        let sample = timing::noise(plan.samples() * plan.latent.iter().product::<usize>(), 2);
        let bindings = regions.iter().map(|region| Binding::bind(plan, &region.mask));
        Ok(Bench {
            executor,
            sample,
            recorded: MemoryCache::new(&plan.slots),
            bindings: bindings.collect::<Result<_, _>>()?,
            record: Row::new("record"),
            dense: Row::new(if plan.has_control() { "dense" } else { "guide" }),
            guide: plan.has_control().then(|| (Row::new("guide"), Control::idle(tokens))),
            edits: regions
                .iter()
                .map(|region| Row::new(&format!("edit {}", region.name)))
                .collect(),
        })
    }

    /// One step of every kind, so that a disturbance of the machine meets all of them.
    fn round(&mut self, plan: &Plan, regions: &[Region], counts: bool) -> Result<(), Failure> {
        let started = Instant::now();
        // the round that does not count records the maps that guided steps read
        let maps = plan.map_slots().map(|(slot, _)| slot).filter(|_| counts);
        let mut sink = WithoutMaps {
            maps: maps.collect(),
            recorded: &mut self.recorded,
        };
        self.executor.record(0, &self.sample, &mut sink)?;
        self.record.take(&self.executor, started, counts);
        let started = Instant::now();
        self.executor.dense(0, &self.sample)?;
        self.dense.take(&self.executor, started, counts);
        if let Some((row, control)) = &mut self.guide {
            let started = Instant::now();
            self.executor.guide(0, &self.sample, control, &self.recorded, None)?;
            row.take(&self.executor, started, counts);
        }
        for (index, region) in regions.iter().enumerate() {
            let started = Instant::now();
            let binding = Binding::bind(plan, &region.mask)?;
            let row = &mut self.edits[index];
            if counts {
                row.binding.get_or_insert_default().add(started.elapsed());
            }
            let started = Instant::now();
            self.executor.edit(0, &self.sample, &binding, &self.recorded, None)?;
            row.take(&self.executor, started, counts);
        }
        Ok(())
    }

    fn measure_nodes(&mut self, regions: &[Region]) -> Result<(), Failure> {
        self.executor.measure_nodes(true);
        self.executor.dense(0, &self.sample)?;
        self.dense.nodes = nodes::by_time(self.executor.last_step().nodes.clone());
        for index in 0..regions.len() {
            self.executor
                .edit(0, &self.sample, &self.bindings[index], &self.recorded, None)?;
            self.edits[index].nodes = nodes::by_time(self.executor.last_step().nodes.clone());
        }
        Ok(())
    }

    fn cost_table(&self, plan: &Plan, threads: Option<usize>) -> Result<Value, Failure> {
        let shipped = CostTable::shipped(&plan.target).map_err(Failure::new)?;
        let table = if plan.is_cuda() {
            let device = describe_cuda()?.split(',').next().unwrap_or_default().to_owned();
            costs::of_device(device, &self.dense, &self.edits, &shipped)
        } else {
            costs::of_cpu(threads, &self.dense, &shipped)?
        };
        Ok(json!(table))
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        let guide = self.guide.as_ref().map(|(row, _)| row);
        [&self.record, &self.dense].into_iter().chain(guide).chain(&self.edits)
    }

    fn text(&self, with_nodes: bool) -> String {
        let dense = self.dense.times.median();
        let heading = ["step", "median", "fastest", "slowest", "of dense", "binding", "work"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(self.rows().map(|row| {
            vec![
                row.name.clone(),
                units::seconds(row.times.median()),
                units::seconds(row.times.fastest()),
                units::seconds(row.times.slowest()),
                format!("{:.3}", row.times.median() / dense),
                row.binding
                    .as_ref()
                    .map_or(String::new(), |binding| units::seconds(binding.median())),
                units::macs(row.macs),
            ]
        }));
        let mut text = output::table(&rows, &[1, 2, 3, 4, 5, 6]);
        if let Ok(Some(bytes)) = self.executor.device_memory_in_use() {
            text += &format!("\ndevice memory in use: {}", units::bytes(bytes as u64));
        }
        if with_nodes {
            for row in self.rows().filter(|row| !row.nodes.is_empty()) {
                text += &format!("\n\n{}\n{}", row.name, nodes::table(&row.nodes));
            }
        }
        text
    }

    fn json(&self, plan: &Plan) -> Value {
        let dense = self.dense.times.median();
        let row = |row: &Row| {
            json!({
                "step": row.name,
                "median_seconds": row.times.median(),
                "fastest_seconds": row.times.fastest(),
                "slowest_seconds": row.times.slowest(),
                "of_dense": row.times.median() / dense,
                "binding_seconds": row.binding.as_ref().map(Timing::median),
                "macs": row.macs,
                "nodes": row.nodes.iter().map(nodes::json).collect::<Vec<_>>(),
            })
        };
        json!({
            "model": plan.model,
            "target": plan.target,
            "steps": self.rows().map(row).collect::<Vec<_>>(),
            "device_bytes_in_use": self.executor.device_memory_in_use().ok().flatten(),
        })
    }
}

impl Row {
    fn new(name: &str) -> Self {
        Row {
            name: name.to_owned(),
            times: Timing::default(),
            binding: None,
            macs: 0,
            nodes: Vec::new(),
        }
    }

    fn take(&mut self, executor: &Executor, started: Instant, counts: bool) {
        // a device measures its own work: what the host keeps of a recording goes to disk in the background
        let time = executor.last_step().device_time.unwrap_or_else(|| started.elapsed());
        if counts {
            self.times.add(time);
        }
        self.macs = executor.last_step().macs;
    }
}
