//! Who reads the outputs of a node.

use std::collections::BTreeSet;

use crate::NodeId;

/// One use: which output, by which node, as which operand.
type Use = (u32, NodeId, u32);

/// Uses that a list holds; more go into a tree. Nearly all values have one or two users, a few have thousands.
const LISTED: usize = 8;

/// The uses of one node's outputs, by output, user and operand position.
#[derive(Clone, Debug)]
pub(crate) enum Users {
    /// in order
    Few(Vec<Use>),
    Many(BTreeSet<Use>),
}

impl Default for Users {
    fn default() -> Self {
        Users::Few(Vec::new())
    }
}

impl Users {
    pub fn is_empty(&self) -> bool {
        match self {
            Users::Few(uses) => uses.is_empty(),
            Users::Many(uses) => uses.is_empty(),
        }
    }

    pub fn insert(&mut self, output: u32, user: NodeId, position: u32) {
        let new = (output, user, position);
        match self {
            Users::Few(uses) if uses.len() < LISTED => {
                if let Err(place) = uses.binary_search(&new) {
                    uses.insert(place, new);
                }
            }
            Users::Few(uses) => {
                let mut uses: BTreeSet<Use> = uses.drain(..).collect();
                uses.insert(new);
                *self = Users::Many(uses);
            }
            Users::Many(uses) => {
                uses.insert(new);
            }
        }
    }

    pub fn remove(&mut self, output: u32, user: NodeId, position: u32) {
        let old = (output, user, position);
        match self {
            Users::Few(uses) => {
                if let Ok(place) = uses.binary_search(&old) {
                    uses.remove(place);
                }
            }
            Users::Many(uses) => {
                uses.remove(&old);
            }
        }
    }

    /// User and operand position of every use of an output, in order.
    pub fn of(&self, output: u32) -> impl Iterator<Item = (NodeId, usize)> + '_ {
        let first = (output, NodeId::FIRST, 0);
        let (few, many) = match self {
            Users::Few(uses) => (&uses[uses.partition_point(|each| *each < first)..], None),
            Users::Many(uses) => (&[][..], Some(uses.range(first..))),
        };
        few.iter()
            .chain(many.into_iter().flatten())
            .take_while(move |(used, ..)| *used == output)
            .map(|&(_, user, position)| (user, position as usize))
    }
}
