//! A compiled plan as a denoiser.

use fisec_plan::{Bundle, NetworkKind, ProgramKind, SlotId, Stage};
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{Binding, Control, Executor, Progress, RuntimeError, SampledSteps, SlotSink, SlotSource};
use fisec_tensor::{HostTensor, Mask};

use crate::mask::MapSlot;
use crate::network::{Network, NetworkFiles};
use crate::{Denoiser, DiffusionError, Work};

/// The programs of a plan.
pub struct PlanDenoiser {
    executor: Executor,
    binding: Option<Binding>,
    dense_macs: u64,
}

impl PlanDenoiser {
    /// Prepares the programs of `bundle`. Fails for another batch than 1, which computes without guidance, or 2.
    pub fn open(bundle: &Bundle, runtime: &OnnxRuntime) -> Result<Self, DiffusionError> {
        let plan = bundle.plan();
        if !matches!(plan.batch, 1 | 2) {
            return Err(DiffusionError::Batch(plan.batch));
        }
        let steps = plan
            .programs
            .guide
            .nodes
            .iter()
            .filter(|node| node.stage == Stage::Step);
        let dense_macs = steps.map(|node| node.macs_dense).sum();
        let mut executor = Executor::new(bundle.clone(), Some(runtime.clone()))?;
        if plan.is_cuda() {
            // some milliseconds now, or in the first image
            executor.prepare(ProgramKind::Record)?;
            executor.prepare(ProgramKind::Guide)?;
        }
        Ok(PlanDenoiser {
            executor,
            binding: None,
            dense_macs,
        })
    }

    /// A network of the plan's device, or its ONNX files.
    pub(crate) fn network(
        &self,
        runtime: &OnnxRuntime,
        files: NetworkFiles,
        kind: NetworkKind,
    ) -> Result<Network, DiffusionError> {
        Network::of(runtime, files, kind, self.executor.network(kind)?)
    }

    /// One latent as the plan takes it: once where its halves share it.
    fn samples(&self, latent: &[f32]) -> Vec<f32> {
        latent.repeat(self.executor.plan().samples())
    }

    /// The executor, to prepare or measure it.
    pub fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }
}

impl Denoiser for PlanDenoiser {
    fn latent(&self) -> [usize; 3] {
        self.executor.plan().latent
    }

    fn images(&self) -> usize {
        self.executor.plan().batch
    }

    fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), DiffusionError> {
        Ok(self.executor.set_timesteps(timesteps)?)
    }

    fn set_context(&mut self, context: &HostTensor) -> Result<(), DiffusionError> {
        Ok(self.executor.set_context(context)?)
    }

    fn dense(
        &mut self,
        step: usize,
        sample: &[f32],
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let samples = self.samples(sample);
        Ok(match sink {
            Some(sink) => self.executor.record(step, &samples, sink)?,
            None => self.executor.dense(step, &samples)?,
        })
    }

    fn map_slots(&self) -> Vec<MapSlot> {
        let plan = self.executor.plan();
        let place = |(slot, level): (SlotId, u32)| MapSlot {
            slot,
            height: plan.levels[level as usize].height,
            width: plan.levels[level as usize].width,
        };
        plan.map_slots().map(place).collect()
    }

    fn guide(
        &mut self,
        step: usize,
        sample: &[f32],
        control: &Control,
        recorded: &dyn SlotSource,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let samples = self.samples(sample);
        Ok(self.executor.guide(step, &samples, control, recorded, sink)?)
    }

    fn can_edit(&self) -> bool {
        self.executor.plan().programs.edit.is_some()
    }

    fn bind(&mut self, mask: &Mask, remember: bool) -> Result<(), DiffusionError> {
        let binding = self.binding.insert(Binding::bind(self.executor.plan(), mask)?);
        Ok(self.executor.prepare_edit(binding, remember)?)
    }

    fn edit(
        &mut self,
        step: usize,
        sample: &[f32],
        recorded: &dyn SlotSource,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let samples = self.samples(sample);
        let binding = self.binding.as_ref().ok_or(RuntimeError::NotPrepared("mask"))?;
        Ok(self.executor.edit(step, &samples, binding, recorded, sink)?)
    }

    fn edit_steps(
        &mut self,
        steps: &SampledSteps<'_>,
        sink: Option<&mut dyn SlotSink>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<Vec<f32>>>, DiffusionError> {
        let binding = self.binding.as_ref().ok_or(RuntimeError::NotPrepared("mask"))?;
        Ok(self.executor.edit_steps(binding, steps, sink, progress)?)
    }

    fn dense_macs(&self) -> u64 {
        self.dense_macs
    }

    fn last_step(&self) -> Work {
        let report = self.executor.last_step();
        Work {
            macs: report.macs,
            slot_bytes: report.slot_bytes,
            device_time: report.device_time.unwrap_or_default(),
        }
    }
}
