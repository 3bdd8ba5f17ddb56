//! Recognise attention that is computed some heads at a time, as exporters write it for devices with little memory.
//!
//! Before: `attention(Slice(%q, 0..1), Slice(%k, 0..1), Slice(%v, 0..1))` for every range of heads, written into zeros one
//! after another (`ScatterND`) or joined (`Concat`).  After: one `attention %q, %k, %v, heads=H`.

use fisec_ir::{Graph, NodeId, Op, Operand, ValueId};

use super::infer_shapes::axis;
use super::order;
use super::pattern::{Rewriter, constant, is, onnx, result, value_at};
use super::raise_attention::{attention, exact_scale, replace, sequence};
use super::raise_geglu::{Part, part};
use super::view::{View, reordering, trace};
use crate::{Changes, PassError};

const PASS: &str = "raise_sliced_attention";

/// Elements of a list of places that is read at most.
const READABLE: usize = 1 << 22;

/// Puts one attention in the place of those of all ranges of heads.
pub fn raise_sliced_attention(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        if !is_written_on(rewriter.graph, id) {
            raise(&mut rewriter, id);
        }
    }
    Ok(rewriter.finish())
}

/// Whether another write follows: a chain is looked at once, from its end.
fn is_written_on(graph: &Graph, id: NodeId) -> bool {
    let users = graph.users(result(id)).into_iter();
    let mut users = users.filter(|&(_, position)| position == 0);
    users.any(|(user, _)| is(graph, result(user), "ScatterND"))
}

/// Rows `start..start + length` of an axis, and the value that stands there.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    length: usize,
    value: ValueId,
}

fn raise(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let (axis, pieces, mut sources) = if is(graph, result(id), "ScatterND") {
        written(graph, id)?
    } else if is(graph, result(id), "Concat") {
        joined(graph, id)?
    } else {
        return None;
    };
    let rank = graph.value_type(result(id)).shape.len();
    if pieces.len() < 2 || axis + 2 >= rank {
        return None;
    }
    let mut whole: Option<([ValueId; 3], f64)> = None;
    for piece in &pieces {
        let (of, scale, node) = attended(graph, piece, axis)?;
        sources.push(node);
        if *whole.get_or_insert((of, scale)) != (of, scale) {
            return None;
        }
    }
    let ([q, k, v], scale) = whole?;
    let rows = graph.value_type(result(id)).shape[axis];
    if [q, k, v]
        .iter()
        .any(|&value| graph.value_type(value).shape.get(axis) != Some(&rows))
    {
        return None;
    }
    let [(q, q_scale), (k, k_scale), (v, v_scale)] = [
        sequence(graph, q, false)?,
        sequence(graph, k, false)?,
        sequence(graph, v, false)?,
    ];
    let agree = (q.heads, q.batch, q.width) == (k.heads, k.batch, k.width)
        && (k.heads, k.batch, k.width, k.length) == (v.heads, v.batch, v.width, v.length);
    if !agree || v_scale != 1.0 {
        return None;
    }
    let op = attention(q.heads, exact_scale(scale * q_scale * k_scale, q.width), false);
    replace(rewriter, result(id), [q, k, v], op, &sources);
    Some(())
}

/// Writes into a constant, one after another, that together meet every row of the first axis once.
fn written(graph: &Graph, last: NodeId) -> Option<(usize, Vec<Piece>, Vec<NodeId>)> {
    let rows = *graph.value_type(result(last)).shape.first()?;
    let (mut pieces, mut sources) = (Vec::new(), Vec::new());
    let mut at = result(last);
    loop {
        onnx(graph, at).filter(|op| op.is("ScatterND") && !op.attributes.contains_key("reduction"))?;
        let [data, places, updates] = graph.operands(at.node)[..] else {
            return None;
        };
        let (start, length) = rows_of(graph, at, places)?;
        pieces.push(Piece {
            start,
            length,
            value: updates.value()?,
        });
        sources.push(at.node);
        match data {
            Operand::Value(before) => at = before,
            Operand::Weight(_) => break,
            Operand::Absent => return None,
        }
    }
    pieces.sort_by_key(|piece| piece.start);
    sources.reverse();
    covers(&pieces, rows).then_some((0, pieces, sources))
}

