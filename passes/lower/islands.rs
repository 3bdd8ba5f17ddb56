//! Cut a program into native kernel calls and dense islands.

use std::collections::{BTreeSet, HashMap, HashSet};

use fisec_ir::{Extent, Graph, GraphError, NodeId, Op, Operand, Stage, ValueId, WeightId};

use super::WeightTarget;
use super::native::has_device_kernel;
use crate::analysis::{Levels, Stages};

/// One thing that the plan does: a node, or a subgraph that ONNX Runtime runs at once.
#[derive(Clone, Debug)]
pub enum Unit {
    /// a kernel call, an input or an output
    Native(NodeId),
    /// nodes in execution order, and how often they run
    Island(Vec<NodeId>, Stage),
}

/// The dense remainder of a U-Net: its levels that are never sparse.
#[derive(Clone, Copy, Debug)]
pub struct DenseLevels<'a> {
    /// all resolutions
    pub levels: &'a Levels,
    /// how many of the finest are sparse
    pub sparse: usize,
}

impl DenseLevels<'_> {
    /// Whether a node computes something of a dense level, and nothing that an edit or its control records or replaces.
    fn hold(&self, graph: &Graph, id: NodeId) -> bool {
        let is_apart = matches!(
            graph.op(id),
            Op::Input(_)
                | Op::Output(_)
                | Op::CacheRead(_)
                | Op::CacheWrite(_)
                | Op::AttentionMaps { .. }
                | Op::Attention { control: Some(_), .. }
        );
        !is_apart && self.level(graph, id).is_some_and(|level| level >= self.sparse)
    }

    /// The level of a node's first output, or else of what it is computed of: statistics and coefficients have no size.
    fn level(&self, graph: &Graph, id: NodeId) -> Option<usize> {
        let outputs = graph.node(id).outputs().first();
        if let Some(level) = outputs.and_then(|value| self.levels.fitting(value)) {
            return Some(level.0 as usize);
        }
        let source = graph.operands(id).first()?.value()?;
        let is_summary = matches!(
            graph.op(id),
            Op::GroupNormStats { .. } | Op::GroupNormStatsUpdate { .. } | Op::NormCoefficients { .. }
        );
        is_summary.then(|| self.level(graph, source.node)).flatten()
    }
}

/// The units of a graph in an order in which each has what it reads. On a device `remainder` is left to ONNX Runtime too.
pub fn partition(
    graph: &Graph,
    stages: &Stages,
    target: WeightTarget,
    remainder: Option<DenseLevels<'_>>,
) -> Result<Vec<Unit>, GraphError> {
    let order = graph.ordered()?;
    let left_over = |id: NodeId| remainder.is_some_and(|remainder| remainder.hold(graph, id));
    let natives: HashSet<NodeId> = match target {
        WeightTarget::Cpu => order.iter().copied().filter(|&id| is_native(graph, id)).collect(),
        WeightTarget::Cuda => order
            .iter()
            .copied()
            .filter(|&id| has_device_kernel(graph, stages, id) && !left_over(id))
            .collect(),
    };
    let mut depths: HashMap<NodeId, usize> = HashMap::new();
    let mut islands: HashMap<(Stage, usize), usize> = HashMap::new();
    let mut units: Vec<Unit> = Vec::new();
    for &id in &order {
        let native = natives.contains(&id);
        let depth = depth(graph, id, &natives, &depths);
        depths.insert(id, depth);
        if native {
            units.push(Unit::Native(id));
            continue;
        }
        let stage = stages.get(id).max(Stage::Timestep);
        let index = *islands.entry((stage, depth)).or_insert_with(|| {
            units.push(Unit::Island(Vec::new(), stage));
            units.len() - 1
        });
        let Unit::Island(nodes, _) = &mut units[index] else {
            unreachable!("an island's index")
        };
        nodes.push(id);
    }
    Ok(schedule(graph, units))
}

/// Nodes that have a kernel of their own; everything else is dense and belongs to an island.
fn is_native(graph: &Graph, id: NodeId) -> bool {
    let active = |value: &fisec_ir::ValueType| value.extent != Extent::Full;
    match graph.op(id) {
        Op::Input(_)
        | Op::Output(_)
        | Op::CacheRead(_)
        | Op::CacheWrite(_)
        | Op::Scatter(_)
        | Op::Gather
        | Op::NormCoefficients { .. }
        | Op::GroupNormStatsUpdate { .. } => true,
        Op::GroupNormStats { .. } => {
            let map = graph.operands(id)[0].value();
            map.is_some_and(|map| matches!(graph.op(map.node), Op::Scatter(_)))
        }
        Op::Repeat { .. } if repeats_slot(graph, id) => true,
        _ => graph.node(id).outputs().iter().any(active),
    }
}

/// Whether what is repeated is a recorded image: whoever reads around active pixels names the slot instead.
pub(super) fn repeats_slot(graph: &Graph, repeat: NodeId) -> bool {
    let image = graph.operands(repeat)[0].value();
    image.is_some_and(|image| matches!(graph.op(image.node), Op::CacheRead(_)))
}

/// Islands of one depth have no native node between them, so running them as one creates no cycle.
fn depth(graph: &Graph, id: NodeId, natives: &HashSet<NodeId>, depths: &HashMap<NodeId, usize>) -> usize {
    let operands = graph.operands(id).iter().filter_map(|operand| operand.value());
    let deepest = operands.map(|value| {
        let enters_island = !natives.contains(&id) && natives.contains(&value.node);
        depths[&value.node] + usize::from(enters_island)
    });
    deepest.max().unwrap_or(0)
}

