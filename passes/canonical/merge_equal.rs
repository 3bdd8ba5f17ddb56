//! Compute once what is computed several times.
//!
//! Before: `%7 = silu %3`, `%9 = silu %3`.  After: `%7 = silu %3`, read by the users of both.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use fisec_ir::{Graph, NodeId, Op, Operand, ValueId};

use super::order;
use crate::{Changes, PassError};

const PASS: &str = "merge_equal";

/// Lets nodes with the same operator and operands share one result.
pub fn merge_equal(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    let mut seen: HashMap<(Vec<Operand>, u64), Vec<NodeId>> = HashMap::new();
    for id in order(graph, PASS)? {
        if graph.op(id).has_effect() || is_random(graph.op(id)) {
            continue;
        }
        let key = (graph.operands(id).to_vec(), fingerprint(graph.op(id)));
        let candidates = seen.entry(key).or_default();
        match candidates.iter().find(|&&first| is_equal(graph, first, id)) {
            Some(&first) => {
                merge(graph, first, id);
                changes += Changes(1);
            }
            None => candidates.push(id),
        }
    }
    graph.prune();
    Ok(changes)
}

/// Equal for equal operators, and hardly ever for others: a value may have a hundred thousand different users.
fn fingerprint(op: &Op) -> u64 {
    /// Hashes what is written to it.
    struct Hashed(DefaultHasher);

    impl Write for Hashed {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }

    let mut hashed = Hashed(DefaultHasher::new());
    let _ = write!(hashed, "{op:?}");
    hashed.0.finish()
}

fn is_random(op: &Op) -> bool {
    matches!(op, Op::Onnx(op) if op.op_type.starts_with("Random") || op.op_type == "Bernoulli")
}

fn is_equal(graph: &Graph, a: NodeId, b: NodeId) -> bool {
    graph.op(a) == graph.op(b) && graph.node(a).outputs() == graph.node(b).outputs()
}

fn merge(graph: &mut Graph, kept: NodeId, gone: NodeId) {
    for output in 0..graph.node(gone).outputs().len() as u32 {
        graph.replace_uses(ValueId { node: gone, output }, ValueId { node: kept, output });
    }
}
