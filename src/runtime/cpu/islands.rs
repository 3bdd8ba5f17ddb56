//! Dense subgraphs in ONNX Runtime.

use std::path::{Path, PathBuf};

use fisec_plan::{IslandCall, IslandId, Plan};
use fisec_tensor::{DType, HostTensor};

use super::value::CpuValue;
use super::{CpuBackend, CpuCall, Made};
use crate::RuntimeError;
use crate::executor::StepReport;
use crate::ort::{OnnxRuntime, Session};

/// Sessions of the islands, opened on first use.
pub(super) struct Islands {
    folder: PathBuf,
    runtime: Option<OnnxRuntime>,
    threads: usize,
    sessions: Vec<Option<Session>>,
}

impl Islands {
    pub(super) fn new(folder: &Path, count: usize, runtime: Option<OnnxRuntime>, threads: usize) -> Self {
        Islands {
            folder: folder.to_owned(),
            runtime,
            threads,
            sessions: std::iter::repeat_with(|| None).take(count).collect(),
        }
    }

    pub(super) fn open(&mut self, plan: &Plan, id: IslandId) -> Result<&mut Session, RuntimeError> {
        let session = &mut self.sessions[id.index()];
        if session.is_none() {
            let runtime = self.runtime.as_ref().ok_or(RuntimeError::OnnxRuntimeMissing)?;
            let model = self.folder.join(&plan.islands[id.index()].file);
            *session = Some(runtime.session(&model, self.threads)?);
        }
        Ok(session.as_mut().expect("opened above"))
    }
}

impl CpuBackend {
    pub(super) fn island(&mut self, call: &CpuCall<'_>, island: &IslandCall, report: &mut StepReport) -> Made {
        let description = &call.plan.islands[island.island.index()];
        let inputs = island
            .inputs
            .iter()
            .zip(&description.inputs)
            .map(|(&id, port)| self.port(call.value(id)?, port.dtype, &port.shape))
            .collect::<Result<Vec<HostTensor>, RuntimeError>>()?;
        let ports = island.outputs.iter().zip(&description.outputs);
        let wanted: Vec<usize> = ports
            .enumerate()
            .filter(|(_, (id, _))| call.wanted.contains(id))
            .map(|(index, _)| index)
            .collect();
        let results = self.run_island(call.plan, island, &inputs, &wanted)?;
        report.macs += description.macs;
        results.iter().map(CpuValue::of).collect()
    }

    /// Opens an island's session.
    pub(crate) fn open_island(&mut self, plan: &Plan, island: &IslandCall) -> Result<(), RuntimeError> {
        self.islands.open(plan, island.island).map(drop)
    }

    /// Runs an island on tensors as its ports declare them, for the outputs at the positions `wanted`.
    pub(crate) fn run_island(
        &mut self,
        plan: &Plan,
        island: &IslandCall,
        inputs: &[HostTensor],
        wanted: &[usize],
    ) -> Result<Vec<HostTensor>, RuntimeError> {
        let description = &plan.islands[island.island.index()];
        let ports = description.inputs.iter().map(|port| port.name.as_str());
        let named: Vec<(&str, &HostTensor)> = ports.zip(inputs).collect();
        let ports: Vec<_> = wanted.iter().map(|&index| &description.outputs[index]).collect();
        let outputs: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        let results = self.islands.open(plan, island.island)?.run(&named, &outputs)?;
        for (result, port) in results.iter().zip(ports) {
            if result.shape().elements() != port.shape.elements() {
                let reason = format!("output `{}` is [{}], not [{}]", port.name, result.shape(), port.shape);
                return Err(RuntimeError::plan(&description.name, reason));
            }
        }
        Ok(results)
    }

    fn port(&self, value: &CpuValue, dtype: DType, shape: &fisec_tensor::Shape) -> Result<HostTensor, RuntimeError> {
        use crate::executor::Backend;
        Ok(self.export(value, shape.clone())?.cast(dtype))
    }
}
