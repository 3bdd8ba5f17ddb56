//! What an element of a result depends on: the one place that says it of every operator.
//!
//! Passes that keep work to some pixels, some images or some tokens ask here. An operator that is
//! not listed reads and writes whole maps: [`Reading::Whole`] along every axis.

mod opaque;
mod semantic;

use crate::{Graph, NodeId, Op, Operand};

/// How the index of a result along one of its axes limits what is read of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The operand's axis at the same index and nowhere else.
    Same(usize),
    /// Two neighbouring axes of the operand, seen as one in row-major order, at the same index and nowhere else.
    Joined(usize, usize),
    /// The outer (`false`) or inner (`true`) one of two axes of the result that walk one axis of the operand in row-major
    /// order, each element once.
    Split(usize, bool),
    /// A window of the operand's axis that moves with the index: a convolution's, or a resized map's.
    Near(usize),
    /// All of the operand's axis, but the result stands at the place of its element there: a norm, a running sum.
    Placed(usize),
    /// The index limits nothing: all is read, or all indices read the same.
    Whole,
}

impl Reading {
    /// Whether an element of the result needs one element of the operand's axis only.
    pub fn is_local(self) -> bool {
        matches!(self, Reading::Same(_) | Reading::Joined(..) | Reading::Split(..))
    }
}

/// How a result depends on the operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// The elements of the first operand in their order under another shape.
    Regrouped,
    /// For every operand, for every axis of the result.
    Axes(Vec<Vec<Reading>>),
}

impl Dependence {
    /// Of one output of a node. Constants of the graph are read where they say what the operator does.
    pub fn of(graph: &Graph, id: NodeId, output: usize) -> Self {
        let node = graph.node(id);
        let Some(result) = node.outputs().get(output) else {
            return Dependence::Axes(vec![Vec::new(); node.operands().len()]);
        };
        match node.op() {
            Op::Onnx(op) => opaque::dependence(graph, id, op, result),
            op => Dependence::Axes(semantic::readings(graph, id, op, result)),
        }
    }

    /// How operand `position` is read along `axis` of the result.
    pub fn reading(&self, position: usize, axis: usize) -> Reading {
        match self {
            Dependence::Regrouped => Reading::Whole,
            Dependence::Axes(operands) => {
                let reading = operands.get(position).and_then(|axes| axes.get(axis));
                reading.copied().unwrap_or(Reading::Whole)
            }
        }
    }
}

/// The axes along which a value of rank `rank` has its pixels or tokens: `[N, C, H, W]`, `[N, L, C]`.
pub fn pixel_axes(rank: usize) -> &'static [usize] {
    match rank {
        4 => &[2, 3],
        3 => &[1],
        _ => &[],
    }
}

/// Whether a pixel or token of the result needs no other of operand `position`.
pub fn is_pixelwise(graph: &Graph, id: NodeId, position: usize) -> bool {
    let Some(result) = graph.node(id).outputs().first() else {
        return false;
    };
    let axes = pixel_axes(result.shape.len());
    let dependence = Dependence::of(graph, id, 0);
    !axes.is_empty() && axes.iter().all(|&axis| dependence.reading(position, axis).is_local())
}

/// Whether every element of the result needs one element of each operand: those at its own place, constants also at a
/// place that they repeat.
pub fn is_elementwise(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let [result] = node.outputs() else { return false };
    let dependence = Dependence::of(graph, id, 0);
    let operands = node.operands().iter().enumerate();
    let mut fits = operands.map(|(position, operand)| match operand {
        Operand::Value(_) => {
            (0..result.shape.len()).all(|axis| dependence.reading(position, axis) == Reading::Same(axis))
        }
        Operand::Weight(_) | Operand::Absent => true,
    });
    matches!(dependence, Dependence::Axes(_)) && fits.all(|fits| fits)
}

/// The shape of an operand; none where it is absent.
fn shape_of(graph: &Graph, operand: Operand) -> Option<fisec_tensor::Shape> {
    graph.operand_type(operand).map(|value| value.shape)
}

/// Elements at the same place, repeated along axes of length 1 and in front, as broadcasting has it.
fn broadcast(of: &[usize], result: &[usize]) -> Vec<Reading> {
    let ahead = result.len().saturating_sub(of.len());
    let reading = |axis: usize| match axis.checked_sub(ahead) {
        Some(own) if of[own] == result[axis] => Reading::Same(own),
        _ => Reading::Whole,
    };
    (0..result.len()).map(reading).collect()
}

/// The same index along every axis but some.
fn same_but(rank: usize, others: &[usize], reading: impl Fn(usize) -> Reading) -> Vec<Reading> {
    let of = |axis: usize| match others.contains(&axis) {
        true => reading(axis),
        false => Reading::Same(axis),
    };
    (0..rank).map(of).collect()
}
