//! `fisec explain`: what the compiler decided for each layer, and why.

mod layer;
mod node;

use std::path::PathBuf;

use clap::Args;
use fisec_passes::cost::CostTable;
use fisec_plan::{Bundle, Plan, Program, Stage};
use fisec_runtime::Binding;
use serde_json::{Value, json};

use super::console::Console;
use super::failure::Failure;
use super::region::{Region, Regions};
use super::{output, printable, units};
use layer::Layer;

/// Shown when no region is given.
const SHARE: f64 = 0.05;

#[derive(Args, Debug)]
#[command(after_help = "Example:
  fisec explain demo.plan --edit-size 5%
  fisec explain demo.plan down_blocks.0/resnets.0/conv1/Conv --mask mask.png")]
pub struct Arguments {
    /// Folder that `fisec compile` wrote
    plan: PathBuf,
    /// One layer only, by its name or a part of it, with every tile candidate
    node: Option<String>,
    #[command(flatten)]
    regions: Regions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A plan under one mask.
struct Explained<'a> {
    plan: &'a Plan,
    program: &'a Program,
    binding: &'a Binding,
    table: CostTable,
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    let bundle = Bundle::open(&arguments.plan)?;
    let plan = bundle.plan();
    let Some(program) = &plan.programs.edit else {
        return Err(Failure::new("the plan has no `edit` program: every level is dense")
            .hint("`fisec compile --sparse-levels 2` makes the two finest levels sparse all the same"));
    };
    let region = arguments.regions.of(plan, &[SHARE])?.swap_remove(0);
    let binding = Binding::bind(plan, &region.mask)?;
    let table = CostTable::shipped(&plan.target).map_err(Failure::new)?;
    let explained = Explained {
        plan,
        program,
        binding: &binding,
        table,
    };
    let layers: Vec<Layer> = explained.layers();
    if let Some(name) = &arguments.node {
        return explained.one(name, &layers, arguments.json);
    }
    if arguments.json {
        return output::print_json(&explained.json(&region, &layers));
    }
    let header = explained.header(&region);
    output::print(&header)?;
    output::print(&explained.table(&layers))?;
    output::print(&explained.totals(&layers))?;
    console.detail("layers that run once per prompt or per timestep are left out of the totals");
    Ok(())
}

impl Explained<'_> {
    fn header(&self, region: &Region) -> String {
        let mut lines = vec![format!(
            "region      {}: {} of {} latents active",
            region.name,
            units::percent(region.mask.share()),
            region.mask.bits().len()
        )];
        for (level, active) in self.plan.levels.iter().zip(self.binding.levels()) {
            let kind = if level.sparse { "sparse" } else { "dense" };
            lines.push(format!(
                "level       {}x{} {kind}, {} active: {}",
                level.height,
                level.width,
                units::percent(active.mask().share()),
                level.reason
            ));
        }
        lines
            .iter()
            .map(|line| printable::line(line))
            .collect::<Vec<_>>()
            .join("\n")
            + "\n"
    }

    fn table(&self, layers: &[Layer]) -> String {
        let heading = [
            "layer", "kernel", "computes", "work", "of dense", "time", "reads", "why",
        ]
        .map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(layers.iter().map(Layer::row));
        output::table(&rows, &[3, 4, 5, 6])
    }

    fn totals(&self, layers: &[Layer]) -> String {
        let steps = || layers.iter().filter(|layer| layer.stage == Stage::Step);
        let macs: u64 = steps().map(|layer| layer.macs).sum();
        let dense: u64 = steps().map(|layer| layer.macs_dense).sum();
        let time: f64 = steps().map(|layer| layer.predicted_ns).sum();
        let read: u64 = steps().map(|layer| layer.slot_bytes).sum();
        format!(
            "\nwork        {} of {} per step ({})\ntime        {} per step predicted for {}\ncache       {} per step \
             recorded, at most {} of it read here\ndense from  {} active",
            units::macs(macs),
            units::macs(dense),
            units::percent(macs as f64 / dense.max(1) as f64),
            units::seconds(time / 1e9),
            self.table.device,
            units::bytes(self.plan.cache_bytes_per_step()),
            units::bytes(read),
            units::percent(self.plan.break_even),
        )
    }

    fn json(&self, region: &Region, layers: &[Layer]) -> Value {
        let steps = || layers.iter().filter(|layer| layer.stage == Stage::Step);
        json!({
            "region": region.name,
            "share": region.mask.share(),
            "levels": self.plan.levels,
            "layers": layers.iter().map(Layer::json).collect::<Vec<_>>(),
            "macs": steps().map(|layer| layer.macs).sum::<u64>(),
            "macs_dense": steps().map(|layer| layer.macs_dense).sum::<u64>(),
            "predicted_seconds": steps().map(|layer| layer.predicted_ns).sum::<f64>() / 1e9,
            "cache_bytes_per_step": self.plan.cache_bytes_per_step(),
            "break_even": self.plan.break_even,
        })
    }
}
