//! Graph to text.

use std::collections::HashMap;
use std::fmt::Write;

use super::{attributes, lex, ops, quoted, weights, word_or_quoted};
use crate::{Graph, NodeId, Op, Operand, Origin, SlotInfo, ValueId};

/// The graph as IR text, values numbered in the order of [`Graph::ordered`].
pub fn print(graph: &Graph) -> String {
    let printer = Printer::new(graph);
    let mut text = format!("graph {}\n", word_or_quoted(graph.name()));
    if !graph.slots().is_empty() {
        text.push_str("\nslots {\n");
        for (index, slot) in graph.slots().iter().enumerate() {
            let _ = writeln!(text, "  s{index} {}", slot_text(slot));
        }
        text.push_str("}\n");
    }
    if !graph.weights().is_empty() {
        text.push_str("\nweights {\n");
        for weight in graph.weights() {
            let _ = writeln!(text, "  {}", weights::declaration(weight));
        }
        text.push_str("}\n");
    }
    text.push('\n');
    for &node in &printer.order {
        text.push_str(&printer.line(node));
        text.push('\n');
    }
    text
}

/// Prints single lines of a graph with the numbers that [`print`] gives.
pub struct Printer<'g> {
    graph: &'g Graph,
    order: Vec<NodeId>,
    first_values: HashMap<NodeId, usize>,
}

impl<'g> Printer<'g> {
    /// Numbers the values of `graph`. Nodes of a graph with a cycle are taken in creation order.
    pub fn new(graph: &'g Graph) -> Self {
        let order = graph.ordered().unwrap_or_else(|_| graph.ids());
        let mut next = 0;
        let mut first_values = HashMap::with_capacity(order.len());
        for &node in &order {
            first_values.insert(node, next);
            next += graph.node(node).outputs().len();
        }
        Printer {
            graph,
            order,
            first_values,
        }
    }

    /// The nodes in the order in which they are printed.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// The number of a value.
    pub fn number(&self, value: ValueId) -> Option<usize> {
        let first = self.first_values.get(&value.node)?;
        let exists = (value.output as usize) < self.graph.node(value.node).outputs().len();
        exists.then_some(first + value.output as usize)
    }

    /// The line that defines the node, without a line break.
    pub fn line(&self, id: NodeId) -> String {
        let statement = self.statement(id);
        match provenance(self.graph.origin(id)) {
            Some(origin) => format!("{statement} ; {origin}"),
            None => statement,
        }
    }

    /// [`Printer::line`] without provenance.
    pub fn statement(&self, id: NodeId) -> String {
        let node = self.graph.node(id);
        let mut line = String::new();
        if !node.outputs().is_empty() {
            let first = self.first_values[&id];
            let names: Vec<String> = (0..node.outputs().len())
                .map(|output| format!("%{}", first + output))
                .collect();
            let _ = write!(line, "{} = ", names.join(", "));
        }
        line.push_str(node.op().name());
        if let Op::Onnx(onnx) = node.op() {
            let _ = write!(line, " {}", word_or_quoted(&onnx.op_type));
        }
        let operands: Vec<String> = node.operands().iter().map(|&operand| self.operand(operand)).collect();
        let arguments = match (operands.join(", "), ops::attributes(node.op())) {
            (operands, attributes) if attributes.is_empty() => operands,
            (operands, attributes) if operands.is_empty() => attributes,
            (operands, attributes) => format!("{operands}, {attributes}"),
        };
        if !arguments.is_empty() {
            let _ = write!(line, " {arguments}");
        }
        if !node.outputs().is_empty() {
            let types: Vec<String> = node.outputs().iter().map(ToString::to_string).collect();
            let _ = write!(line, " : {}", types.join(", "));
        }
        line
    }

    /// An operand as it stands in a line: `%12`, `@name`, or `_` for an absent one.
    pub fn operand(&self, operand: Operand) -> String {
        match operand {
            Operand::Value(value) => self
                .number(value)
                .map_or("%?".to_owned(), |number| format!("%{number}")),
            Operand::Weight(weight) => match self.graph.weights().get(weight.0 as usize) {
                Some(weight) => weight_name(&weight.name),
                None => "@?".to_owned(),
            },
            Operand::Absent => "_".to_owned(),
        }
    }
}

pub(super) fn weight_name(name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(lex::is_weight_letter);
    if plain {
        format!("@{name}")
    } else {
        format!("@{}", quoted(name))
    }
}

fn slot_text(slot: &SlotInfo) -> String {
    let level = slot.level.map_or(String::new(), |level| format!(" level {}", level.0));
    format!("{} : {}{level}", quoted(&slot.name), slot.value_type)
}

fn provenance(origin: &Origin) -> Option<String> {
    let mut parts = Vec::new();
    if !origin.names.is_empty() {
        let names: Vec<String> = origin.names.iter().map(|name| quoted(name)).collect();
        parts.push(format!("names {}", names.join(" ")));
    }
    if !origin.pass.is_empty() {
        parts.push(format!("pass {}", quoted(&origin.pass)));
    }
    if !origin.reason.is_empty() {
        parts.push(format!("reason {}", quoted(&origin.reason)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The attributes of an opaque operator: `{axis=-1 mode="nearest"}`.
pub(super) fn onnx_attributes(onnx: &crate::OnnxOp) -> String {
    let mut text = format!("opset={}", onnx.opset);
    if !onnx.domain.is_empty() {
        let _ = write!(text, " domain={}", quoted(&onnx.domain));
    }
    if !onnx.attributes.is_empty() {
        let pairs: Vec<String> = onnx
            .attributes
            .iter()
            .map(|(name, value)| format!("{}={}", word_or_quoted(name), attributes::text(value)))
            .collect();
        let _ = write!(text, " {{{}}}", pairs.join(" "));
    }
    text
}
