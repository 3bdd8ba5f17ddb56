//! The graph: a table of nodes, each with the list of its users kept in step with all operand lists.
//!
//! Every change of one operand costs the logarithm of the number of users at most, so that passes take time proportional
//! to the number of nodes, also where one value has a hundred thousand users or one node as many operands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use petgraph::visit::{Dfs, DfsPostOrder, VisitMap};
use thiserror::Error;

use crate::traverse::Producers;
use crate::users::Users;
use crate::{Op, Operand, Origin, SlotId, SlotInfo, ValueId, ValueType, WeightId, WeightInfo};

/// Identity of a node; stays valid until the node is removed, when its number becomes free for a new node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The first in the order of ids.
    pub(crate) const FIRST: NodeId = NodeId(0);

    /// A dense-ish index for side tables; not stable across print and parse.
    pub fn index(self) -> usize {
        self.0 as usize
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
/// Lists of users follow operands exactly; they change only through [`Graph::add`], [`Graph::set_operands`],
/// [`Graph::set_operand`], [`Graph::replace_uses`], [`Graph::remove`] and [`Graph::prune`].
#[derive(Clone, Debug, Default)]
pub struct Graph {
    name: String,
    /// `None` where a node was removed
    nodes: Vec<Option<Entry>>,
    /// numbers of removed nodes; the last one is used next
    free: Vec<u32>,
    weights: Vec<WeightInfo>,
    weight_names: HashMap<String, WeightId>,
    /// next number to try for a weight's name that is taken
    weight_copies: HashMap<String, usize>,
    slots: Vec<SlotInfo>,
    slot_names: HashSet<String>,
    /// next number to try for a slot's name that is taken
    slot_copies: HashMap<String, usize>,
}

/// A node with the uses of its outputs. Programs of one model are clones of each other: they share what they have in common.
#[derive(Clone, Debug)]
struct Entry {
    node: Arc<Node>,
    users: Users,
}

/// `name`, or `name` with the first number from 2 on that is not taken. `copies` keeps where the search for a name goes on.
fn unique(name: &str, copies: &mut HashMap<String, usize>, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(name) {
        return name.to_owned();
    }
    let copy = copies.entry(name.to_owned()).or_insert(1);
    loop {
        *copy += 1;
        let numbered = format!("{name}#{copy}");
        if !is_taken(&numbered) {
            return numbered;
        }
    }
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

    fn entry(&self, id: NodeId) -> &Entry {
        self.nodes[id.index()].as_ref().expect("the node was not removed")
    }

    fn entry_mut(&mut self, id: NodeId) -> &mut Entry {
        self.nodes[id.index()].as_mut().expect("the node was not removed")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        Arc::make_mut(&mut self.entry_mut(id).node)
    }

    /// Adds a node behind its operands.
    pub fn add(&mut self, op: Op, operands: Vec<Operand>, outputs: Vec<ValueType>, origin: Origin) -> NodeId {
        let node = Node {
            op,
            operands: Vec::new(),
            outputs,
            origin,
        };
        let entry = Some(Entry {
            node: Arc::new(node),
            users: Users::default(),
        });
        let id = match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = entry;
                NodeId(free)
            }
            None => {
                self.nodes.push(entry);
                NodeId(u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 nodes"))
            }
        };
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
        &self.entry(id).node
    }

    /// Whether the node is still there.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes.get(id.index()).is_some_and(Option::is_some)
    }

    /// The operator of a node.
    pub fn op(&self, id: NodeId) -> &Op {
        &self.entry(id).node.op
    }

    /// Replaces the operator of a node; operands and outputs stay.
    pub fn set_op(&mut self, id: NodeId, op: Op) {
        self.node_mut(id).op = op;
    }

    /// Operands of a node.
    pub fn operands(&self, id: NodeId) -> &[Operand] {
        &self.entry(id).node.operands
    }

    /// Replaces all operands of a node.
    pub fn set_operands(&mut self, id: NodeId, operands: Vec<Operand>) {
        let old = std::mem::replace(&mut self.node_mut(id).operands, operands);
        for (position, operand) in old.into_iter().enumerate() {
            self.end_use(operand, id, position);
        }
        for position in 0..self.operands(id).len() {
            self.begin_use(self.operands(id)[position], id, position);
        }
    }

    /// Replaces one operand of a node.
    pub fn set_operand(&mut self, id: NodeId, position: usize, operand: Operand) {
        let old = std::mem::replace(&mut self.node_mut(id).operands[position], operand);
        self.end_use(old, id, position);
        self.begin_use(operand, id, position);
    }

    fn begin_use(&mut self, operand: Operand, user: NodeId, position: usize) {
        if let Operand::Value(value) = operand {
            let users = &mut self.entry_mut(value.node).users;
            users.insert(value.output, user, position as u32);
        }
    }

    /// A producer that is gone has no list of users any more.
    fn end_use(&mut self, operand: Operand, user: NodeId, position: usize) {
        let Operand::Value(value) = operand else { return };
        if let Some(producer) = &mut self.nodes[value.node.index()] {
            producer.users.remove(value.output, user, position as u32);
        }
    }

    /// Replaces the output types of a node.
    pub fn set_outputs(&mut self, id: NodeId, outputs: Vec<ValueType>) {
        self.node_mut(id).outputs = outputs;
    }

    /// Provenance of a node.
    pub fn origin(&self, id: NodeId) -> &Origin {
        &self.entry(id).node.origin
    }

    /// Replaces the provenance of a node.
    pub fn set_origin(&mut self, id: NodeId, origin: Origin) {
        self.node_mut(id).origin = origin;
    }

    /// Type of a value.
    pub fn value_type(&self, value: ValueId) -> &ValueType {
        &self.node(value.node).outputs[value.output as usize]
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
        self.uses(value).collect()
    }

    /// [`Graph::users`] one after another: what asks for the first few pays for no more.
    pub fn uses(&self, value: ValueId) -> impl Iterator<Item = (NodeId, usize)> + '_ {
        self.entry(value.node).users.of(value.output)
    }

    /// Whether anything reads a value.
    pub fn is_used(&self, value: ValueId) -> bool {
        self.uses(value).next().is_some()
    }

    /// The only user of a value, when there is exactly one use.
    pub fn sole_user(&self, value: ValueId) -> Option<NodeId> {
        let mut uses = self.uses(value);
        match (uses.next(), uses.next()) {
            (Some((node, _)), None) => Some(node),
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
        let Entry { node, users } = self.entry(id);
        assert!(users.is_empty(), "`{}` is still used", node.origin.label());
        self.take(id);
    }

    /// Removes a node, also while other nodes still read its values.
    fn take(&mut self, id: NodeId) {
        let taken = self.nodes[id.index()].take();
        let operands = taken.iter().flat_map(|entry| &entry.node.operands);
        for (position, operand) in operands.enumerate() {
            self.end_use(*operand, id, position);
        }
        self.free.push(id.0);
    }

    /// Removes every node that no output, effect or cache write depends on. Returns how many went.
    pub fn prune(&mut self) -> usize {
        let ids = self.ids();
        let mut live = Dfs::empty(Producers(self));
        for &id in ids.iter().filter(|&&id| self.op(id).has_effect()) {
            live.move_to(id);
            while live.next(Producers(self)).is_some() {}
        }
        let live = live.discovered;
        let dead = ids.iter().filter(|id| !live.is_visited(id));
        dead.map(|&id| self.take(id)).count()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes in the order of their ids, which need not be an execution order.
    pub fn ids(&self) -> Vec<NodeId> {
        let ids = (0..self.nodes.len() as u32).map(NodeId);
        ids.filter(|&id| self.contains(id)).collect()
    }

    /// All nodes in an execution order that depends only on the graph: depth-first from the nodes with effects, in
    /// the order of ids, operands in order; then whatever is dead.
    pub fn ordered(&self) -> Result<Vec<NodeId>, GraphError> {
        let (inputs, rest): (Vec<_>, Vec<_>) = self
            .ids()
            .into_iter()
            .partition(|&id| matches!(self.op(id), Op::Input(_)));
        let (effects, dead): (Vec<_>, Vec<_>) = rest.into_iter().partition(|&id| self.op(id).has_effect());
        let producers = Producers(self);
        let mut traversal = DfsPostOrder::empty(producers);
        let mut order = Vec::with_capacity(self.len());
        for start in inputs.into_iter().chain(effects).chain(dead) {
            traversal.move_to(start);
            order.extend(std::iter::from_fn(|| traversal.next(producers)));
        }
        match self.misplaced(&order) {
            Some(id) => Err(GraphError::Cycle(self.origin(id).label().to_owned())),
            None => Ok(order),
        }
    }

    /// A node that stands in front of the producer of an operand: in a post-order, one on a cycle.
    fn misplaced(&self, order: &[NodeId]) -> Option<NodeId> {
        let mut is_placed = vec![false; self.nodes.len()];
        order.iter().copied().find(|&id| {
            let mut producers = self.operands(id).iter().filter_map(|operand| operand.value());
            let is_early = producers.any(|value| !is_placed[value.node.index()]);
            is_placed[id.index()] = true;
            is_early
        })
    }

    /// One more than the largest index of a node.
    pub(crate) fn index_bound(&self) -> usize {
        self.nodes.len()
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
        let names = &self.weight_names;
        let name = unique(&weight.name, &mut self.weight_copies, |name| names.contains_key(name));
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

    /// `name`, numbered when a slot has it: exporters give layers of one kind one name.
    pub fn unique_slot_name(&mut self, name: &str) -> String {
        let names = &self.slot_names;
        unique(name, &mut self.slot_copies, |name| names.contains(name))
    }

    /// Adds a cache slot.
    pub fn add_slot(&mut self, slot: SlotInfo) -> SlotId {
        self.slot_names.insert(slot.name.clone());
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
        self.slot_names = slots.iter().map(|slot| slot.name.clone()).collect();
        self.slot_copies.clear();
        self.slots = slots;
    }
}
