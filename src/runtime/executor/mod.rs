//! Runs the programs of a plan.

mod backend;
mod program;
mod report;
mod walker;

use std::num::NonZero;
use std::thread;

use fisec_plan::{Bundle, Plan, ProgramKind};
use fisec_tensor::HostTensor;

pub(crate) use backend::{Active, Backend, Call};
pub use report::{NodeTime, StepReport};

use crate::cpu::CpuBackend;
use crate::ort::OnnxRuntime;
use crate::{Binding, Control, RuntimeError, SlotSink, SlotSource};
use walker::{StepInput, Walker};

/// The three programs of a plan, ready to run.
///
/// Samples and predictions are `f32 [N, C, H, W]`, `N` being the plan's batch. Steps are indices into the timesteps of
/// [`Executor::set_timesteps`].
pub struct Executor {
    walker: Walker<CpuBackend>,
}

impl Executor {
    /// An executor for `bundle` on every core. `onnx_runtime` may be absent when the programs in use have no islands.
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
        if bundle.plan().target != "cpu" {
            return Err(RuntimeError::Target(bundle.plan().target.clone()));
        }
        let plan = bundle.plan().clone();
        let backend = CpuBackend::new(bundle, onnx_runtime, threads)?;
        Ok(Executor {
            walker: Walker::new(plan, backend),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        self.walker.plan()
    }

    /// Sets the schedule: one timestep per step. Computes everything that depends on the timestep only.
    pub fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), RuntimeError> {
        self.walker.set_timesteps(timesteps)
    }

    /// Sets the text embedding `[N, tokens, width]`. Computes everything that depends on the text only.
    pub fn set_context(&mut self, context: &HostTensor) -> Result<(), RuntimeError> {
        self.walker.set_context(context)
    }

    /// A dense step that records every slot.
    pub fn record(&mut self, step: usize, sample: &[f32], sink: &mut dyn SlotSink) -> Result<Vec<f32>, RuntimeError> {
        let input = StepInput::dense(step, sample);
        self.walker.step(
            ProgramKind::Record,
            StepInput {
                sink: Some(sink),
                ..input
            },
        )
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
        self.walker.step(program, StepInput::dense(step, sample))
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
        self.walker.step(ProgramKind::Guide, input)
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
        self.walker.step(ProgramKind::Edit, input)
    }

    /// Opens what a program needs (ONNX Runtime sessions), so that its first step takes no longer than the others.
    pub fn prepare(&mut self, kind: ProgramKind) -> Result<(), RuntimeError> {
        self.walker.prepare(kind)
    }

    /// Whether steps measure every node.
    pub fn measure_nodes(&mut self, on: bool) {
        self.walker.measure_nodes(on);
    }

    /// Work and time of the last step.
    pub fn last_step(&self) -> &StepReport {
        self.walker.last_step()
    }
}