/// The rows of the first axis that a `ScatterND` writes whole, when they follow each other.
fn rows_of(graph: &Graph, written: ValueId, places: Operand) -> Option<(usize, usize)> {
    let shape = graph.value_type(written).shape.clone();
    let places = constant(graph, places)?;
    let (&depth, lead) = places.shape().split_last()?;
    if depth == 0 || places.shape().elements() > READABLE {
        return None;
    }
    let list = places.materialize().to_i64_vec();
    let counted = |index: i64, axis: usize| {
        let size = shape[axis] as i64;
        usize::try_from(if index < 0 { index + size } else { index }).ok()
    };
    let start = counted(*list.first()?, 0)?;
    let run: usize = shape[1..depth].iter().product();
    let count = lead.iter().product::<usize>();
    if run == 0 || count % run != 0 {
        return None;
    }
    let expected = |row: usize, axis: usize| {
        let inner: usize = shape[axis + 1..depth].iter().product();
        match axis {
            0 => start + row / inner,
            _ => row / inner % shape[axis],
        }
    };
    let fits = |(row, index): (usize, &[i64])| {
        let mut axes = index.iter().enumerate();
        axes.all(|(axis, &index)| counted(index, axis) == Some(expected(row, axis)))
    };
    list.chunks(depth).enumerate().all(fits).then_some((start, count / run))
}

/// Values that follow each other along an axis.
fn joined(graph: &Graph, id: NodeId) -> Option<(usize, Vec<Piece>, Vec<NodeId>)> {
    let shape = &graph.value_type(result(id)).shape;
    let at = axis(onnx(graph, result(id))?.int("axis", 0), shape.len())?;
    let mut start = 0;
    let pieces = graph.operands(id).iter().map(|operand| {
        let value = operand.value()?;
        let length = graph.value_type(value).shape[at];
        start += length;
        Some(Piece {
            start: start - length,
            length,
            value,
        })
    });
    Some((at, pieces.collect::<Option<Vec<_>>>()?, vec![id]))
}

fn covers(pieces: &[Piece], rows: usize) -> bool {
    let end = pieces.iter().try_fold(0, |end, piece| {
        (piece.start == end).then_some(piece.start + piece.length)
    });
    end == Some(rows)
}

/// Queries, keys and values that a piece's attention reads the piece's rows of; its scale; its node.
fn attended(graph: &Graph, piece: &Piece, axis: usize) -> Option<([ValueId; 3], f64, NodeId)> {
    let (source, view) = trace(graph, piece.value);
    let Op::Attention {
        heads: 1,
        scale,
        control: None,
    } = *graph.op(source.node)
    else {
        return None;
    };
    if !view.is_contiguous() {
        return None;
    }
    let of = [0, 1, 2].map(|position| {
        let found = range_of(graph, value_at(graph, source.node, position)?)?;
        let same = (found.axis, found.start, found.length) == (axis, piece.start, piece.length);
        same.then_some(found.of)
    });
    let [q, k, v] = of;
    Some(([q?, k?, v?], scale, source.node))
}

/// The range of an axis that a value is, in whatever shape.
fn range_of(graph: &Graph, mut value: ValueId) -> Option<Part> {
    loop {
        if let Some(found) = part(graph, value) {
            return Some(found);
        }
        let (before, steps) = reordering(graph, value)?;
        let whole = View::whole(&graph.value_type(before).shape);
        let view = steps.iter().try_fold(whole, |view, step| view.then(step))?;
        if !view.is_contiguous() {
            return None;
        }
        value = before;
    }
}
