//! Conditions that the shapes of the inputs decide.

use std::collections::{BTreeSet, HashMap};

use fisec_ir::{Graph, Op, Operand, Origin, ValueId};

use super::fold_constants;

/// The truth of a value that depends on constants and shapes only, of a graph whose types are not inferred yet.
pub fn constant_condition(graph: &Graph, value: ValueId) -> Option<bool> {
    let mut sources = BTreeSet::new();
    let mut pending = vec![value.node];
    while let Some(id) = pending.pop() {
        if sources.insert(id) {
            let operands = graph.operands(id).iter();
            pending.extend(operands.filter_map(|operand| operand.value()).map(|value| value.node));
        }
    }
    let mut part = Graph::new("condition");
    let mut copies = HashMap::new();
    for id in graph.ordered().ok()?.into_iter().filter(|id| sources.contains(id)) {
        let operands = graph.operands(id).iter().map(|&operand| match operand {
            Operand::Value(value) => Operand::Value(ValueId {
                node: copies[&value.node],
                output: value.output,
            }),
            Operand::Weight(weight) => part.add_weight(graph.weight(weight).clone()).into(),
            Operand::Absent => Operand::Absent,
        });
        let operands = operands.collect();
        let node = graph.node(id);
        let copy = part.add(
            node.op().clone(),
            operands,
            node.outputs().to_vec(),
            node.origin().clone(),
        );
        copies.insert(id, copy);
    }
    let copied = ValueId {
        node: copies[&value.node],
        output: value.output,
    };
    let output = part.add(
        Op::Output("condition".into()),
        vec![copied.into()],
        vec![],
        Origin::default(),
    );
    fold_constants(&mut part).ok()?;
    let data = &part.weight(part.operands(output)[0].weight()?).data;
    (data.shape().elements() == 1).then(|| data.materialize().to_f64_vec()[0] != 0.0)
}
