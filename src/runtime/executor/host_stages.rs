//! The stages before the steps on the host, for backends whose steps run elsewhere.

use std::collections::HashMap;

use fisec_plan::{IslandCall, Plan, ProgramKind, Stage, ValueId};
use fisec_tensor::HostTensor;

use super::backend::Backend;
use super::program::Prepared;
use super::walker::Walk;
use crate::RuntimeError;
use crate::cpu::CpuBackend;
use crate::cuda::EarlyInput;

/// Runs timestep and prompt stages, and islands of the step, on the CPU.
pub(crate) struct HostStages {
    backend: CpuBackend,
}

impl HostStages {
    pub(crate) fn new(backend: CpuBackend) -> Self {
        HostStages { backend }
    }

    /// The values of a stage that later ones read.
    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        kind: ProgramKind,
        prepared: &Prepared,
        input: &EarlyInput<'_>,
    ) -> Result<HashMap<ValueId, HostTensor>, RuntimeError> {
        let walk = Walk::new(plan, kind, prepared);
        let values = self.backend.scope(|backend| match input {
            EarlyInput::Timestep(timestep) => {
                walk.stage(backend, Stage::Timestep, "timestep", &walk.timestep(*timestep))
            }
            EarlyInput::Context(context) => walk.stage(backend, Stage::Prompt, "context", context),
        })?;
        let program = plan.programs.get(kind).expect("prepared from this plan");
        let kept = values
            .into_iter()
            .enumerate()
            .filter_map(|(index, value)| Some((index, value?)));
        kept.map(|(index, value)| {
            let tensor = self.backend.export(&value, program.values[index].shape.clone())?;
            self.backend.recycle(value);
            Ok((ValueId(index as u32), tensor))
        })
        .collect()
    }

    /// One island: inputs in the order of its ports, outputs those at the positions `wanted`.
    pub(crate) fn island(
        &mut self,
        plan: &Plan,
        call: &IslandCall,
        inputs: &[HostTensor],
        wanted: &[usize],
    ) -> Result<Vec<HostTensor>, RuntimeError> {
        self.backend.run_island(plan, call, inputs, wanted)
    }

    /// Opens the session of an island.
    pub(crate) fn open(&mut self, plan: &Plan, call: &IslandCall) -> Result<(), RuntimeError> {
        self.backend.open_island(plan, call)
    }
}
