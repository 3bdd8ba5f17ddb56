//! How much a compilation may make of what a model's files hold.
//!
//! A few bytes of ONNX describe constants of any size. What the compiler materialises of a model is bounded by what the
//! model brings along, so that a file of 250 bytes cannot fill a memory or a disk.

use std::cell::Cell;
use std::collections::HashMap;

use fisec_ir::Graph;

/// Bytes of work that every model may cause.
const ALLOWANCE: usize = 128 << 20;
/// Bytes of work per byte of a model's constants: quantised weights are unpacked, cast and packed again for each layer
/// that reads a part of them.
const PER_STORED_BYTE: usize = 256;
/// Bytes of work per node: each may fold a small constant.
const PER_NODE: usize = 1 << 10;

/// Bytes that may still be read, converted and written to materialise constants.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    left: Cell<usize>,
}

impl Budget {
    /// The budget of a compilation of these graphs: in proportion to the bytes that their weights are made of, each byte of
    /// a file counted once, and to the number of nodes.
    pub fn of<'a>(graphs: impl IntoIterator<Item = &'a Graph>) -> Self {
        let mut stored: HashMap<usize, usize> = HashMap::new();
        let mut nodes = 0usize;
        for graph in graphs {
            nodes = nodes.saturating_add(graph.len());
            for weight in graph.weights() {
                let longest = stored.entry(weight.data.address()).or_default();
                *longest = weight.data.source_bytes().max(*longest);
            }
        }
        let stored: usize = stored.values().fold(0, |sum, &bytes| sum.saturating_add(bytes));
        let total = stored
            .saturating_mul(PER_STORED_BYTE)
            .saturating_add(nodes.saturating_mul(PER_NODE))
            .saturating_add(ALLOWANCE);
        Budget {
            total,
            left: Cell::new(total),
        }
    }

    /// Whether so many bytes are left; then they are spent.
    #[must_use]
    pub fn spend(&self, bytes: usize) -> bool {
        let left = self.left.get().checked_sub(bytes);
        left.map(|left| self.left.set(left)).is_some()
    }

    /// Bytes that there were in the beginning.
    pub fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use fisec_ir::WeightInfo;
    use fisec_tensor::{Constant, DType, HostTensor, Transform};

    use super::*;

    fn graph(weights: impl IntoIterator<Item = Constant>) -> Graph {
        let mut graph = Graph::new("record");
        for data in weights {
            let name = "w".into();
            graph.add_weight(WeightInfo { name, data });
        }
        graph
    }

    #[test]
    fn bytes_of_a_file_count_once_and_fills_not_at_all() {
        let stored = Constant::from(HostTensor::from_f32([1000], vec![1.0; 1000]));
        let views = [stored.clone(), stored.transformed(Transform::Reshape([10, 100].into()))];
        let fills = (0..100).map(|_| Constant::filled(DType::F32, [1 << 30], 0.0));
        let one = Budget::of([&graph([stored])]).total();
        assert_eq!(one, ALLOWANCE + 4000 * PER_STORED_BYTE);
        assert_eq!(Budget::of([&graph(views.into_iter().chain(fills))]).total(), one);
    }

    #[test]
    fn what_is_spent_is_gone() {
        let budget = Budget::of([&graph([])]);
        assert!(!budget.spend(ALLOWANCE + 1) && budget.spend(ALLOWANCE - 1) && budget.spend(1) && !budget.spend(1));
        assert!(budget.spend(0));
    }
}
