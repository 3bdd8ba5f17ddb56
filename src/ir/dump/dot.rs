//! Graphviz.

use std::fmt::Write;

use super::{Dump, Kind, short_name};
use crate::text::visible;
use crate::{Extent, NodeId, Op, Operand};

impl Dump<'_> {
    /// A Graphviz digraph: boxes coloured by kind, sparse ones with a bold red border, cache operators dashed.
    pub fn dot(&self) -> String {
        let mut text = format!("digraph {} {{\n", quoted(self.graph.name()));
        text.push_str("  node [shape=box style=filled fontname=\"Helvetica\" fontsize=10];\n");
        text.push_str("  edge [color=\"#55606e\" fontsize=8 fontname=\"Helvetica\"];\n");
        for &id in self.printer.order() {
            let _ = writeln!(text, "  n{} [{}];", id.index(), self.dot_node(id));
        }
        for &id in self.printer.order() {
            for operand in self.graph.operands(id) {
                let Operand::Value(value) = operand else { continue };
                let sparse = self.graph.node(value.node).outputs().get(value.output as usize);
                let sparse = sparse.is_some_and(|output| output.extent != Extent::Full);
                let style = if sparse { " [color=\"#c2273d\"]" } else { "" };
                let _ = writeln!(text, "  n{} -> n{}{style};", value.node.index(), id.index());
            }
        }
        text.push_str("}\n");
        text
    }

    fn dot_node(&self, id: NodeId) -> String {
        let node = self.graph.node(id);
        let kind = Kind::of(node.op());
        let mut lines = self.titles(id);
        lines.extend(node.outputs().iter().map(ToString::to_string));
        let label: Vec<String> = lines.iter().map(|line| slashed(line)).collect();
        let border = match self.is_sparse(id) {
            true => " color=\"#c2273d\" penwidth=2",
            false => "",
        };
        let style = if kind == Kind::Cache {
            " style=\"filled,dashed\""
        } else {
            ""
        };
        let tooltip = quoted(&self.printer.line(id));
        format!(
            "label=\"{}\" fillcolor=\"{}\"{border}{style} tooltip={tooltip}",
            label.join("\\n"),
            kind.colour()
        )
    }

    /// Whether the node computes active pixels or tokens only.
    pub(super) fn is_sparse(&self, id: NodeId) -> bool {
        self.graph
            .node(id)
            .outputs()
            .iter()
            .any(|output| output.extent != Extent::Full)
    }

    /// Operator and, where there is one, the name that a person knows it by.
    pub(super) fn titles(&self, id: NodeId) -> Vec<String> {
        let node = self.graph.node(id);
        let (title, name) = match node.op() {
            Op::Onnx(onnx) => (onnx.op_type.clone(), node.origin().label()),
            Op::Input(name) | Op::Output(name) => (node.op().name().to_owned(), name.as_str()),
            Op::CacheRead(slot) | Op::CacheWrite(slot) => {
                let name = self
                    .graph
                    .slots()
                    .get(slot.0 as usize)
                    .map_or("", |slot| slot.name.as_str());
                (format!("{} {slot}", node.op().name()), name)
            }
            op => (op.name().to_owned(), node.origin().label()),
        };
        let name = short_name(name);
        if name.is_empty() {
            vec![title]
        } else {
            vec![title, name.to_owned()]
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", slashed(text))
}

fn slashed(text: &str) -> String {
    visible(text).replace('\\', "\\\\").replace('"', "\\\"")
}
