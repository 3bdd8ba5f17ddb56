//! Operators without a kernel, and levels that a plan leaves to ONNX Runtime: in its CUDA provider on the device's stream,
//! over values where they lie; on the host where that provider is missing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use fisec_plan::{Bundle, IslandCall, IslandId, Kernel, Plan, Port, Program, Stage};
use fisec_tensor::{DType, HostTensor};

use super::driver::Device;
use super::slots::{from_half_rows, half_rows_bytes, island_rows};
use crate::RuntimeError;
use crate::cpu::CpuBackend;
use crate::executor::HostStages;
use crate::ort::{OnnxRuntime, Placed, Provider, Session};

/// Islands of a plan's steps.
pub(super) struct Islands {
    /// `None`: this island runs on the host
    sessions: HashMap<IslandId, Option<Session>>,
    /// why the first one that runs there does
    refusal: Option<String>,
    /// what runs on the host: stages before the steps too
    pub(super) host: HostStages,
    onnx_runtime: Option<OnnxRuntime>,
    folder: PathBuf,
    threads: usize,
    // sessions go before the stream that they work on
    device: Arc<Device>,
}

/// An operand of an island: which port, and where its rows begin.
pub(super) type Operand = (usize, u64);

impl Islands {
    pub(super) fn new(
        device: &Arc<Device>,
        bundle: &Bundle,
        onnx_runtime: Option<&OnnxRuntime>,
        threads: usize,
    ) -> Result<Self, RuntimeError> {
        let backend = CpuBackend::new(bundle.clone(), onnx_runtime.cloned(), threads)?;
        Ok(Islands {
            sessions: HashMap::new(),
            refusal: None,
            host: HostStages::new(backend),
            onnx_runtime: onnx_runtime.cloned(),
            folder: bundle.folder().to_owned(),
            threads,
            device: Arc::clone(device),
        })
    }

    /// Why an island runs on the host although the steps do not; said once.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    /// Opens the sessions of a program's islands.
    pub(super) fn prepare(&mut self, plan: &Plan, program: &Program) -> Result<(), RuntimeError> {
        for node in &program.nodes {
            if let Kernel::Island(call) = &node.kernel
                && (node.stage != Stage::Step || self.session(plan, call)?.is_none())
            {
                self.host.open(plan, call)?;
            }
        }
        Ok(())
    }

    /// Puts an island on the stream, or runs it on the host when what is on the stream is done.
    ///
    /// # Safety
    /// Every address is that of as many rows as its port has, in one live buffer.
    pub(super) unsafe fn run(
        &mut self,
        plan: &Plan,
        call: &IslandCall,
        inputs: &[u64],
        outputs: &[Operand],
    ) -> Result<(), RuntimeError> {
        let island = &plan.islands[call.island.index()];
        let Some(session) = self.session(plan, call)? else {
            // SAFETY: the caller's promise.
            return unsafe { self.run_on_host(plan, call, inputs, outputs) };
        };
        let inputs: Vec<Placed<'_>> = island
            .inputs
            .iter()
            .zip(inputs)
            .map(|(port, &at)| placed(port, at))
            .collect();
        let outputs: Vec<Placed<'_>> = outputs
            .iter()
            .map(|&(port, at)| placed(&island.outputs[port], at))
            .collect();
        // SAFETY: the caller's promise; the session works on the stream, in whose order the rows are used.
        unsafe { session.run_placed(&inputs, &outputs) }
    }

    /// # Safety
    /// As [`Islands::run`].
    unsafe fn run_on_host(
        &mut self,
        plan: &Plan,
        call: &IslandCall,
        inputs: &[u64],
        outputs: &[Operand],
    ) -> Result<(), RuntimeError> {
        let island = &plan.islands[call.island.index()];
        let mut tensors = Vec::new();
        for (port, &address) in island.inputs.iter().zip(inputs) {
            // SAFETY: the caller's promise.
            let bytes = unsafe { self.device.read(address, half_rows_bytes(&port.shape))? };
            tensors.push(from_half_rows(&bytes, &port.shape)?.cast(port.dtype));
        }
        let wanted: Vec<usize> = outputs.iter().map(|&(port, _)| port).collect();
        let results: Vec<HostTensor> = self.host.island(plan, call, &tensors, &wanted)?;
        for (&(port, address), result) in outputs.iter().zip(results) {
            let bytes = island_rows(&result.reshaped(island.outputs[port].shape.clone())?)?;
            // SAFETY: the caller's promise.
            unsafe { self.device.write(address, &bytes)? };
        }
        Ok(())
    }

    /// The session of an island on the device; opened once, `None` where it cannot be.
    fn session(&mut self, plan: &Plan, call: &IslandCall) -> Result<Option<&mut Session>, RuntimeError> {
        if !self.sessions.contains_key(&call.island) {
            let opened = self.open(plan, call.island)?;
            self.sessions.insert(call.island, opened);
        }
        Ok(self.sessions.get_mut(&call.island).and_then(Option::as_mut))
    }

    fn open(&mut self, plan: &Plan, id: IslandId) -> Result<Option<Session>, RuntimeError> {
        let island = &plan.islands[id.index()];
        // ids and flags exist as halves only
        let are_rows = island
            .inputs
            .iter()
            .chain(&island.outputs)
            .all(|port| port.dtype == DType::F16);
        let Some(runtime) = self.onnx_runtime.as_ref().filter(|_| are_rows) else {
            return Ok(None);
        };
        let model = self.folder.join(&island.file);
        // SAFETY: `self.sessions` goes before `self.device`, which has the stream.
        let session = unsafe { runtime.session_on(self.device.stream(), &model, self.threads)? };
        if session.provider() == Provider::Cpu {
            let reason = session.fallback().unwrap_or("asked for");
            self.refusal = Some(format!("`{}` runs on the host: {reason}", island.name));
            return Ok(None);
        }
        Ok(Some(session))
    }
}

fn placed(port: &Port, address: u64) -> Placed<'_> {
    Placed {
        name: &port.name,
        address,
        shape: &port.shape,
    }
}
