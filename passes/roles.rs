//! Which input and output of a denoiser is what.

mod ports;
mod prediction;
mod purpose;

use fisec_ir::{Graph, GraphError, NodeId};
use fisec_onnx::Declared;
use thiserror::Error;

use crate::analysis::Stages;
use ports::{Port, inputs_of, list, outputs_of};

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

/// The inputs or outputs are not those of a text-conditioned denoiser.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct RolesError {
    /// what is wrong, lower case, no trailing period
    pub message: String,
    /// what the user can do
    pub hint: Option<String>,
}

impl RolesError {
    fn new(message: impl Into<String>) -> Self {
        RolesError {
            message: message.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How an input is told from the others.
struct Role {
    what: &'static str,
    /// names that exporters give it; they decide where several inputs could be it
    names: &'static [&'static str],
    fits: fn(&Port) -> bool,
}

const SAMPLE: Role = Role {
    what: "latents [N, C, H, W]",
    names: &[
        "sample",
        "latent_model_input",
        "latents",
        "latent",
        "noisy_latents",
        "x",
        "x_t",
    ],
    fits: |input| input.rank() == Some(4) && input.is_float(),
};
const TIMESTEP: Role = Role {
    what: "a timestep",
    names: &["timestep", "timesteps", "t", "time", "time_step"],
    fits: |input| input.rank().is_some_and(|rank| rank <= 1) && input.dtype.is_some(),
};
const CONTEXT: Role = Role {
    what: "a text embedding [N, tokens, width]",
    names: &[
        "encoder_hidden_states",
        "encoder_hidden_state",
        "context",
        "prompt_embeds",
        "text_embedding",
        "text_embeddings",
        "hidden_states",
    ],
    fits: |input| input.rank() == Some(3) && input.is_float(),
};

impl Roles {
    /// Tells the inputs of a graph apart by rank, type and, where several could be one, by name.
    ///
    /// # Errors
    /// Names the role that no input fits or that several do, or the inputs that fisec cannot feed, with their purpose.
    pub fn of(graph: &Graph) -> Result<Self, RolesError> {
        Roles::among(&inputs_of(graph))
    }

    /// [`Roles::of`] a model whose sizes are not bound yet.
    ///
    /// # Errors
    /// As [`Roles::of`].
    pub fn of_inputs(inputs: &[Declared]) -> Result<Self, RolesError> {
        let inputs: Vec<Port> = inputs.iter().map(Port::from).collect();
        Roles::among(&inputs)
    }

    /// [`Roles::of_inputs`] without judging the other inputs.
    ///
    /// # Errors
    /// Names the role that no input fits or that several do.
    pub fn beside_others(inputs: &[Declared]) -> Result<Self, RolesError> {
        let inputs: Vec<Port> = inputs.iter().map(Port::from).collect();
        Roles::found(&inputs)
    }

    fn found(inputs: &[Port]) -> Result<Self, RolesError> {
        Ok(Roles {
            sample: find(inputs, &SAMPLE)?,
            timestep: find(inputs, &TIMESTEP)?,
            context: find(inputs, &CONTEXT)?,
        })
    }

    fn among(inputs: &[Port]) -> Result<Self, RolesError> {
        let roles = Roles::found(inputs)?;
        let foreign: Vec<&Port> = inputs
            .iter()
            .filter(|input| input.is_used && !roles.names().contains(&input.name.as_str()))
            .collect();
        match foreign.is_empty() {
            true => Ok(roles),
            false => Err(unfed(&foreign)),
        }
    }

    fn names(&self) -> [&str; 3] {
        [&self.sample, &self.timestep, &self.context]
    }

    /// Which output of `graph` is the prediction, by shape and name, never by position; `asked` is the user's choice.
    ///
    /// # Errors
    /// No output fits, or several do: the message lists them with their shapes.
    pub fn prediction(&self, graph: &Graph, asked: Option<&str>) -> Result<NodeId, RolesError> {
        let inputs = inputs_of(graph);
        let sample = inputs.iter().find(|input| input.name == self.sample);
        let sample = sample.ok_or_else(|| RolesError::new(format!("the model has no input `{}`", self.sample)))?;
        let outputs = outputs_of(graph);
        let index = prediction::prediction(sample, &outputs, asked)?;
        let nodes = graph.outputs();
        let named = nodes.iter().find(|(_, name)| *name == outputs[index].name);
        Ok(named.map(|(id, _)| *id).expect("an output of this graph"))
    }

    /// Removes all outputs but the prediction, what only they read, and inputs that nothing reads.
    ///
    /// # Errors
    /// As [`Roles::prediction`].
    pub fn keep_prediction(&self, graph: &mut Graph, asked: Option<&str>) -> Result<(), RolesError> {
        let kept = self.prediction(graph, asked)?;
        let others: Vec<NodeId> = graph
            .outputs()
            .iter()
            .map(|(id, _)| *id)
            .filter(|&id| id != kept)
            .collect();
        others.into_iter().for_each(|id| graph.remove(id));
        graph.prune();
        let unread = inputs_of(graph).into_iter().filter(|input| !input.is_used);
        let foreign = unread.filter(|input| !self.names().contains(&input.name.as_str()));
        for input in foreign {
            let node = graph.input(&input.name).map(|value| value.node);
            node.into_iter().for_each(|id| graph.remove(id));
        }
        Ok(())
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

/// The input of a role: the only one that fits, or the one of the best name among several.
fn find(inputs: &[Port], role: &Role) -> Result<String, RolesError> {
    let fitting: Vec<&Port> = inputs.iter().filter(|input| (role.fits)(input)).collect();
    let named = |name: &&'static str| fitting.iter().find(|input| input.name.eq_ignore_ascii_case(name));
    match (&fitting[..], role.names.iter().find_map(named)) {
        ([only], _) => Ok(only.name.clone()),
        (_, Some(named)) => Ok(named.name.clone()),
        ([], _) => Err(RolesError::new(format!(
            "no input looks like {}: the model has {}",
            role.what,
            list(inputs)
        ))
        .hint("give the U-Net of a text-to-image pipeline")),
        _ => Err(RolesError::new(format!(
            "several inputs look like {}: {}",
            role.what,
            list(fitting.iter().copied())
        ))
        .hint(format!("export the model with that input called `{}`", role.names[0]))),
    }
}

/// The error of inputs that fisec cannot feed.
fn unfed(inputs: &[&Port]) -> RolesError {
    let purposes: Vec<String> = inputs
        .iter()
        .map(|input| format!("{}, {}", input.describe(), purpose::of(input).what))
        .collect();
    let message = match &purposes[..] {
        [only] => format!("models with the input {only}, are not supported"),
        several => format!("models with these inputs are not supported: {}", several.join("; ")),
    };
    RolesError::new(message).hint(purpose::of(inputs[0]).hint)
}
