//! How long the networks beside the denoiser take, where the plan's device computes them.

use std::time::{Duration, Instant};

use fisec_plan::{NetworkKind, Plan};
use fisec_runtime::{Executor, Network, NodeTime};
use fisec_tensor::HostTensor;
use serde_json::{Value, json};

use super::nodes;
use super::timing::{Timing, noise};
use crate::cli::failure::Failure;
use crate::cli::{output, units};

/// One network with its times.
struct Row {
    kind: NetworkKind,
    /// from a tensor to a tensor, transfers included
    whole: Timing,
    /// the device's work alone
    device: Timing,
    nodes: Vec<NodeTime>,
}

/// Times every network `runs` times after one that does not count, and prints a table or JSON.
pub fn run(executor: &Executor, runs: u32, with_nodes: bool, as_json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for kind in NetworkKind::ALL {
        if let Some(network) = executor.network(kind)? {
            rows.push(Row::measured(kind, network, executor.plan(), runs, with_nodes)?);
        }
    }
    if rows.is_empty() {
        return Err(
            Failure::new("the plan leaves all networks beside the denoiser to ONNX Runtime")
                .hint("compile the whole pipeline for a GPU, e.g. with `--target cuda:sm_90a`"),
        );
    }
    match as_json {
        true => output::print_json(&Value::Array(rows.iter().map(Row::json).collect())),
        false => output::print(&text(&rows)),
    }
}

impl Row {
    fn measured(
        kind: NetworkKind,
        mut network: Network,
        plan: &Plan,
        runs: u32,
        with_nodes: bool,
    ) -> Result<Self, Failure> {
        let input = input(plan, kind);
        let mut row = Row {
            kind,
            whole: Timing::default(),
            device: Timing::default(),
            nodes: Vec::new(),
        };
        for run in 0..=runs {
            let started = Instant::now();
            network.run(&input)?;
            if run > 0 {
                row.whole.add(started.elapsed());
                row.device.add(network.device_time());
            }
        }
        if with_nodes {
            row.nodes = nodes::by_time(network.measure()?);
        }
        Ok(row)
    }

    fn json(&self) -> Value {
        json!({
            "network": self.kind.name(),
            "median_seconds": self.whole.median(),
            "device_median_seconds": self.device.median(),
            "device_fastest_seconds": self.device.fastest(),
            "device_slowest_seconds": self.device.slowest(),
            "nodes": self.nodes.iter().map(nodes::json).collect::<Vec<_>>(),
        })
    }
}

fn text(rows: &[Row]) -> String {
    let heading = ["network", "device", "fastest", "slowest", "with transfers"].map(str::to_owned);
    let mut lines = vec![heading.to_vec()];
    lines.extend(rows.iter().map(|row| {
        let seconds = [
            row.device.median(),
            row.device.fastest(),
            row.device.slowest(),
            row.whole.median(),
        ];
        let seconds = seconds.map(units::seconds);
        std::iter::once(row.kind.title().to_owned()).chain(seconds).collect()
    }));
    let mut text = output::table(&lines, &[1, 2, 3, 4]);
    for row in rows.iter().filter(|row| !row.nodes.is_empty()) {
        let total: Duration = row.nodes.iter().map(|node| node.time).sum();
        let total = units::seconds(total.as_secs_f64());
        text += &format!(
            "\n\n{}, {total} launch by launch\n{}",
            row.kind.title(),
            nodes::table(&row.nodes)
        );
    }
    text
}

/// Ids, latents or pixels of the plan's size.
fn input(plan: &Plan, kind: NetworkKind) -> HostTensor {
    let [channels, height, width] = plan.latent;
    let scale = plan.pipeline.as_ref().map_or(8, |files| files.vae_scale);
    let map = |shape: [usize; 4]| HostTensor::from_f32(shape, noise(shape.iter().product(), 1));
    match kind {
        NetworkKind::TextEncoder => {
            let tokens = plan.context[0];
            HostTensor::from_i64([1, tokens], (0..tokens as i64).collect())
        }
        NetworkKind::VaeDecoder => map([1, channels, height, width]),
        NetworkKind::VaeEncoder => map([1, 3, height * scale, width * scale]),
    }
}
