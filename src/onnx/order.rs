//! The order in which nodes have what they read.

use std::collections::{BTreeSet, HashMap};

use crate::node;
use crate::proto::NodeProto;

/// Indices of the nodes so that producers come first; ONNX asks for that order, not every tool keeps it. The error is the
/// index of a node on a cycle.
pub(crate) fn execution_order(nodes: &[NodeProto]) -> Result<Vec<usize>, usize> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        producers.extend(node.output.iter().map(|output| (output.as_str(), index)));
    }
    producers.remove("");
    let mut users = vec![Vec::new(); nodes.len()];
    let mut missing: Vec<usize> = vec![0; nodes.len()];
    for (index, missing) in missing.iter_mut().enumerate() {
        let read = node::reads(&nodes[index]).into_iter();
        let producers = read.filter_map(|name| producers.get(name).copied());
        for producer in producers.filter(|&producer| producer != index || nodes[index].attribute.is_empty()) {
            users[producer].push(index);
            *missing += 1;
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&index| missing[index] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &user in &users[index] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.insert(user);
            }
        }
    }
    match (0..nodes.len()).find(|&index| missing[index] > 0) {
        Some(index) => Err(index),
        None => Ok(order),
    }
}
