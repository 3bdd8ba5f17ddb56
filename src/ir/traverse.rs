//! Graphs as petgraph's traversals walk them.

use petgraph::visit::{GraphBase, GraphRef, IntoNeighbors, VisitMap, Visitable};

use crate::{Graph, NodeId, Operand};

/// A graph with edges from each node to the producers of its operands, the last operand first: a traversal, which takes the
/// neighbour that it was given last, follows operands in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Producers<'a>(pub &'a Graph);

/// The nodes that a traversal has met, by index.
#[derive(Clone, Debug)]
pub(crate) struct Visited(Vec<bool>);

impl GraphBase for Producers<'_> {
    /// user and operand position
    type EdgeId = (NodeId, u32);
    type NodeId = NodeId;
}

impl GraphRef for Producers<'_> {}

impl<'a> IntoNeighbors for Producers<'a> {
    type Neighbors =
        std::iter::FilterMap<std::iter::Rev<std::slice::Iter<'a, Operand>>, fn(&'a Operand) -> Option<NodeId>>;

    fn neighbors(self, user: NodeId) -> Self::Neighbors {
        let producer: fn(&'a Operand) -> Option<NodeId> = |operand| Some(operand.value()?.node);
        self.0.operands(user).iter().rev().filter_map(producer)
    }
}

impl Visitable for Producers<'_> {
    type Map = Visited;

    fn visit_map(&self) -> Visited {
        Visited(vec![false; self.0.index_bound()])
    }

    fn reset_map(&self, map: &mut Visited) {
        map.0.clear();
        map.0.resize(self.0.index_bound(), false);
    }
}

impl VisitMap<NodeId> for Visited {
    fn visit(&mut self, node: NodeId) -> bool {
        !std::mem::replace(&mut self.0[node.index()], true)
    }

    fn is_visited(&self, node: &NodeId) -> bool {
        self.0[node.index()]
    }

    fn unvisit(&mut self, node: NodeId) -> bool {
        std::mem::take(&mut self.0[node.index()])
    }
}
