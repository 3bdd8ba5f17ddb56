//! A denoiser small enough to reason about, with one recorded activation.
#![allow(dead_code, missing_docs)]

use std::ops::ControlFlow;

use fisec_diffusion::denoise::Conditions;
use fisec_diffusion::mask::MapSlot;
use fisec_diffusion::samplers::{Sampler, SamplerConfig, SamplerKind};
use fisec_diffusion::{Denoiser, DiffusionError, Event, Work};
use fisec_plan::{Slot, SlotId, SlotKind};
use fisec_runtime::cache::MemoryCache;
use fisec_runtime::{Control, SlotSink, SlotSource};
use fisec_tensor::{ActiveSet, DType, HostTensor, Mask};

pub const SIZE: usize = 8;
pub const CHANNELS: usize = 4;
const HIDDEN: SlotId = SlotId(0);

/// `hidden = tanh(x + time + what the prompt adds)`, prediction: mean of hidden over 3×3 pixels, plus a little of x.
///
/// A context `[2, 1, 3]` holds (strength, row, column): the prompt adds a bump there.
#[derive(Clone, Default)]
pub struct Toy {
    pub timesteps: Vec<f32>,
    pub context: Vec<f32>,
    pub active: Option<ActiveSet>,
    pub dense_steps: usize,
    pub sparse_steps: usize,
    pub controlled_steps: usize,
    pub no_sparse_program: bool,
    /// first step whose predictions hold a value that is no number
    pub poisoned_from: Option<usize>,
    /// one image per step, without guidance
    pub is_single: bool,
    pub work: Work,
}

impl Toy {
    fn hidden(&self, step: usize, sample: &[f32]) -> Vec<f32> {
        let time = self.timesteps[step] / 1000.0;
        let value = |(index, x): (usize, &f32)| {
            let pixel = index % (SIZE * SIZE);
            let image = index / (CHANNELS * SIZE * SIZE);
            let [strength, row, column] = self.context[image * 3..image * 3 + 3] else {
                unreachable!()
            };
            let distance = ((pixel / SIZE) as f32 - row).powi(2) + ((pixel % SIZE) as f32 - column).powi(2);
            (x + time + strength * (-distance / 2.0).exp()).tanh()
        };
        sample.iter().enumerate().map(value).collect()
    }

    fn predict(&self, sample: &[f32], hidden: &[f32]) -> Vec<f32> {
        let mean = |index: usize| {
            let (plane, row, column) = (index / (SIZE * SIZE), index / SIZE % SIZE, index % SIZE);
            let mut sum = 0.0;
            for y in row.saturating_sub(1)..(row + 2).min(SIZE) {
                for x in column.saturating_sub(1)..(column + 2).min(SIZE) {
                    sum += hidden[(plane * SIZE + y) * SIZE + x];
                }
            }
            sum / 9.0
        };
        (0..sample.len())
            .map(|index| 0.7 * mean(index) + 0.1 * sample[index])
            .collect()
    }

    fn compute(&mut self, step: usize, sample: &[f32]) -> (Vec<f32>, Vec<f32>) {
        self.dense_steps += 1;
        self.work = Work {
            macs: 1000,
            ..Work::default()
        };
        let hidden = self.hidden(step, sample);
        let mut prediction = self.predict(sample, &hidden);
        self.poison(step, &mut prediction);
        (prediction, hidden)
    }

    fn poison(&self, step: usize, prediction: &mut [f32]) {
        if self.poisoned_from.is_some_and(|first| step >= first) {
            prediction[3] = f32::NAN;
        }
    }

    fn is_active(&self, index: usize) -> bool {
        let pixel = index % (SIZE * SIZE);
        self.active.as_ref().expect("a mask was bound").mask().bits()[pixel]
    }
}

impl Denoiser for Toy {
    fn latent(&self) -> [usize; 3] {
        [CHANNELS, SIZE, SIZE]
    }

    fn images(&self) -> usize {
        if self.is_single { 1 } else { 2 }
    }

    fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), DiffusionError> {
        self.timesteps = timesteps.to_vec();
        Ok(())
    }

    fn set_context(&mut self, context: &HostTensor) -> Result<(), DiffusionError> {
        self.context = context.to_f32_vec();
        Ok(())
    }

    fn dense(
        &mut self,
        step: usize,
        sample: &[f32],
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        let images = self.images();
        let (prediction, hidden) = self.compute(step, &sample.repeat(images));
        if let Some(sink) = sink {
            sink.put(
                step,
                HIDDEN,
                HostTensor::from_f32([images, CHANNELS, SIZE, SIZE], hidden),
            )?;
        }
        Ok(prediction)
    }

    fn map_slots(&self) -> Vec<MapSlot> {
        Vec::new()
    }

    fn guide(
        &mut self,
        step: usize,
        sample: &[f32],
        _: &Control,
        _: &dyn SlotSource,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        self.controlled_steps += 1;
        self.dense(step, sample, sink)
    }

    fn can_edit(&self) -> bool {
        !self.no_sparse_program
    }

    fn bind(&mut self, mask: &Mask, _: bool) -> Result<(), DiffusionError> {
        self.active = Some(ActiveSet::new(mask.clone()));
        Ok(())
    }

    fn edit(
        &mut self,
        step: usize,
        sample: &[f32],
        recorded: &dyn SlotSource,
        sink: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        self.sparse_steps += 1;
        let active = self.active.as_ref().map_or(0, ActiveSet::len) as u64;
        self.work = Work {
            macs: 10 * active,
            slot_bytes: 7,
            ..Work::default()
        };
        let slot = recorded.slot(step, HIDDEN)?;
        let sample = &sample.repeat(2);
        let fresh = self.hidden(step, sample);
        let recorded = slot.as_f32()?;
        let hidden: Vec<f32> = (0..fresh.len())
            .map(|index| {
                if self.is_active(index) {
                    fresh[index]
                } else {
                    recorded[index]
                }
            })
            .collect();
        let mut prediction = self.predict(sample, &hidden);
        for (index, value) in prediction.iter_mut().enumerate() {
            *value = if self.is_active(index) { *value } else { 0.0 };
        }
        self.poison(step, &mut prediction);
        if let Some(sink) = sink {
            sink.put(step, HIDDEN, HostTensor::from_f32([2, CHANNELS, SIZE, SIZE], hidden))?;
        }
        Ok(prediction)
    }

    fn dense_macs(&self) -> u64 {
        1000
    }

    fn last_step(&self) -> Work {
        self.work
    }
}

pub fn store() -> MemoryCache {
    let shape = [2, CHANNELS, SIZE, SIZE];
    let bytes = 4 * shape.iter().product::<usize>() as u64;
    let kind = SlotKind::Full { level: 0 };
    MemoryCache::new(&[Slot {
        name: "hidden".into(),
        kind,
        dtype: DType::F32,
        shape: shape.into(),
        bytes,
    }])
}

/// A schedule and a prompt that adds a bump of `strength` at (row, column).
pub fn conditions(kind: SamplerKind, steps: usize, prompt: [f32; 3]) -> Conditions {
    let config = SamplerConfig::parse(r#"{"beta_schedule": "scaled_linear", "steps_offset": 1}"#).unwrap();
    Conditions {
        sampler: Sampler::new(kind, &config, steps).unwrap(),
        context: HostTensor::from_f32([2, 1, 3], [[0.0; 3], prompt].concat()),
        guidance: 3.0,
    }
}

pub fn silent(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
