//! Where a node comes from and why it is there.

use std::collections::HashSet;

/// The provenance of a node: which ONNX nodes it stands for, which pass made it, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// names of the ONNX nodes that this node computes, in execution order
    pub names: Vec<String>,
    /// the pass that created the node in its present form; empty for imported nodes
    pub pass: String,
    /// one clause that tells a reader why, e.g. `level a2: 7.5 % active, dense is cheaper`
    pub reason: String,
}

impl Origin {
    /// The origin of an imported ONNX node.
    pub fn imported(name: impl Into<String>) -> Self {
        Origin {
            names: vec![name.into()],
            ..Origin::default()
        }
    }

    /// The origin of a node that `pass` made of the nodes with these origins.
    pub fn merged<'a>(pass: &str, sources: impl IntoIterator<Item = &'a Origin>) -> Self {
        let mut known: HashSet<&str> = HashSet::new();
        let all = sources.into_iter().flat_map(|origin| &origin.names);
        let names = all.filter(|name| known.insert(name.as_str())).cloned().collect();
        Origin {
            names,
            pass: pass.into(),
            reason: String::new(),
        }
    }

    /// The same origin with a reason.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// A short name: the last path of the first ONNX name that is not a bare operator, else the pass.
    pub fn label(&self) -> &str {
        self.names.last().map_or(self.pass.as_str(), String::as_str)
    }
}
