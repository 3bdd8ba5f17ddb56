//! Where boxes stand: layers from top to bottom, cut into columns that stand side by side.

use std::collections::HashMap;

use crate::{Graph, NodeId, Op, Operand};

pub(super) const BOX_WIDTH: f64 = 156.0;
pub(super) const BOX_HEIGHT: f64 = 34.0;
const GAP: f64 = 16.0;
const LAYER_HEIGHT: f64 = 56.0;
const COLUMN_GAP: f64 = 90.0;
/// Width over height that the columns aim at.
const ASPECT: f64 = 1.7;
/// Operands this many layers above still pull a box towards them.
const NEAR: usize = 3;

/// A drawing's geometry, in pixels.
pub(super) struct Layout {
    /// top left corner of each box
    pub(super) places: HashMap<NodeId, [f64; 2]>,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Layout {
    pub(super) fn new(graph: &Graph, order: &[NodeId]) -> Self {
        let layers = layers(graph, order);
        let x = horizontal(graph, &layers);
        columns(&layers, &x)
    }
}

/// Nodes by layer: below all operands, and sources right above their first user.
fn layers(graph: &Graph, order: &[NodeId]) -> Vec<Vec<NodeId>> {
    let mut layer: HashMap<NodeId, usize> = HashMap::with_capacity(order.len());
    for &id in order {
        let above = operands(graph, id).filter_map(|operand| layer.get(&operand)).max();
        layer.insert(id, above.map_or(0, |above| above + 1));
    }
    let mut first_user: HashMap<NodeId, usize> = HashMap::new();
    for &id in order {
        for operand in operands(graph, id) {
            let first = first_user.entry(operand).or_insert(usize::MAX);
            *first = layer[&id].min(*first);
        }
    }
    for &id in order {
        let is_source = graph.operands(id).iter().all(|operand| operand.value().is_none());
        if let (true, Some(&user)) = (is_source && !matches!(graph.op(id), Op::Input(_)), first_user.get(&id)) {
            layer.insert(id, user.saturating_sub(1));
        }
    }
    let count = layer.values().max().map_or(0, |last| last + 1);
    let mut layers = vec![Vec::new(); count];
    for &id in order {
        layers[layer[&id]].push(id);
    }
    layers
}

fn operands(graph: &Graph, id: NodeId) -> impl Iterator<Item = NodeId> {
    graph.operands(id).iter().filter_map(|operand| match operand {
        Operand::Value(value) => Some(value.node),
        _ => None,
    })
}

/// Centres of the boxes: under their near operands, then above their near users, without overlaps.
fn horizontal(graph: &Graph, layers: &[Vec<NodeId>]) -> HashMap<NodeId, f64> {
    let number: HashMap<NodeId, usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(layer, nodes)| nodes.iter().map(move |&id| (id, layer)))
        .collect();
    let near = |a: NodeId, b: NodeId| number[&b].saturating_sub(number[&a]) <= NEAR;
    let mut above: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    let mut below: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for &id in layers.iter().flatten() {
        for operand in operands(graph, id).filter(|&operand| near(operand, id)) {
            above.entry(id).or_default().push(operand);
            below.entry(operand).or_default().push(id);
        }
    }
    let mut x: HashMap<NodeId, f64> = number.keys().map(|&id| (id, 0.0)).collect();
    for _ in 0..3 {
        layers.iter().for_each(|nodes| settle(nodes, &above, &mut x));
        layers.iter().rev().for_each(|nodes| settle(nodes, &below, &mut x));
    }
    layers.iter().for_each(|nodes| settle(nodes, &above, &mut x));
    x
}

/// Puts a layer's boxes next to each other, each as near to the middle of its neighbours as the others allow.
fn settle(nodes: &[NodeId], neighbours: &HashMap<NodeId, Vec<NodeId>>, x: &mut HashMap<NodeId, f64>) {
    let wish = |id: &NodeId| match neighbours.get(id) {
        Some(list) => list.iter().map(|other| x[other]).sum::<f64>() / list.len() as f64,
        None => x[id],
    };
    let mut wishes: Vec<(f64, NodeId)> = nodes.iter().map(|id| (wish(id), *id)).collect();
    wishes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut placed: Vec<f64> = Vec::with_capacity(wishes.len());
    for (wished, _) in &wishes {
        let leftmost = placed.last().map_or(f64::NEG_INFINITY, |last| last + BOX_WIDTH + GAP);
        placed.push(wished.max(leftmost));
    }
    let shift = wishes
        .iter()
        .zip(&placed)
        .map(|((wished, _), placed)| wished - placed)
        .sum::<f64>();
    let shift = shift / wishes.len().max(1) as f64;
    for ((_, id), placed) in wishes.iter().zip(placed) {
        x.insert(*id, placed + shift);
    }
}

/// Cuts the layers into columns of about equal height.
fn columns(layers: &[Vec<NodeId>], x: &HashMap<NodeId, f64>) -> Layout {
    let span = |layers: &[Vec<NodeId>]| {
        let centres = layers.iter().flatten().map(|id| x[id]);
        let (low, high) = centres.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        if low > high { [0.0, 0.0] } else { [low, high] }
    };
    let typical = 3.0 * (BOX_WIDTH + GAP) + COLUMN_GAP;
    let rows = (layers.len() as f64 * typical / LAYER_HEIGHT / ASPECT)
        .sqrt()
        .ceil()
        .max(8.0) as usize;
    let mut places = HashMap::new();
    let mut left = GAP;
    for column in layers.chunks(rows) {
        let [low, high] = span(column);
        for (row, nodes) in column.iter().enumerate() {
            for id in nodes {
                places.insert(*id, [left + x[id] - low, GAP + row as f64 * LAYER_HEIGHT]);
            }
        }
        left += high - low + BOX_WIDTH + COLUMN_GAP;
    }
    let height = layers.len().min(rows) as f64 * LAYER_HEIGHT + GAP;
    Layout {
        places,
        width: (left - COLUMN_GAP + GAP).max(BOX_WIDTH),
        height,
    }
}
