//! Recognise the reorderings between maps and tokens; drop those that cancel and join the rest.
//!
//! Before: `Reshape(Transpose(%x, [0,2,3,1]), [N,HW,C])`; heads split and joined again.  After: `tokens %x`; nothing.

use fisec_ir::{Graph, NodeId, Op, Operand, ValueId, ValueType};
use fisec_tensor::Shape;

use super::order;
use super::pattern::Rewriter;
use super::view::{View, reordering, trace};
use crate::{Changes, PassError};

const PASS: &str = "raise_tokens";

/// Rewrites every chain of reorderings whose result another operator reads, when that makes it shorter.
pub fn raise_tokens(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        let outputs = rewriter.graph.node(id).outputs().len() as u32;
        for output in 0..outputs {
            rewrite(&mut rewriter, ValueId { node: id, output });
        }
    }
    Ok(rewriter.finish())
}

fn rewrite(rewriter: &mut Rewriter, value: ValueId) -> Option<()> {
    let graph = &*rewriter.graph;
    reordering(graph, value)?;
    let read = graph
        .uses(value)
        .any(|(user, _)| matches!(graph.op(user), Op::Output(_)) || !reorders(graph, user));
    if !read {
        return None;
    }
    let (source, view) = trace(graph, value);
    let (from, to) = (&graph.value_type(source).shape, &graph.value_type(value).shape);
    let plan = plan(from, to, &view)?;
    let current = chain(graph, source, value);
    if current == plan {
        return None;
    }
    let sources: Vec<NodeId> = nodes(graph, source, value);
    build(rewriter, source, value, &plan, &sources);
    Some(())
}

fn reorders(graph: &Graph, node: NodeId) -> bool {
    reordering(graph, ValueId { node, output: 0 }).is_some()
}

/// One operator of a rewritten chain, with the shape of its result.
#[derive(Clone, Debug, PartialEq)]
enum Link {
    Reshape(Shape),
    Tokens(Shape),
    Spatial(Shape),
    Other,
}

/// The shortest chain with this effect. Between a map and tokens of one pixel nothing moves, but the name stays.
fn plan(from: &Shape, to: &Shape, view: &View) -> Option<Vec<Link>> {
    if from == to && view.is_contiguous() {
        return Some(vec![]);
    }
    let transposed = |a, b, c| view.is_transposed(a, b, c);
    let candidates = [plan_tokens(from, to, transposed), plan_spatial(from, to, transposed)];
    let shortest = candidates.into_iter().flatten().min_by_key(Vec::len);
    match shortest {
        Some(plan) if plan.len() == 1 || !view.is_contiguous() => Some(plan),
        _ => view.is_contiguous().then(|| plan_reshape(from, to)),
    }
}

fn plan_reshape(from: &Shape, to: &Shape) -> Vec<Link> {
    if from == to {
        vec![]
    } else {
        vec![Link::Reshape(to.clone())]
    }
}

/// A map's pixels one after another, in whatever shape they are wanted.
fn plan_tokens(from: &Shape, to: &Shape, transposed: impl Fn(usize, usize, usize) -> bool) -> Option<Vec<Link>> {
    let [batch, channels, height, width] = from[..] else {
        return None;
    };
    if !transposed(batch, channels, height * width) {
        return None;
    }
    let tokens: Shape = vec![batch, height * width, channels].into();
    let mut plan = vec![Link::Tokens(tokens.clone())];
    plan.extend(plan_reshape(&tokens, to));
    Some(plan)
}

/// A map from values whose channels lie one after another.
fn plan_spatial(from: &Shape, to: &Shape, transposed: impl Fn(usize, usize, usize) -> bool) -> Option<Vec<Link>> {
    let [batch, channels, height, width] = to[..] else {
        return None;
    };
    if !transposed(batch, height * width, channels) {
        return None;
    }
    let tokens: Shape = vec![batch, height * width, channels].into();
    let mut plan = plan_reshape(from, &tokens);
    plan.push(Link::Spatial(to.clone()));
    Some(plan)
}

fn nodes(graph: &Graph, source: ValueId, value: ValueId) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    let mut at = value;
    while at != source {
        nodes.push(at.node);
        let Some((before, _)) = reordering(graph, at) else {
            break;
        };
        at = before;
    }
    nodes.reverse();
    nodes
}

/// The chain as it is.
fn chain(graph: &Graph, source: ValueId, value: ValueId) -> Vec<Link> {
    let link = |node: NodeId| {
        let shape = graph.node(node).outputs()[0].shape.clone();
        match graph.op(node) {
            Op::Tokens => Link::Tokens(shape),
            Op::Spatial { .. } => Link::Spatial(shape),
            Op::Onnx(op) if op.is("Reshape") => Link::Reshape(shape),
            _ => Link::Other,
        }
    };
    nodes(graph, source, value).into_iter().map(link).collect()
}

fn build(rewriter: &mut Rewriter, source: ValueId, old: ValueId, plan: &[Link], sources: &[NodeId]) {
    let dtype = rewriter.graph.value_type(source).dtype;
    let mut value = source;
    for link in plan {
        value = match link {
            Link::Reshape(shape) => rewriter.reshaped(value, shape, sources),
            Link::Tokens(shape) => {
                let operands = vec![Operand::from(value)];
                rewriter.add(Op::Tokens, operands, ValueType::full(dtype, shape.clone()), sources)
            }
            Link::Spatial(shape) => {
                let op = Op::Spatial {
                    height: shape[2],
                    width: shape[3],
                };
                rewriter.add(op, vec![value.into()], ValueType::full(dtype, shape.clone()), sources)
            }
            Link::Other => unreachable!("never planned"),
        };
    }
    rewriter.forward(old, value);
}
