//! Where boxes stand: layers from top to bottom, cut into columns that stand side by side.

use std::collections::{HashMap, HashSet};

use crate::{Graph, NodeId, Op, Operand};

pub(super) const BOX_WIDTH: f64 = 156.0;
pub(super) const BOX_HEIGHT: f64 = 34.0;
const GAP: f64 = 16.0;
const LAYER_HEIGHT: f64 = 56.0;
const COLUMN_GAP: f64 = 90.0;
/// Width over height that the columns aim at.
const ASPECT: f64 = 1.7;
const MOST_COLUMNS: usize = 48;
/// Unconnected pieces that are followed from their top.
const MOST_CHAINS: usize = 64;
/// Operands at most this many layers above are near.
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

/// Nodes by layer: below all operands, and as low as their first user allows; inputs stay on top.
fn layers(graph: &Graph, order: &[NodeId]) -> Vec<Vec<NodeId>> {
    let mut layer: HashMap<NodeId, usize> = HashMap::with_capacity(order.len());
    for &id in order {
        let above = operands(graph, id).filter_map(|operand| layer.get(&operand)).max();
        layer.insert(id, above.map_or(0, |above| above + 1));
    }
    let mut first_user: HashMap<NodeId, usize> = HashMap::new();
    for &id in order.iter().rev() {
        if let (Some(&user), false) = (first_user.get(&id), matches!(graph.op(id), Op::Input(_))) {
            layer.insert(id, user.saturating_sub(1));
        }
        for operand in operands(graph, id) {
            let first = first_user.entry(operand).or_insert(usize::MAX);
            *first = layer[&id].min(*first);
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

/// Left edges of the boxes. Every box stands under its deepest near operand, so that chains are straight; what hangs on
/// a chain from elsewhere stands beside it.
fn horizontal(graph: &Graph, layers: &[Vec<NodeId>]) -> HashMap<NodeId, f64> {
    let mut slots = Slots::new(layers);
    let mut user: HashMap<NodeId, NodeId> = HashMap::new();
    for &id in layers.iter().rev().flatten() {
        user.extend(operands(graph, id).map(|operand| (operand, id)));
    }
    for _ in 0..MOST_CHAINS {
        slots.follow_chains(graph, layers);
        let hangs = |id: &NodeId| user.get(id).is_none_or(|user| slots.taken.contains_key(user));
        let start = layers
            .iter()
            .flatten()
            .find(|id| !slots.taken.contains_key(id) && !hangs(id));
        match start.copied() {
            Some(start) => slots.take(start, 0),
            None => break,
        }
    }
    for &id in layers.iter().rev().flatten() {
        let beside = user.get(&id).and_then(|user| slots.taken.get(user)).copied();
        if !slots.taken.contains_key(&id) {
            slots.take(id, beside.unwrap_or_default());
        }
    }
    slots
        .taken
        .into_iter()
        .map(|(id, slot)| (id, f64::from(slot) * (BOX_WIDTH + GAP)))
        .collect()
}

/// Places of equal width within the layers.
struct Slots {
    layers: HashMap<NodeId, usize>,
    taken: HashMap<NodeId, i32>,
    full: HashSet<(usize, i32)>,
}

impl Slots {
    fn new(layers: &[Vec<NodeId>]) -> Self {
        let numbered = layers.iter().enumerate();
        let layers = numbered
            .flat_map(|(layer, nodes)| nodes.iter().map(move |&id| (id, layer)))
            .collect();
        Slots {
            layers,
            taken: HashMap::new(),
            full: HashSet::new(),
        }
    }

    /// Places what stands under something that has its place.
    fn follow_chains(&mut self, graph: &Graph, layers: &[Vec<NodeId>]) {
        for &id in layers.iter().flatten() {
            let above =
                operands(graph, id).filter(|&operand| self.near(operand, id) && self.taken.contains_key(&operand));
            // the last of equals is the first operand
            let above = above
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .max_by_key(|operand| self.layers[operand]);
            if let (Some(above), false) = (above, self.taken.contains_key(&id)) {
                self.take(id, self.taken[&above]);
            }
        }
    }

    fn near(&self, above: NodeId, below: NodeId) -> bool {
        self.layers[&below].saturating_sub(self.layers[&above]) <= NEAR
    }

    /// Takes the free slot nearest to `wish`, on the right before the left.
    fn take(&mut self, id: NodeId, wish: i32) {
        let layer = self.layers[&id];
        let mut nearest = (0..).flat_map(|distance| [wish + distance, wish - distance]);
        let slot = nearest
            .find(|&slot| self.full.insert((layer, slot)))
            .expect("there is always a free one");
        self.taken.insert(id, slot);
    }
}

/// Cuts the layers into as many columns as make the drawing about as wide as a screen.
fn columns(layers: &[Vec<NodeId>], x: &HashMap<NodeId, f64>) -> Layout {
    let fit = |layout: &Layout| (layout.width / layout.height / ASPECT).ln().abs();
    let cuts = (1..=MOST_COLUMNS).map(|count| cut(layers, x, layers.len().div_ceil(count).max(1)));
    cuts.min_by(|a, b| fit(a).total_cmp(&fit(b))).expect("at least one")
}

/// Columns of `rows` layers each.
fn cut(layers: &[Vec<NodeId>], x: &HashMap<NodeId, f64>, rows: usize) -> Layout {
    let mut places = HashMap::new();
    let mut left = GAP;
    for column in layers.chunks(rows) {
        let lefts = column.iter().flatten().map(|id| x[id]);
        let (low, high) = lefts.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        for (row, nodes) in column.iter().enumerate() {
            for id in nodes {
                places.insert(*id, [left + x[id] - low, GAP + row as f64 * LAYER_HEIGHT]);
            }
        }
        left += (high - low).max(0.0) + BOX_WIDTH + COLUMN_GAP;
    }
    let height = layers.len().min(rows) as f64 * LAYER_HEIGHT + GAP;
    Layout {
        places,
        width: (left - COLUMN_GAP + GAP).max(BOX_WIDTH),
        height,
    }
}
