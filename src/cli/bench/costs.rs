//! A cost table of this machine, for `fisec compile --costs`.

use std::time::Duration;

use fisec_passes::cost::CostTable;
use fisec_plan::TileCost;
use fisec_runtime::{Measurement, NodeTime, RuntimeError, calibrate, fit};

use super::Row;

/// Time for each CPU kernel.
const BUDGET: Duration = Duration::from_millis(40);

/// Kernel of convolutions.
const CONV: &str = "conv";

/// Of the CPU: kernels by themselves, the dense step as it was timed. `shipped` tells the rest.
pub fn of_cpu(threads: Option<usize>, dense: &Row, shipped: &CostTable) -> Result<CostTable, RuntimeError> {
    let threads = threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let threads = threads.unwrap_or(1);
    let measured = calibrate(threads, BUDGET)?;
    Ok(CostTable {
        device: format!("{threads} threads, {}", std::env::consts::ARCH),
        pixels: measured.pixels,
        tiles: measured.tiles,
        rows: measured.rows,
        dense: TileCost {
            theta: dense.macs as f64 / (dense.times.median() * 1e9),
            ..shipped.dense
        },
        island: shipped.island,
    })
}

/// Of a GPU: the nodes of the plan's own steps. Launches overlap within a step's graph, and norms count with the products
/// that they stand beside, so the times of products are scaled to add up to the step's.
pub fn of_device(device: String, dense: &Row, edits: &[Row], shipped: &CostTable) -> CostTable {
    let sparse: Vec<Measurement> = edits.iter().flat_map(products).collect();
    let (convs, rows): (Vec<_>, Vec<_>) = sparse.iter().partition(|product| product.what == CONV);
    let pixels = if convs.is_empty() { shipped.pixels } else { fit(convs) };
    CostTable {
        device,
        pixels,
        tiles: pixels,
        rows: if rows.is_empty() { shipped.rows } else { fit(rows) },
        dense: fit(&products(dense)),
        island: shipped.island,
    }
}

/// Convolutions, linears and attention of a step. What they read is not told apart from what they compute: kernels on a
/// GPU fetch while they multiply.
fn products(step: &Row) -> Vec<Measurement> {
    let products = step.nodes.iter().filter(|node| node.macs > 0);
    let alone: Duration = products.clone().map(|node| node.time).sum();
    let together = step.times.median() / alone.as_secs_f64().max(1e-12);
    let product = |node: &NodeTime| Measurement {
        what: node.kernel.to_owned(),
        share: 1.0,
        tile: None,
        bytes: 0.0,
        macs: node.macs as f64,
        ns: node.time.as_secs_f64() * 1e9 * together,
    };
    products.map(product).collect()
}
