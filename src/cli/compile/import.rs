//! A U-Net's file as a raised graph: the same way for `compile` and for `verify`.

use std::path::Path;

use fisec_ir::Graph;
use fisec_onnx::{Bindings, DeclaredSize, Import, Model};
use fisec_passes::Roles;
use fisec_passes::canonical::{canonicalize_with, constant_condition, fold_constants_with};

use super::unknown::AskOnnxRuntime;
use super::{Choices, Watcher};
use crate::cli::failure::Failure;

/// The sizes of a step, in latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSizes {
    /// images
    pub batch: usize,
    /// rows
    pub height: usize,
    /// columns
    pub width: usize,
    /// tokens of a prompt
    pub tokens: usize,
}

impl StepSizes {
    /// What these sizes bind. Everything else follows from the model, or is given with `--bind`.
    pub fn bindings(&self, choices: &Choices) -> Bindings {
        choices.bind(Bindings::unet(self.batch, self.height, self.width, self.tokens))
    }
}

/// Refuses models with inputs that fisec cannot feed, before their sizes are bound.
pub fn check_inputs(model: &Path) -> Result<Roles, Failure> {
    Ok(Roles::of_inputs(&Model::open(model)?.inputs())?)
}

/// Tokens of a prompt, where the model fixes their number.
pub fn fixed_tokens(model: &Path) -> Option<usize> {
    let inputs = Model::open(model).ok()?.inputs();
    let roles = Roles::beside_others(&inputs).ok()?;
    let context = inputs.into_iter().find(|input| input.name == roles.context)?;
    match context.dims?.get(1)? {
        DeclaredSize::Fixed(tokens) => Some(*tokens),
        DeclaredSize::Symbol(_) => None,
    }
}

/// Imports a model, with the branches that its shapes decide.
pub fn import(model: &Path, bindings: &Bindings) -> Result<Import, Failure> {
    Ok(Model::open(model)?.import(bindings, &mut constant_condition)?)
}

/// Infers all types and folds constants. Operators that are not known are asked of ONNX Runtime.
pub fn fold(graph: &mut Graph) -> Result<(), Failure> {
    fold_constants_with(graph, &mut AskOnnxRuntime::default())?;
    Ok(())
}

/// Raises a graph to semantic operators. Operators that are not known are asked of ONNX Runtime.
pub fn raise_graph(graph: &mut Graph, watcher: &mut Watcher) -> Result<(), Failure> {
    canonicalize_with(graph, &mut AskOnnxRuntime::default(), &mut |name, graph| {
        watcher.after(name, graph)
    })?;
    Ok(())
}
