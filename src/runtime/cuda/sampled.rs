//! Sparse steps up to the last one without the host in between: the sampler's updates run on the device.
//!
//! A step is three things on the stream: its row of the table, its graph, its update of the latents. The host waits once,
//! at the end, unless slots have to come or go: then it is a step ahead, or a step behind.

use std::time::{Duration, Instant};

use fisec_kernels::cuda::{self as kernel, Address, AdvanceParams, UpdateParams};
use fisec_plan::cuda::padded;
use fisec_plan::{Extent, ProgramKind, SlotId};
use fisec_tensor::ActiveSet;

use super::Engine;
use super::assemble::{Prediction, table};
use super::driver::Buffer;
use super::fetch::{Fetch, Wanted};
use super::run_memory::{CHANNELS, RunMemory};
use super::save::Save;
use super::step::Variant;
use crate::executor::{StepInput, StepReport, check_step};
use crate::sampled::{HISTORY, Progress, SampledSteps, Sink};
use crate::{Binding, RuntimeError};

/// Where steps find and leave their slots.
struct Blocks {
    rows: Vec<[u64; table::ENTRIES]>,
    /// steps whose slots are fetched, and what of them
    fetched: Vec<bool>,
    wanted: Wanted,
    /// what is written becomes the edited image's
    remember: bool,
}

