//! Runs the programs of a plan.

mod backend;
mod host_stages;
mod input;
mod program;
mod report;
mod walker;

use std::num::NonZero;
use std::thread;

use fisec_plan::{Bundle, NetworkKind, Plan, ProgramKind};
use fisec_tensor::HostTensor;

pub(crate) use backend::{Active, Backend, Call, recorded};
pub(crate) use host_stages::HostStages;
pub(crate) use input::{StepInput, check_context, check_step};
pub(crate) use program::Prepared;
pub use report::{NodeTime, StepReport};

use crate::cpu::CpuBackend;
use crate::cuda::Engine;
use crate::ort::OnnxRuntime;
use crate::{Binding, Control, Network, Progress, RuntimeError, SampledSteps, SlotSink, SlotSource};
use walker::Walker;

/// The three programs of a plan, ready to run.
///
/// Predictions are `f32 [N, C, H, W]`, `N` being the plan's batch; samples have [`Plan::samples`] images, one for all or
/// one for each. Steps are indices into the timesteps of
/// [`Executor::set_timesteps`].
pub struct Executor {
    device: Device,
}

enum Device {
    Cpu(Box<Walker<CpuBackend>>),
    Cuda(Box<Engine>),
}

/// The same call on whatever device there is.
macro_rules! on_device {
    ($executor:expr, $device:ident => $call:expr) => {
        match &mut $executor.device {
            Device::Cpu($device) => $call,
            Device::Cuda($device) => $call,
        }
    };
}

