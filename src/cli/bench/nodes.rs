//! Where a step spends its time.

use fisec_runtime::NodeTime;
use serde_json::{Value, json};

use crate::cli::{output, units};

/// Rows printed; the rest is one line.
const SHOWN: usize = 25;

/// Measured nodes, slowest first.
pub fn by_time(mut nodes: Vec<NodeTime>) -> Vec<NodeTime> {
    nodes.sort_by_key(|node| std::cmp::Reverse(node.time));
    nodes
}

/// As JSON.
pub fn json(node: &NodeTime) -> Value {
    json!({
        "node": node.node,
        "kernel": node.kernel,
        "seconds": node.time.as_secs_f64(),
        "macs": node.macs,
    })
}

/// Nodes as a table with their share of all.
pub fn table(nodes: &[NodeTime]) -> String {
    let total: f64 = nodes.iter().map(|node| node.time.as_secs_f64()).sum();
    let row = |node: &NodeTime| {
        let seconds = node.time.as_secs_f64();
        let speed = node.macs as f64 / seconds.max(1e-12) / 1e9;
        vec![
            units::seconds(seconds),
            units::percent(seconds / total.max(1e-12)),
            if node.macs > 0 {
                format!("{speed:.1} GMAC/s")
            } else {
                String::new()
            },
            node.kernel.to_owned(),
            node.node.clone(),
        ]
    };
    let mut rows: Vec<Vec<String>> = nodes.iter().take(SHOWN).map(row).collect();
    let rest: f64 = nodes.iter().skip(SHOWN).map(|node| node.time.as_secs_f64()).sum();
    if nodes.len() > SHOWN {
        let name = format!("{} more", nodes.len() - SHOWN);
        rows.push(vec![
            units::seconds(rest),
            units::percent(rest / total),
            String::new(),
            String::new(),
            name,
        ]);
    }
    output::table(&rows, &[0, 1, 2])
}
