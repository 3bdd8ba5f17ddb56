//! The graph: nodes in a petgraph, edges kept in step with operand lists.

use std::collections::HashMap;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use thiserror::Error;

use crate::{Op, Operand, Origin, SlotId, SlotInfo, ValueId, ValueType, WeightId, WeightInfo};

/// Identity of a node; stays valid until the node is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex<u32>);

impl NodeId {
    /// A dense-ish index for side tables; not stable across print and parse.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// One operator with its operands and the types of its outputs.
#[derive(Clone, Debug)]
pub struct Node {
    op: Op,
    operands: Vec<Operand>,
    outputs: Vec<ValueType>,
    origin: Origin,
}

impl Node {
    /// The operator.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Operands in the operator's order.
    pub fn operands(&self) -> &[Operand] {
        &self.operands
    }

    /// Types of the outputs.
    pub fn outputs(&self) -> &[ValueType] {
        &self.outputs
    }

    /// Provenance.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// A graph cannot be ordered or changed as asked.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GraphError {
    /// The operands form a cycle through this node.
    #[error("the graph has a cycle through `{0}`")]
    Cycle(String),
}

/// One program: operators over single-assignment values, a table of weights and a table of cache slots.
///
/// Edges follow operands exactly; they change only through [`Graph::add`], [`Graph::set_operand`],
/// [`Graph::replace_uses`] and [`Graph::remove`].
#[derive(Clone, Debug, Default)]
pub struct Graph {
    name: String,
    nodes: StableDiGraph<Node, u32>,
    weights: Vec<WeightInfo>,
    weight_names: HashMap<String, WeightId>,
    slots: Vec<SlotInfo>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph {
            name: name.into(),
            ..Graph::default()
        }
    }

    /// The program's name, e.g. `edit`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Renames the program.
    pub fn set_name(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    /// Adds a node behind its operands.
    pub fn add(&mut self, op: Op, operands: Vec<Operand>, outputs: Vec<ValueType>, origin: Origin) -> NodeId {
        let index = self.nodes.add_node(Node {
            op,
            operands: Vec::new(),
            outputs,
            origin,
        });
        let id = NodeId(index);
        self.set_operands(id, operands);
        id
    }

    /// Adds a node with one output and returns that value.
    pub fn add_value(&mut self, op: Op, operands: Vec<Operand>, output: ValueType, origin: Origin) -> ValueId {
        let node = self.add(op, operands, vec![output], origin);
        ValueId { node, output: 0 }
    }

    /// The node. Panics when it was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Whether the node is still there.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes.contains_node(id.0)
    }

    /// The operator of a node.
    pub fn op(&self, id: NodeId) -> &Op {
        &self.nodes[id.0].op
    }

    /// Replaces the operator of a node; operands and outputs stay.
    pub fn set_op(&mut self, id: NodeId, op: Op) {
        self.nodes[id.0].op = op;
    }

    /// Operands of a node.
    pub fn operands(&self, id: NodeId) -> &[Operand] {
        &self.nodes[id.0].operands
    }

    /// Replaces all operands of a node.
    pub fn set_operands(&mut self, id: NodeId, operands: Vec<Operand>) {
        let incoming: Vec<_> = self
            .nodes
            .edges_directed(id.0, Direction::Incoming)
            .map(|edge| edge.id())
            .collect();
        for edge in incoming {
            self.nodes.remove_edge(edge);
        }
        for (position, operand) in operands.iter().enumerate() {
            if let Operand::Value(value) = operand {
                self.nodes.add_edge(value.node.0, id.0, position as u32);
            }
        }
        self.nodes[id.0].operands = operands;
    }

    /// Replaces one operand of a node.
    pub fn set_operand(&mut self, id: NodeId, position: usize, operand: Operand) {
        let mut operands = self.nodes[id.0].operands.clone();
        operands[position] = operand;
        self.set_operands(id, operands);
    }

    /// Replaces the output types of a node.
    pub fn set_outputs(&mut self, id: NodeId, outputs: Vec<ValueType>) {
        self.nodes[id.0].outputs = outputs;
    }

    /// Provenance of a node.
    pub fn origin(&self, id: NodeId) -> &Origin {
        &self.nodes[id.0].origin
    }

    /// Replaces the provenance of a node.
    pub fn set_origin(&mut self, id: NodeId, origin: Origin) {
        self.nodes[id.0].origin = origin;
    }

    /// Type of a value.
    pub fn value_type(&self, value: ValueId) -> &ValueType {
        &self.nodes[value.node.0].outputs[value.output as usize]
    }

    /// Type of an operand: a weight's is full; an absent operand has none.
    pub fn operand_type(&self, operand: Operand) -> Option<ValueType> {
        match operand {
            Operand::Value(value) => Some(self.value_type(value).clone()),
            Operand::Weight(weight) => {
                let data = &self.weight(weight).data;
                Some(ValueType::full(data.dtype(), data.shape().clone()))
            }
            Operand::Absent => None,
        }
    }

    /// Users of a value: node and operand position, ordered by node then position.
    pub fn users(&self, value: ValueId) -> Vec<(NodeId, usize)> {
        let mut users: Vec<(NodeId, usize)> = self
            .nodes
            .edges_directed(value.node.0, Direction::Outgoing)
            .map(|edge| (NodeId(edge.target()), *edge.weight() as usize))
            .filter(|(node, position)| self.nodes[node.0].operands[*position] == Operand::Value(value))
            .collect();
        users.sort_unstable();
        users
    }

    /// The only user of a value, when there is exactly one use.
    pub fn sole_user(&self, value: ValueId) -> Option<NodeId> {
        match self.users(value)[..] {
            [(node, _)] => Some(node),
            _ => None,
        }
    }

