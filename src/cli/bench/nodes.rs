//! Where a step spends its time.

use fisec_runtime::StepReport;
use serde_json::{Value, json};

use crate::cli::{output, units};

/// Rows printed; the rest is one line.
const SHOWN: usize = 25;

/// The nodes of a measured step, slowest first.
pub fn by_time(report: &StepReport) -> Vec<Value> {
    let mut nodes = report.nodes.clone();
    nodes.sort_by_key(|node| std::cmp::Reverse(node.time));
    let node = nodes.iter().map(|node| {
        json!({
            "node": node.node,
            "kernel": node.kernel,
            "seconds": node.time.as_secs_f64(),
            "macs": node.macs,
        })
    });
    node.collect()
}

/// Nodes as a table with their share of all.
pub fn table(nodes: &[Value]) -> String {
    let seconds = |node: &Value| node["seconds"].as_f64().unwrap_or(0.0);
    let total: f64 = nodes.iter().map(seconds).sum();
    let row = |node: &Value| {
        let macs = node["macs"].as_u64().unwrap_or(0);
        let speed = macs as f64 / seconds(node).max(1e-12) / 1e9;
        vec![
            units::seconds(seconds(node)),
            units::percent(seconds(node) / total.max(1e-12)),
            if macs > 0 {
                format!("{speed:.1} GMAC/s")
            } else {
                String::new()
            },
            node["kernel"].as_str().unwrap_or_default().to_owned(),
            node["node"].as_str().unwrap_or_default().to_owned(),
        ]
    };
    let mut rows: Vec<Vec<String>> = nodes.iter().take(SHOWN).map(row).collect();
    let rest: f64 = nodes.iter().skip(SHOWN).map(seconds).sum();
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
