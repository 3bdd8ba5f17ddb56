//! Which input of a denoiser is what.

use fisec_ir::{Graph, GraphError, ValueType};
use thiserror::Error;

use crate::analysis::Stages;

/// ONNX names of a denoiser's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// latents `[N, C, H, W]`
    pub sample: String,
    /// timestep, scalar or `[N]`
    pub timestep: String,
    /// text embedding `[N, tokens, width]`
    pub context: String,
}

/// The inputs are not those of a text-conditioned denoiser.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no input looks like {role}: the model has {found}")]
pub struct RolesError {
    /// the input that is missing
    pub role: &'static str,
    /// the inputs that there are
    pub found: String,
}

impl Roles {
    /// Tells the inputs apart by their rank, the only thing that every exporter keeps.
    ///
    /// # Errors
    /// Names the role that no input fits.
    pub fn of(graph: &Graph) -> Result<Self, RolesError> {
        Ok(Roles {
            sample: find(graph, "latents [N, C, H, W]", |value| value.shape.len() == 4)?,
            timestep: find(graph, "a timestep", |value| value.shape.len() <= 1)?,
            context: find(graph, "a text embedding [N, tokens, width]", |value| {
                value.shape.len() == 3
            })?,
        })
    }

    /// The name that programs of a plan use for an input.
    pub fn program_name<'a>(&self, name: &'a str) -> &'a str {
        match name {
            name if name == self.sample => "sample",
            name if name == self.timestep => "timestep",
            name if name == self.context => "context",
            other => other,
        }
    }

    /// The stages of a graph with these inputs.
    ///
    /// # Errors
    /// Fails on a cycle.
    pub fn stages(&self, graph: &Graph) -> Result<Stages, GraphError> {
        Stages::of(graph, &self.timestep, &self.context)
    }
}

fn find(graph: &Graph, role: &'static str, fits: impl Fn(&ValueType) -> bool) -> Result<String, RolesError> {
    let inputs = graph.inputs();
    let fitting = inputs.iter().find(|(id, _)| fits(&graph.node(*id).outputs()[0]));
    fitting.map(|(_, name)| (*name).to_owned()).ok_or_else(|| RolesError {
        role,
        found: inputs
            .iter()
            .map(|(id, name)| format!("`{name}`: {}", graph.node(*id).outputs()[0]))
            .collect::<Vec<_>>()
            .join(", "),
    })
}