impl Engine {
    /// The latents after every step; `None` when this plan's steps cannot do without the host, or `progress` broke off.
    pub(crate) fn edit_steps(
        &mut self,
        binding: &Binding,
        run: &SampledSteps<'_>,
        mut sink: Sink<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Vec<Vec<f32>>>, RuntimeError> {
        let steps = run.updates.len();
        if self.plan.latent[0] != CHANNELS || self.plan.batch != 2 || self.measures_nodes || steps == 0 {
            return Ok(None);
        }
        self.check_run(binding, run)?;
        self.device.enter()?;
        let remember = sink.is_some();
        let variant = Variant { remember, maps: false };
        let graph = self.graph(ProgramKind::Edit, variant, binding.levels())?;
        if self.captured[graph].has_islands() {
            return Ok(None);
        }
        let started = Instant::now();
        let blocks = self.blocks_of_run(binding.levels(), run, &mut sink)?;
        let mut memory = self.memory_of_run(run, binding, self.captured[graph].prediction, &blocks)?;
        self.begin_fetch(run, 0, &blocks)?;
        self.around[0].record()?;
        for index in 0..steps {
            let update = self.update(binding, run, (index, graph), &mut memory);
            self.step_of_run(index, graph, &blocks, [self.advance(run, &memory), update])?;
            self.begin_fetch(run, index + 1, &blocks)?;
            if let Some(sink) = sink.as_deref_mut() {
                let step = run.first + index;
                let wanted = self.taken_now(sink, step, false);
                let layout = (&self.plan, &self.slots);
                let save = self.save.as_mut().expect("made with the blocks");
                save.begin((index, step), blocks.rows[index][table::WRITTEN], wanted, layout)?;
                // what the step before has written
                save.finish(index + 1, sink, layout)?;
            }
            if progress(run.first + index).is_break() {
                self.device.synchronize()?;
                return Ok(None);
            }
        }
        self.around[1].record()?;
        let latents = memory.made(run)?;
        let (time, device_time) = (started.elapsed(), self.around[1].since(&self.around[0])?);
        if let (Some(save), Some(sink)) = (&mut self.save, sink) {
            save.finish(steps - 1, sink, (&self.plan, &self.slots))?;
        }
        self.run_memory = Some(memory);
        let fetched = blocks.fetched.iter().filter(|&&fetched| fetched).count() * blocks.wanted.bytes();
        self.report = StepReport {
            time: time / steps as u32,
            device_time: Some(Duration::from_secs_f64(device_time.max(0.0) / steps as f64)),
            slot_bytes: (fetched / steps) as u64,
            ..self.report(ProgramKind::Edit, binding.levels(), Vec::new())
        };
        Ok(Some(latents))
    }

    fn check_run(&self, binding: &Binding, run: &SampledSteps<'_>) -> Result<(), RuntimeError> {
        run.check(&self.plan)?;
        let samples = run.latents.repeat(self.plan.samples());
        let known = self.schedule.as_ref().map(|schedule| schedule.steps);
        let last = StepInput {
            binding: Some(binding),
            ..StepInput::dense(run.first + run.updates.len() - 1, &samples)
        };
        check_step(&self.plan, known, self.has_prompt, ProgramKind::Edit, &last)
    }

    /// What a step reads of slots on the host: all of them where they become the edited image's.
    fn wanted(&self, levels: &[ActiveSet], remember: bool) -> Wanted {
        let slots = self.slots_read(ProgramKind::Edit, remember).into_iter();
        let parts = slots.map(|slot| {
            let ranges = match remember {
                true => vec![self.slots.range(&self.plan, &[slot])],
                false => self.slots.parts_read(&self.plan, slot, levels),
            };
            (slot, ranges)
        });
        Wanted::new(parts.collect::<Vec<(SlotId, _)>>())
    }

    fn blocks_of_run(
        &mut self,
        levels: &[ActiveSet],
        run: &SampledSteps<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Blocks, RuntimeError> {
        let bytes = self.slots.bytes(false);
        let source = run.source.recording();
        let remember = sink.is_some();
        let mut blocks = Blocks {
            rows: vec![[0; table::ENTRIES]; run.updates.len()],
            fetched: vec![false; run.updates.len()],
            wanted: self.wanted(levels, remember),
            remember,
        };
        match &mut self.save {
            Some(save) => save.forget(),
            None if remember => self.save = Some(Save::new(&self.device)?),
            None => {}
        }
        for (index, row) in blocks.rows.iter_mut().enumerate() {
            let step = run.first + index;
            let schedule = self.schedule.as_ref().ok_or(RuntimeError::NotPrepared("timesteps"))?;
            row[table::TIMESTEP] = schedule.address(step);
            if let (Some(sink), Some(save)) = (sink.as_deref_mut(), &mut self.save) {
                let kept = match sink.recording() {
                    Some(name) => self.tier.make(name, step, bytes, source)?.map(Buffer::address),
                    None => None,
                };
                row[table::WRITTEN] = match kept {
                    Some(address) => address,
                    None => save.block(index, bytes)?,
                };
            }
        }
        // after room was made for what is written: that may have cost recordings
        for (index, row) in blocks.rows.iter_mut().enumerate() {
            let resident = source.and_then(|name| self.tier.get(name, run.first + index, bytes));
            row[table::READ] = match resident {
                Some(block) => block.address(),
                None => {
                    blocks.fetched[index] = true;
                    self.fetch(blocks.wanted.bytes())?.address(index)
                }
            };
        }
        Ok(blocks)
    }

    /// What fetches so many bytes a step.
    fn fetch(&mut self, part_bytes: usize) -> Result<&mut Fetch, RuntimeError> {
        if self.fetch.as_ref().is_none_or(|fetch| !fetch.holds(part_bytes)) {
            // the old one's memory first
            self.fetch = None;
            self.fetch = Some(Fetch::new(&self.device, self.slots.bytes(false), part_bytes)?);
        }
        Ok(self.fetch.as_mut().expect("made above"))
    }

    fn begin_fetch(&mut self, run: &SampledSteps<'_>, index: usize, blocks: &Blocks) -> Result<(), RuntimeError> {
        match &mut self.fetch {
            Some(fetch) if blocks.fetched.get(index) == Some(&true) => {
                let at = (index, run.first + index);
                fetch.begin(at, run.source, &blocks.wanted, (&self.plan, &self.slots))
            }
            _ => Ok(()),
        }
    }

    /// The memory of a run, what is known before its first step written.
    fn memory_of_run(
        &mut self,
        run: &SampledSteps<'_>,
        binding: &Binding,
        prediction: Prediction,
        blocks: &Blocks,
    ) -> Result<RunMemory, RuntimeError> {
        let scaled = |value: &f32| (f64::from(*value) * f64::from(run.sample_scale)) as f32;
        let sample: Vec<f32> = run.latents.iter().map(scaled).collect();
        self.upload_sample(&sample.repeat(self.plan.samples()))?;
        self.reserve_run(run.updates.len())?;
        let mut memory = self.run_memory.take().expect("reserved");
        memory.fill(run, &ranks(binding.active(0), prediction), &blocks.rows)?;
        Ok(memory)
    }

    /// Makes memory for runs of so many steps, where the plan has any.
    pub(super) fn reserve_run(&mut self, steps: usize) -> Result<(), RuntimeError> {
        let [channels, height, width] = self.plan.latent;
        let pixels = height * width;
        let known = self
            .run_memory
            .as_ref()
            .is_some_and(|memory| memory.holds(steps, pixels));
        if !known && channels == CHANNELS && self.plan.programs.edit.is_some() {
            // the old one's memory first
            self.run_memory = None;
            self.run_memory = Some(RunMemory::new(&self.device, steps, pixels)?);
        }
        Ok(())
    }

    /// Puts a step on the stream: what comes before its graph and after it are `around`.
    fn step_of_run(
        &self,
        index: usize,
        graph: usize,
        blocks: &Blocks,
        around: [kernel::Launch; 2],
    ) -> Result<(), RuntimeError> {
        let fetch = self.fetch.as_ref().filter(|_| blocks.fetched[index]);
        if let Some(fetch) = fetch {
            fetch.arrive(&self.device, index)?;
        }
        let row = blocks.rows[index];
        // SAFETY: the run's memory lives until the stream has been waited for; all else as for a single step.
        unsafe {
            if blocks.remember {
                let bytes = self.slots.bytes(false);
                self.device.copy(row[table::WRITTEN], row[table::READ], bytes)?;
            }
            self.device.launch(&self.functions, &around[0])?;
            self.captured[graph].launch()?;
            self.device.launch(&self.functions, &around[1])?;
        }
        match fetch {
            Some(fetch) => fetch.release(index),
            None => Ok(()),
        }
    }

    fn advance(&self, run: &SampledSteps<'_>, memory: &RunMemory) -> kernel::Launch {
        kernel::advance_step(&AdvanceParams {
            all_slots: memory.rows.address(),
            slots: self.table.address(),
            next: memory.counters.address(),
            step: memory.counters.address() + size_of::<i32>() as u64,
            slot_count: table::ENTRIES as i32,
            steps: run.updates.len() as i32,
        })
    }

    fn update(
        &self,
        binding: &Binding,
        run: &SampledSteps<'_>,
        (index, graph): (usize, usize),
        memory: &mut RunMemory,
    ) -> kernel::Launch {
        let prediction = self.captured[graph].prediction;
        let pixels = run.latents.len() / CHANNELS;
        let rows = match prediction.extent {
            Extent::Full => pixels,
            Extent::Active(_) => binding.active(0).len(),
        };
        let mut params = UpdateParams {
            latent: memory.latents(index),
            updated: memory.latents(index + 1),
            prediction: prediction.rows.address,
            recorded: memory.recorded(index),
            input: Address::at(self.sample.address()),
            ranks: memory.ranks.address(),
            coefficients: memory.coefficients.address(),
            step: memory.counters.address() + size_of::<i32>() as u64,
            slots: self.table.address(),
            pixels: pixels as i32,
            rows: rows as i32,
            prediction_stride: prediction.rows.stride as i32,
            input_stride: padded(CHANNELS) as i32,
            ..UpdateParams::default()
        };
        for (address, &entry) in params.history.iter_mut().zip(&memory.kept) {
            *address = memory.history(entry);
        }
        if run.updates[index].kept.is_some() {
            let free = (0..=HISTORY).find(|entry| !memory.kept.contains(entry));
            let free = free.expect("one more than are kept");
            params.history_out = memory.history(free);
            memory.kept.insert(0, free);
            memory.kept.truncate(HISTORY);
        }
        kernel::latent_update(&params)
    }
}

/// The prediction's row of every pixel, -1 outside the mask.
fn ranks(active: &ActiveSet, prediction: Prediction) -> Vec<i32> {
    let is_packed = prediction.extent != Extent::Full;
    let ranks = active.ranks().iter().enumerate();
    ranks
        .map(|(pixel, &rank)| match rank {
            rank if rank < 0 => -1,
            rank if is_packed => rank,
            _ => pixel as i32,
        })
        .collect()
}
