//! Lower a network beside the denoiser.

use fisec_ir::Graph;
use fisec_plan::Program;

use super::program::lower_staged;
use super::{LowerError, PlanBuilder, ProgramLowering, WeightTarget};
use crate::analysis::Stages;
use crate::cost::CostTable;
use crate::roles::Roles;

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
    };
    builder.begin_model();
    lower_staged(graph, &Stages::whole(), &context, builder)
}