impl Executor {
    /// An executor for `bundle` on every core, or on the first CUDA device where the plan is for one. `onnx_runtime` may
    /// be absent when the programs in use have no islands.
    ///
    /// # Errors
    /// Fails when the device is missing or another one, when its memory does not hold the weights, or when a constant
    /// cannot be read.
    pub fn new(bundle: Bundle, onnx_runtime: Option<OnnxRuntime>) -> Result<Self, RuntimeError> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self::with_threads(bundle, onnx_runtime, threads)
    }

    /// An executor on `threads` threads.
    pub fn with_threads(
        bundle: Bundle,
        onnx_runtime: Option<OnnxRuntime>,
        threads: usize,
    ) -> Result<Self, RuntimeError> {
        let plan = bundle.plan().clone();
        let device = match plan.target.as_str() {
            "cpu" => {
                let backend = CpuBackend::new(bundle, onnx_runtime, threads)?;
                Device::Cpu(Box::new(Walker::new(plan, backend)))
            }
            _ if plan.is_cuda() => Device::Cuda(Box::new(Engine::new(bundle, onnx_runtime, threads)?)),
            _ => return Err(RuntimeError::Target(plan.target)),
        };
        Ok(Executor { device })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        match &self.device {
            Device::Cpu(walker) => walker.plan(),
            Device::Cuda(engine) => engine.plan(),
        }
    }

    /// Sets the schedule: one timestep per step. Computes everything that depends on the timestep only.
    pub fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), RuntimeError> {
        on_device!(self, device => device.set_timesteps(timesteps))
    }

    /// Sets the text embedding `[N, tokens, width]`. Computes everything that depends on the text only.
    pub fn set_context(&mut self, context: &HostTensor) -> Result<(), RuntimeError> {
        on_device!(self, device => device.set_context(context))
    }

    /// A dense step that records every slot.
    pub fn record(&mut self, step: usize, sample: &[f32], sink: &mut dyn SlotSink) -> Result<Vec<f32>, RuntimeError> {
        let input = StepInput::dense(step, sample);
        let input = StepInput {
            sink: Some(sink),
            ..input
        };
        on_device!(self, device => device.step(ProgramKind::Record, input))
    }

    /// The program that [`Executor::dense`] runs: `guide`, unless that one is under control.
    pub fn dense_program(&self) -> ProgramKind {
        match self.plan().has_control() {
            true => ProgramKind::Record,
            false => ProgramKind::Guide,
        }
    }

    /// A dense step that records nothing.
    pub fn dense(&mut self, step: usize, sample: &[f32]) -> Result<Vec<f32>, RuntimeError> {
        let program = self.dense_program();
        on_device!(self, device => device.step(program, StepInput::dense(step, sample)))
    }

    /// A dense step under control of the cross-attention maps in `source`. With `remember`, every slot is recorded.
    pub fn guide(
        &mut self,
        step: usize,
        sample: &[f32],
        control: &Control,
        source: &dyn SlotSource,
        remember: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, RuntimeError> {
        let input = StepInput {
            source: Some(source),
            control: Some(control),
            sink: remember.map(|sink| sink as &mut dyn SlotSink),
            ..StepInput::dense(step, sample)
        };
        on_device!(self, device => device.step(ProgramKind::Guide, input))
    }

    /// A sparse step. The prediction is zero outside the mask. With `remember`, every slot of the edited image is
    /// recorded: the base's with the active values in place.
    pub fn edit(
        &mut self,
        step: usize,
        sample: &[f32],
        binding: &Binding,
        source: &dyn SlotSource,
        remember: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, RuntimeError> {
        let input = StepInput {
            step,
            sample,
            binding: Some(binding),
            source: Some(source),
            // shortens the sink's lifetime to that of the input
            sink: remember.map(|sink| sink as &mut dyn SlotSink),
            control: None,
        };
        on_device!(self, device => device.step(ProgramKind::Edit, input))
    }

    /// A network beside the denoiser, weights on the device; `None` where the plan leaves it to ONNX Runtime.
    ///
    /// # Errors
    /// Fails when the device's memory does not hold it.
    pub fn network(&self, kind: NetworkKind) -> Result<Option<Network>, RuntimeError> {
        match &self.device {
            Device::Cpu(_) => Ok(None),
            Device::Cuda(engine) => Ok(engine.network(kind)?.map(|network| Network(Box::new(network)))),
        }
    }

    /// The rest of a schedule as sparse steps, where the device runs a sampler's updates by itself: the latents after
    /// every step, the recorded ones outside the mask. With `remember`, every slot of the edited image is recorded.
    ///
    /// `None` where a step needs the host, as on the CPU, or when `progress` broke off.
    ///
    /// # Errors
    /// Fails as [`Executor::edit`] does; an infinite latent names the first step that has one.
    pub fn edit_steps(
        &mut self,
        binding: &Binding,
        steps: &SampledSteps<'_>,
        remember: Option<&mut dyn SlotSink>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<Vec<f32>>>, RuntimeError> {
        let remember = remember.map(|sink| sink as &mut dyn SlotSink);
        match &mut self.device {
            Device::Cpu(_) => Ok(None),
            Device::Cuda(engine) => engine.edit_steps(binding, steps, remember, progress),
        }
    }

    /// Bytes of the device's memory that are in use, by other processes too; `None` on the CPU.
    ///
    /// # Errors
    /// Fails when the driver does not say.
    pub fn device_memory_in_use(&self) -> Result<Option<usize>, RuntimeError> {
        match &self.device {
            Device::Cpu(_) => Ok(None),
            Device::Cuda(engine) => engine.memory_in_use().map(Some),
        }
    }

    /// Why a part of the steps so far ran on the host although the plan is for a device; said once.
    pub fn take_refusal(&mut self) -> Option<String> {
        match &mut self.device {
            Device::Cpu(_) => None,
            Device::Cuda(engine) => engine.take_refusal(),
        }
    }

    /// Opens what a program needs (ONNX Runtime sessions), so that its first step takes no longer than the others.
    pub fn prepare(&mut self, kind: ProgramKind) -> Result<(), RuntimeError> {
        on_device!(self, device => device.prepare(kind))
    }

    /// Puts all slots of a recording that the device has kept so far because `sink` did not [want them
    /// at once](SlotSink::wants_now). `progress` is told every step; what it breaks off stays incomplete.
    ///
    /// # Errors
    /// Fails when the device or the sink does.
    pub fn hand_over(&mut self, sink: &mut dyn SlotSink, progress: &mut Progress<'_>) -> Result<(), RuntimeError> {
        match &mut self.device {
            Device::Cpu(_) => Ok(()),
            Device::Cuda(engine) => engine.hand_over_rest(sink, progress),
        }
    }

    /// Makes ready what the sparse steps of a mask need, recorded ones where `remember` says so: the first one takes no
    /// longer than the others.
    pub fn prepare_edit(&mut self, binding: &Binding, remember: bool) -> Result<(), RuntimeError> {
        match &mut self.device {
            Device::Cpu(_) => Ok(()),
            Device::Cuda(engine) => engine.prepare_edit(binding, remember),
        }
    }

    /// Whether steps measure every node.
    pub fn measure_nodes(&mut self, on: bool) {
        on_device!(self, device => device.measure_nodes(on));
    }

    /// Work and time of the last step.
    pub fn last_step(&self) -> &StepReport {
        match &self.device {
            Device::Cpu(walker) => walker.last_step(),
            Device::Cuda(engine) => engine.last_step(),
        }
    }
}