/// Orders units so that operands come first, otherwise as they were.
fn schedule(graph: &Graph, units: Vec<Unit>) -> Vec<Unit> {
    let mut owner: HashMap<NodeId, usize> = HashMap::new();
    for (index, unit) in units.iter().enumerate() {
        for &id in members(unit) {
            owner.insert(id, index);
        }
    }
    let mut waiting: Vec<HashSet<usize>> = Vec::with_capacity(units.len());
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); units.len()];
    for (index, unit) in units.iter().enumerate() {
        let operands = members(unit)
            .iter()
            .flat_map(|&id| graph.operands(id))
            .filter_map(|operand| operand.value());
        let before: HashSet<usize> = operands
            .map(|value| owner[&value.node])
            .filter(|&producer| producer != index)
            .collect();
        before.iter().for_each(|&producer| users[producer].push(index));
        waiting.push(before);
    }
    let mut ready: BTreeSet<usize> = (0..units.len()).filter(|&index| waiting[index].is_empty()).collect();
    let mut order = Vec::with_capacity(units.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &user in &users[index] {
            waiting[user].remove(&index);
            if waiting[user].is_empty() {
                ready.insert(user);
            }
        }
    }
    let mut units: Vec<Option<Unit>> = units.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| units[index].take()).collect()
}

fn members(unit: &Unit) -> &[NodeId] {
    match unit {
        Unit::Native(id) => std::slice::from_ref(id),
        Unit::Island(nodes, _) => nodes,
    }
}

/// The nodes of a subgraph in an execution order that depends on their identities and edges alone, not on what reads
/// them: of all nodes whose operands are computed, the smallest identity comes first.
pub(super) fn by_identity(graph: &Graph, nodes: &[NodeId]) -> Vec<NodeId> {
    let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let mut waiting: HashMap<NodeId, HashSet<NodeId>> = HashMap::new();
    let mut users: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    let mut ready = BTreeSet::new();
    for &id in &inside {
        let operands = graph.operands(id).iter().filter_map(|operand| operand.value());
        let before: HashSet<NodeId> = operands
            .map(|value| value.node)
            .filter(|node| inside.contains(node))
            .collect();
        before
            .iter()
            .for_each(|&operand| users.entry(operand).or_default().push(id));
        if before.is_empty() {
            ready.insert(id);
        }
        waiting.insert(id, before);
    }
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(id) = ready.pop_first() {
        order.push(id);
        for user in users.get(&id).into_iter().flatten() {
            let before = waiting.get_mut(user).expect("inside");
            before.remove(&id);
            if before.is_empty() {
                ready.insert(*user);
            }
        }
    }
    order
}

/// A subgraph as a graph of its own, with the outer values at its boundary.
pub struct Extracted {
    /// inputs and outputs are named `i0…` and `o0…` in the order of the lists below
    pub graph: Graph,
    /// outer values that it reads
    pub inputs: Vec<ValueId>,
    /// values that others read
    pub outputs: Vec<ValueId>,
}

/// Copies `nodes` (in execution order) out of `graph`.
pub fn extract(graph: &Graph, nodes: &[NodeId], name: &str) -> Extracted {
    let inside: HashSet<NodeId> = nodes.iter().copied().collect();
    let mut copy = Copier {
        graph,
        target: Graph::new(name),
        values: HashMap::new(),
        weights: HashMap::new(),
    };
    let mut inputs = Vec::new();
    for value in nodes
        .iter()
        .flat_map(|&id| graph.operands(id))
        .filter_map(|operand| operand.value())
    {
        if inside.contains(&value.node) || copy.values.contains_key(&value) {
            continue;
        }
        let input = Op::Input(format!("i{}", inputs.len()));
        let origin = graph.origin(value.node).clone();
        let inner = copy
            .target
            .add_value(input, vec![], graph.value_type(value).clone(), origin);
        copy.values.insert(value, inner);
        inputs.push(value);
    }
    nodes.iter().for_each(|&id| copy.node(id));
    let mut outputs = Vec::new();
    for &id in nodes {
        for output in 0..graph.node(id).outputs().len() as u32 {
            let value = ValueId { node: id, output };
            if graph.uses(value).any(|(user, _)| !inside.contains(&user)) {
                let origin = graph.origin(id).clone();
                let op = Op::Output(format!("o{}", outputs.len()));
                copy.target.add(op, vec![copy.values[&value].into()], vec![], origin);
                outputs.push(value);
            }
        }
    }
    Extracted {
        graph: copy.target,
        inputs,
        outputs,
    }
}

struct Copier<'a> {
    graph: &'a Graph,
    target: Graph,
    values: HashMap<ValueId, ValueId>,
    weights: HashMap<WeightId, WeightId>,
}

impl Copier<'_> {
    fn node(&mut self, id: NodeId) {
        let operands = self
            .graph
            .operands(id)
            .to_vec()
            .into_iter()
            .map(|operand| self.operand(operand))
            .collect();
        let node = self.graph.node(id);
        let outputs = node.outputs().to_vec();
        let copied = self
            .target
            .add(node.op().clone(), operands, outputs, node.origin().clone());
        for output in 0..node.outputs().len() as u32 {
            self.values
                .insert(ValueId { node: id, output }, ValueId { node: copied, output });
        }
    }

    fn operand(&mut self, operand: Operand) -> Operand {
        match operand {
            Operand::Value(value) => self.values[&value].into(),
            Operand::Weight(weight) => {
                let (graph, target) = (self.graph, &mut self.target);
                let copied = *self
                    .weights
                    .entry(weight)
                    .or_insert_with(|| target.add_weight(graph.weight(weight).clone()));
                copied.into()
            }
            Operand::Absent => Operand::Absent,
        }
    }
}
