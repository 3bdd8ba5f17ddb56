//! Graphs for other programs and for eyes: JSON, Graphviz, SVG and one self-contained HTML page.

mod dot;
mod html;
mod json;
mod kind;
mod layout;
mod svg;

pub use kind::Kind;

use crate::text::{Printer, visible};
use crate::{Graph, NodeId};

/// What a dump says about a node beyond the graph itself; a cost model fills it in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// multiply-accumulates when everything is computed
    pub macs: Option<u64>,
    /// multiply-accumulates predicted for a mask
    pub predicted_macs: Option<u64>,
    /// further lines, e.g. tile candidates
    pub notes: Vec<String>,
}

/// A dump of one graph.
pub struct Dump<'g> {
    graph: &'g Graph,
    printer: Printer<'g>,
    details: Box<dyn Fn(NodeId) -> Details + 'g>,
}

impl<'g> Dump<'g> {
    /// A dump without costs.
    pub fn new(graph: &'g Graph) -> Self {
        Dump {
            graph,
            printer: Printer::new(graph),
            details: Box::new(|_| Details::default()),
        }
    }

    /// The same dump with costs and notes per node.
    pub fn details(mut self, details: impl Fn(NodeId) -> Details + 'g) -> Self {
        self.details = Box::new(details);
        self
    }
}

/// [`Dump::json`] without costs.
pub fn json(graph: &Graph) -> serde_json::Value {
    Dump::new(graph).json()
}

/// [`Dump::dot`] without costs.
pub fn dot(graph: &Graph) -> String {
    Dump::new(graph).dot()
}

/// [`Dump::svg`] without costs.
pub fn svg(graph: &Graph) -> String {
    Dump::new(graph).svg()
}

/// [`Dump::html`] without costs.
pub fn html(graph: &Graph) -> String {
    Dump::new(graph).html()
}

/// Text for XML and HTML, in elements and in quoted attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in visible(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The last two parts of a path-like ONNX name, which say most.
fn short_name(name: &str) -> &str {
    match name.rmatch_indices('/').nth(1) {
        Some((at, _)) if at > 0 => &name[at + 1..],
        _ => name.trim_start_matches('/'),
    }
}