    /// Makes every user of `old` read `new` instead.
    pub fn replace_uses(&mut self, old: ValueId, new: impl Into<Operand>) {
        let new = new.into();
        for (node, position) in self.users(old) {
            self.set_operand(node, position, new);
        }
    }

    /// Removes a node. Panics when a value of it is still used.
    pub fn remove(&mut self, id: NodeId) {
        let used = self.nodes.edges_directed(id.0, Direction::Outgoing).next().is_some();
        assert!(!used, "`{}` is still used", self.nodes[id.0].origin.label());
        self.nodes.remove_node(id.0);
    }

    /// Removes every node that no output, effect or cache write depends on. Returns how many went.
    pub fn prune(&mut self) -> usize {
        let mut live = vec![
            false;
            self.nodes
                .node_indices()
                .map(|node| node.index() + 1)
                .max()
                .unwrap_or(0)
        ];
        let mut pending: Vec<_> = self
            .nodes
            .node_indices()
            .filter(|&node| self.nodes[node].op.has_effect())
            .collect();
        while let Some(node) = pending.pop() {
            if !std::mem::replace(&mut live[node.index()], true) {
                pending.extend(self.nodes.neighbors_directed(node, Direction::Incoming));
            }
        }
        let before = self.nodes.node_count();
        self.nodes.retain_nodes(|_, node| live[node.index()]);
        before - self.nodes.node_count()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.node_count() == 0
    }

    /// All nodes in creation order, which need not be an execution order.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.node_indices().map(NodeId).collect()
    }

    /// All nodes in an execution order that depends only on the graph: depth-first from the nodes with effects, in
    /// creation order, operands in order; then whatever is dead.
    pub fn ordered(&self) -> Result<Vec<NodeId>, GraphError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Visit {
            New,
            Open,
            Done,
        }
        let bound = self
            .nodes
            .node_indices()
            .map(|node| node.index() + 1)
            .max()
            .unwrap_or(0);
        let mut visits = vec![Visit::New; bound];
        let mut order = Vec::with_capacity(self.len());
        let (inputs, rest): (Vec<_>, Vec<_>) = self
            .nodes
            .node_indices()
            .partition(|&node| matches!(self.nodes[node].op, Op::Input(_)));
        let (effects, dead): (Vec<_>, Vec<_>) = rest.into_iter().partition(|&node| self.nodes[node].op.has_effect());
        let mut pending: Vec<_> = inputs.into_iter().chain(effects).chain(dead).rev().collect();
        while let Some(&node) = pending.last() {
            if visits[node.index()] != Visit::New {
                pending.pop();
                if visits[node.index()] == Visit::Open {
                    visits[node.index()] = Visit::Done;
                    order.push(NodeId(node));
                }
                continue;
            }
            visits[node.index()] = Visit::Open;
            for operand in self.nodes[node].operands.iter().rev() {
                let Operand::Value(value) = operand else { continue };
                match visits[value.node.0.index()] {
                    Visit::New => pending.push(value.node.0),
                    Visit::Open => return Err(GraphError::Cycle(self.nodes[node].origin.label().to_owned())),
                    Visit::Done => {}
                }
            }
        }
        Ok(order)
    }

    /// The input node called `name`.
    pub fn input(&self, name: &str) -> Option<ValueId> {
        self.ids()
            .into_iter()
            .find(|&id| matches!(self.op(id), Op::Input(input) if input == name))
            .map(|node| ValueId { node, output: 0 })
    }

    /// Input nodes with their names, in creation order.
    pub fn inputs(&self) -> Vec<(NodeId, &str)> {
        self.ids()
            .into_iter()
            .filter_map(|id| match self.op(id) {
                Op::Input(name) => Some((id, name.as_str())),
                _ => None,
            })
            .collect()
    }

    /// Output nodes with their names, in creation order.
    pub fn outputs(&self) -> Vec<(NodeId, &str)> {
        self.ids()
            .into_iter()
            .filter_map(|id| match self.op(id) {
                Op::Output(name) => Some((id, name.as_str())),
                _ => None,
            })
            .collect()
    }

    /// Adds a weight; a name that is taken gets a number appended.
    pub fn add_weight(&mut self, weight: WeightInfo) -> WeightId {
        let id = WeightId(self.weights.len() as u32);
        let mut name = weight.name.clone();
        let mut copy = 1;
        while self.weight_names.contains_key(&name) {
            copy += 1;
            name = format!("{}#{copy}", weight.name);
        }
        self.weight_names.insert(name.clone(), id);
        self.weights.push(WeightInfo { name, ..weight });
        id
    }

    /// A weight of the table.
    pub fn weight(&self, id: WeightId) -> &WeightInfo {
        &self.weights[id.0 as usize]
    }

    /// The weight called `name`.
    pub fn weight_named(&self, name: &str) -> Option<WeightId> {
        self.weight_names.get(name).copied()
    }

    /// All weights, used or not, in the order of their ids.
    pub fn weights(&self) -> &[WeightInfo] {
        &self.weights
    }

    /// Adds a cache slot.
    pub fn add_slot(&mut self, slot: SlotInfo) -> SlotId {
        self.slots.push(slot);
        SlotId(self.slots.len() as u32 - 1)
    }

    /// A slot of the table.
    pub fn slot(&self, id: SlotId) -> &SlotInfo {
        &self.slots[id.0 as usize]
    }

    /// All slots in the order of their ids.
    pub fn slots(&self) -> &[SlotInfo] {
        &self.slots
    }

    /// Replaces the slot table, e.g. by that of the program that records them.
    pub fn set_slots(&mut self, slots: Vec<SlotInfo>) {
        self.slots = slots;
    }
}
