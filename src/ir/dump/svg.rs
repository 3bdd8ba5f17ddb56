//! The graph as a drawing.

use std::collections::HashMap;
use std::fmt::Write;

use super::layout::{BOX_HEIGHT, BOX_WIDTH, Layout};
use super::{Dump, Kind, escaped};
use crate::{Extent, NodeId, Operand};

/// Letters that fit into a box.
const TITLE_LETTERS: usize = 24;
/// Edges longer than this, in pixels, are drawn faintly.
const LONG: f64 = 260.0;

pub(super) const STYLE: &str = "\
text{font:11px 'DejaVu Sans',Verdana,sans-serif;pointer-events:none}\
.name{font-size:9px;fill:#30363d}\
.node rect{stroke:#5b6470;stroke-width:1}\
.sparse rect{stroke:#c2273d;stroke-width:2.5}\
.cache rect{stroke-dasharray:4 2}\
path{fill:none;stroke:#66707d;stroke-width:1.2}\
path.active{stroke:#c2273d;stroke-width:1.8}\
path.long{stroke-opacity:.22}";

impl Dump<'_> {
    /// A drawing of its own: boxes coloured by kind, red where only active pixels are computed.
    pub fn svg(&self) -> String {
        let layout = Layout::new(self.graph, self.printer.order());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w:.0} {h:.0}\" width=\"{w:.0}\" height=\"{h:.0}\">\
             <style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"#fbfbfd\"/>{}</svg>\n",
            self.drawing(&layout),
            w = layout.width,
            h = layout.height,
        )
    }

    /// Edges and boxes as SVG elements. Box `i` belongs to the `i`-th node in order.
    pub(super) fn drawing(&self, layout: &Layout) -> String {
        let order = self.printer.order();
        let numbers: HashMap<NodeId, usize> = order.iter().enumerate().map(|(number, &id)| (id, number)).collect();
        let mut drawing = String::new();
        for &id in order {
            for operand in self.graph.operands(id) {
                let Operand::Value(value) = operand else { continue };
                let output = self.graph.node(value.node).outputs().get(value.output as usize);
                let active = output.is_some_and(|output| output.extent != Extent::Full);
                let ends = [numbers[&value.node], numbers[&id]];
                drawing.push_str(&edge(layout.places[&value.node], layout.places[&id], ends, active));
            }
        }
        for (number, &id) in order.iter().enumerate() {
            drawing.push_str(&self.drawn_box(id, number, layout.places[&id]));
        }
        drawing
    }

    fn drawn_box(&self, id: NodeId, number: usize, [x, y]: [f64; 2]) -> String {
        let kind = Kind::of(self.graph.op(id));
        let mut titles = self.titles(id).into_iter();
        let title = titles.next().unwrap_or_default();
        let sparse = if self.is_sparse(id) { " sparse" } else { "" };
        let mut text = format!(
            "<g class=\"node {}{sparse}\" data-n=\"{number}\" transform=\"translate({x:.0},{y:.0})\">\
             <rect width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"4\" fill=\"{}\"/>",
            kind.name(),
            kind.colour()
        );
        let _ = write!(text, "<text x=\"6\" y=\"14\">{}</text>", escaped(&fitting(&title)));
        if let Some(name) = titles.next() {
            let _ = write!(
                text,
                "<text class=\"name\" x=\"6\" y=\"27\">{}</text>",
                escaped(&fitting(&name))
            );
        }
        text.push_str("</g>");
        text
    }
}

fn edge(from: [f64; 2], to: [f64; 2], [a, b]: [usize; 2], active: bool) -> String {
    let (x1, y1) = (from[0] + BOX_WIDTH / 2.0, from[1] + BOX_HEIGHT);
    let (x2, y2) = (to[0] + BOX_WIDTH / 2.0, to[1]);
    let long = (x2 - x1).hypot(y2 - y1) > LONG;
    let bend = ((y2 - y1).abs() / 2.0).clamp(14.0, 120.0);
    let class = match (active, long) {
        (true, true) => " class=\"active long\"",
        (true, false) => " class=\"active\"",
        (false, true) => " class=\"long\"",
        (false, false) => "",
    };
    format!(
        "<path{class} data-e=\"{a} {b}\" d=\"M{x1:.0} {y1:.0}C{x1:.0} {:.0} {x2:.0} {:.0} {x2:.0} {y2:.0}\"/>",
        y1 + bend,
        y2 - bend
    )
}

fn fitting(text: &str) -> String {
    let count = text.chars().count();
    if count <= TITLE_LETTERS {
        return text.to_owned();
    }
    let tail: String = text.chars().skip(count - TITLE_LETTERS + 1).collect();
    format!("…{tail}")
}
