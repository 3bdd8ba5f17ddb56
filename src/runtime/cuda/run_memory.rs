//! What sparse steps without the host find on the device beside their graph: latents, the recorded ones, tables.

use std::sync::Arc;

use bytemuck::Pod;
use fisec_kernels::cuda::{Address, StepCoefficients};
use fisec_plan::ProgramKind;
use rayon::prelude::*;

use super::assemble::table;
use super::driver::{Buffer, Device, Pinned};
use crate::RuntimeError;
use crate::sampled::{HISTORY, SampledSteps, StepUpdate};

/// Channels of the latents that the update's kernel takes.
pub(super) const CHANNELS: usize = 4;

/// Memory for the steps of a schedule, used by one run at a time.
pub(super) struct RunMemory {
    /// most steps
    steps: usize,
    pixels: usize,
    /// f32 `[steps + 1][pixels][4]`: the latents before every step and after the last
    latents: Buffer,
    /// f32 `[steps][pixels][4]`
    recorded: Buffer,
    /// f32 `[HISTORY + 1][pixels][4]`
    history: Buffer,
    pub(super) coefficients: Buffer,
    pub(super) ranks: Buffer,
    /// table entries of every step
    pub(super) rows: Buffer,
    /// i32: the next row, the current one
    pub(super) counters: Buffer,
    /// entries of the history that are kept, newest first
    pub(super) kept: Vec<usize>,
    /// `recorded` on its way there, then `latents` on their way back
    staging: Pinned,
    device: Arc<Device>,
}

impl RunMemory {
    /// For runs of at most so many steps.
    pub(super) fn new(device: &Arc<Device>, steps: usize, pixels: usize) -> Result<Self, RuntimeError> {
        let plane = plane(pixels);
        Ok(RunMemory {
            steps,
            pixels,
            latents: device.allocate((steps + 1) * plane)?,
            recorded: device.allocate(steps * plane)?,
            history: device.allocate((HISTORY + 1) * plane)?,
            coefficients: device.allocate(steps * size_of::<StepCoefficients>())?,
            ranks: device.allocate(pixels * size_of::<i32>())?,
            rows: device.allocate(steps * table::ENTRIES * size_of::<u64>())?,
            counters: device.allocate(2 * size_of::<i32>())?,
            kept: Vec::new(),
            staging: Pinned::new(device, steps * plane)?,
            device: Arc::clone(device),
        })
    }

    /// Whether there is room for so many steps.
    pub(super) fn holds(&self, steps: usize, pixels: usize) -> bool {
        steps <= self.steps && pixels == self.pixels
    }

    /// Writes all that is known before the first step, in the order of the stream.
    pub(super) fn fill(
        &mut self,
        run: &SampledSteps<'_>,
        ranks: &[i32],
        rows: &[[u64; table::ENTRIES]],
    ) -> Result<(), RuntimeError> {
        let plane = self.pixels * CHANNELS;
        let staged = floats(self.staging.bytes_mut());
        let places = staged.par_chunks_exact_mut(plane).zip(run.recorded);
        places.for_each(|(place, planes)| pixels_first(planes, place));
        let bytes = run.recorded.len() * plane * size_of::<f32>();
        self.recorded.write(0, &self.staging.bytes()[..bytes])?;
        let mut turned = vec![0.0; plane];
        pixels_first(run.latents, &mut turned);
        write(&mut self.latents, 0, &turned)?;
        for (entry, planes) in run.history.iter().enumerate() {
            pixels_first(planes, &mut turned);
            write(&mut self.history, entry * plane * size_of::<f32>(), &turned)?;
        }
        self.kept = (0..run.history.len()).collect();
        let coefficients: Vec<StepCoefficients> = run.updates.iter().map(StepUpdate::coefficients).collect();
        write(&mut self.coefficients, 0, &coefficients)?;
        write(&mut self.ranks, 0, ranks)?;
        write(&mut self.rows, 0, rows.as_flattened())?;
        write(&mut self.counters, 0, &[0i32; 2])
    }

    /// The latents before a step.
    pub(super) fn latents(&self, step: usize) -> Address {
        self.plane_of(&self.latents, step)
    }

    /// The recorded latents after a step.
    pub(super) fn recorded(&self, step: usize) -> Address {
        self.plane_of(&self.recorded, step)
    }

    /// An entry of the history.
    pub(super) fn history(&self, entry: usize) -> Address {
        self.plane_of(&self.history, entry)
    }

    fn plane_of(&self, buffer: &Buffer, at: usize) -> Address {
        Address::at(buffer.address() + (at * plane(self.pixels)) as u64)
    }

    /// Waits for the steps of a run and brings their latents back, `[C, H, W]` each.
    pub(super) fn made(&mut self, run: &SampledSteps<'_>) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let bytes = run.updates.len() * plane(self.pixels);
        let first = self.latents(1).base;
        let target = &mut self.staging.bytes_mut()[..bytes];
        // SAFETY: all but the first latents of the buffer.
        unsafe { self.device.read_into(first, target)? };
        let made = floats(target).par_chunks_exact(self.pixels * CHANNELS);
        let made = made.enumerate().map(|(index, latents)| {
            let latents = channels_first(latents);
            match latents.iter().all(|value| value.is_finite()) {
                true => Ok(latents),
                false => Err(RuntimeError::not_finite(run.first + index, ProgramKind::Edit, true)),
            }
        });
        // the first step that is wrong, whichever thread was quicker
        made.collect::<Vec<_>>().into_iter().collect()
    }
}

/// Bytes of a latent.
fn plane(pixels: usize) -> usize {
    pixels * CHANNELS * size_of::<f32>()
}

fn write<T: Pod>(buffer: &mut Buffer, offset: usize, values: &[T]) -> Result<(), RuntimeError> {
    buffer.write(offset, bytemuck::cast_slice(values))
}

/// Pinned memory as floats: whole pages are aligned for any type.
fn floats(bytes: &mut [u8]) -> &mut [f32] {
    let whole = bytes.len() / size_of::<f32>() * size_of::<f32>();
    bytemuck::cast_slice_mut(&mut bytes[..whole])
}

/// A latent `[C, H, W]` as `[H, W, C]`.
fn pixels_first(planes: &[f32], pixels: &mut [f32]) {
    for (channel, plane) in planes.chunks_exact(planes.len() / CHANNELS).enumerate() {
        for (pixel, &value) in pixels.chunks_exact_mut(CHANNELS).zip(plane) {
            pixel[channel] = value;
        }
    }
}

/// A latent `[H, W, C]` as `[C, H, W]`.
fn channels_first(pixels: &[f32]) -> Vec<f32> {
    let channel = |channel: usize| pixels.iter().skip(channel).step_by(CHANNELS).copied();
    (0..CHANNELS).flat_map(channel).collect()
}

impl StepUpdate {
    fn coefficients(&self) -> StepCoefficients {
        let [h_x, h_e] = self.kept.unwrap_or_default();
        StepCoefficients {
            guidance: self.guidance,
            x_x: self.latents,
            x_e: self.prediction,
            x_h: self.history,
            h_x,
            h_e,
            input_scale: self.sample_scale,
            reserved: [0.0; 3],
        }
    }
}
