//! Lower a network beside the denoiser.

use fisec_ir::Graph;
use fisec_plan::{Kernel, Program, PromptProgram, ValueId};

use super::program::lower_staged;
use super::{LowerError, PlanBuilder, ProgramLowering, WeightTarget};
use crate::analysis::Stages;
use crate::cost::CostTable;
use crate::roles::Roles;

/// The program of the prompt's island, where one island is all of it and every node has a kernel.
pub fn lower_prompt(table: &CostTable, builder: &mut PlanBuilder<'_>) -> Result<Option<PromptProgram>, LowerError> {
    let Some((island, graph)) = builder.take_prompt() else {
        return Ok(None);
    };
    if graph.inputs().len() != 1 {
        return Ok(None);
    }
    let program = lower_network(&graph, table, builder)?;
    if program
        .nodes
        .iter()
        .any(|node| matches!(node.kernel, Kernel::Island(_)))
    {
        return Ok(None);
    }
    let only = program.outputs.get("prediction").filter(|_| graph.outputs().len() == 1);
    let named = graph.outputs().into_iter();
    let outputs: Option<Vec<ValueId>> = named
        .map(|(_, name)| program.outputs.get(name).or(only).copied())
        .collect();
    Ok(outputs.map(|outputs| PromptProgram {
        island,
        program,
        outputs,
    }))
}

/// The program of a network with one input and one output, for a CUDA device: all of it runs every time.
pub fn lower_network(graph: &Graph, table: &CostTable, builder: &mut PlanBuilder<'_>) -> Result<Program, LowerError> {
    let input = graph.inputs().first().map(|(_, name)| (*name).to_owned());
    let roles = Roles {
        sample: input.unwrap_or_default(),
        timestep: String::new(),
        context: String::new(),
    };
    let context = ProgramLowering {
        roles: &roles,
        masks: &[const { Vec::new() }; 3],
        table,
        target: WeightTarget::Cuda,
        remainder: None,
        levels: 0,
        rings: &[],
    };
    builder.begin_model();
    lower_staged(graph, &Stages::whole(), &context, builder)
}
