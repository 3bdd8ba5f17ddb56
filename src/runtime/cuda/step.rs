//! One step.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use fisec_kernels::cuda::Address;
use fisec_plan::{ControlInput, Extent, ProgramKind, SlotId, SlotKind, Stage, ValueId};
use fisec_tensor::ActiveSet;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::assemble::{Boxes, Context, Prediction, Rowed, measure, table};
use super::captured::Captured;
use super::driver::Buffer;
use super::save::Save;
use super::slots::{half_rows, half_rows_bytes, rows_of_planes};
use super::{Engine, MOST_CAPTURED};
use crate::executor::{NodeTime, StepInput, StepReport, check_step, recorded};
use crate::{Binding, RuntimeError, SlotSink, SlotSource};

/// Index of the blocks for slots that are read and written.
const READ: usize = 0;
const WRITTEN: usize = 1;

/// What a program does beside its prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Variant {
    /// writes the slots of the edited image
    pub(super) remember: bool,
    /// records cross-attention maps
    pub(super) maps: bool,
}

impl Engine {
    /// One step of a program: `[S, C, H, W]` to `[N, C, H, W]`.
    pub(crate) fn step(&mut self, kind: ProgramKind, mut input: StepInput<'_>) -> Result<Vec<f32>, RuntimeError> {
        let steps = self.schedule.as_ref().map(|schedule| schedule.steps);
        check_step(&self.plan, steps, self.has_prompt, kind, &input)?;
        self.device.enter()?;
        let levels = input.binding.map_or(&[][..], Binding::levels);
        let remember = kind == ProgramKind::Edit && input.sink.is_some();
        // an edit makes no maps: those of its base belong to other words
        let maps = kind != ProgramKind::Edit && self.plan.map_slots().any(|(slot, _)| input.wants(slot));
        let graph = self.graph(kind, Variant { remember, maps }, levels)?;
        self.upload_control(&input)?;
        let addresses = self.blocks(kind, maps, &mut input)?;
        let started = Instant::now();
        self.upload_sample(input.sample)?;
        self.table.write(0, bytemuck::cast_slice(&addresses))?;
        self.around[0].record()?;
        let nodes = self.launch(graph, addresses)?;
        self.around[1].record()?;
        let prediction = self.captured[graph].prediction;
        let result = self.prediction(prediction, input.binding)?;
        let time = started.elapsed();
        let device_time = Duration::from_secs_f64(self.around[1].since(&self.around[0])?.max(0.0));
        if result.iter().any(|value| !value.is_finite()) {
            return Err(RuntimeError::not_finite(input.step, kind, true));
        }
        if let Some(sink) = input.sink {
            self.hand_over(input.step, addresses[table::WRITTEN], sink, maps)?;
        }
        self.report = StepReport {
            time,
            device_time: Some(device_time),
            ..self.report(kind, levels, nodes)
        };
        Ok(result)
    }

    /// The captured graph for a mask, made when there is none that fits.
    pub(super) fn graph(
        &mut self,
        kind: ProgramKind,
        variant: Variant,
        levels: &[ActiveSet],
    ) -> Result<usize, RuntimeError> {
        for (index, captured) in self.captured.iter_mut().enumerate() {
            if captured.kind != Some(kind) || captured.remember != variant.remember || captured.maps != variant.maps {
                continue;
            }
            if levels.is_empty() || captured.is_near(levels[0].len()) && captured.bind(levels)? {
                return Ok(index);
            }
        }
        self.capture(kind, variant, levels)?;
        Ok(self.captured.len() - 1)
    }

    fn capture(&mut self, kind: ProgramKind, variant: Variant, levels: &[ActiveSet]) -> Result<(), RuntimeError> {
        let program = self
            .plan
            .programs
            .get(kind)
            .ok_or(RuntimeError::NoProgram(kind.name()))?;
        let mut early = self.prompt_values.addresses(kind, self.prompt.address());
        early.extend(self.timestep_values.addresses(kind, 0));
        let context = Context {
            plan: &self.plan,
            program,
            prepared: &self.prepared[&kind],
            gpu: self.gpu,
            levels,
            weights: &self.weights.addresses,
            folded: &self.weights.folded,
            norms: &self.norms[&kind],
            early: &early,
            slots: &self.slots,
            table: self.table.address(),
            sample: self.sample.address(),
            control: &self.control_addresses(kind),
            remember: variant.remember,
            maps: variant.maps,
            boxes: &Boxes::default(),
        };
        let measured = measure(&context)?;
        if measured.bytes > self.values.bytes() {
            // graphs hold addresses of the old block
            self.captured.clear();
            self.device.synchronize()?;
            self.values = self.device.allocate(measured.bytes)?;
        }
        if self.captured.len() >= MOST_CAPTURED {
            let oldest = self
                .captured
                .iter()
                .position(|captured| captured.kind == Some(ProgramKind::Edit));
            self.captured.remove(oldest.unwrap_or(0));
        }
        let values = self.values.address();
        let mut captured = Captured::new(&self.device, &self.functions, &context, Some(kind), &measured, values)?;
        if !levels.is_empty() && !captured.bind(levels)? {
            return Err(RuntimeError::plan(
                "edit",
                "a bucket does not hold the mask that it was made for",
            ));
        }
        self.captured.push(captured);
        Ok(())
    }

    /// This step's table: where slots are read and written, and the timestep's values.
    fn blocks(
        &mut self,
        kind: ProgramKind,
        maps: bool,
        input: &mut StepInput<'_>,
    ) -> Result<[u64; table::ENTRIES], RuntimeError> {
        let mut addresses = [0; table::ENTRIES];
        let schedule = self.schedule.as_ref().ok_or(RuntimeError::NotPrepared("timesteps"))?;
        addresses[table::TIMESTEP] = schedule.address(input.step);
        let read = self.slots_read(kind, input.sink.is_some());
        if let Some(source) = input.source.filter(|_| !read.is_empty()) {
            addresses[table::READ] = self.block_to_read(input.step, source, &read)?;
        }
        let source = input.source.and_then(|source| source.recording());
        addresses[table::WRITTEN] = match input.sink.as_deref_mut() {
            Some(sink) => self.block_to_write(input.step, maps, sink, source)?,
            None if kind != ProgramKind::Edit && self.slots.bytes(true) > 0 => self.staging(WRITTEN)?.address(),
            None => 0,
        };
        if kind == ProgramKind::Edit && input.sink.is_some() {
            let bytes = self.slots.bytes(false);
            // SAFETY: both are blocks of slots, and a step never writes the one that it reads.
            unsafe {
                self.device
                    .copy(addresses[table::WRITTEN], addresses[table::READ], bytes)?
            };
        }
        Ok(addresses)
    }

    fn block_to_read(&mut self, step: usize, source: &dyn SlotSource, slots: &[SlotId]) -> Result<u64, RuntimeError> {
        let bytes = self.slots.bytes(slots.iter().any(|slot| self.is_map(*slot)));
        let resident = source.recording().and_then(|name| self.tier.get(name, step, bytes));
        if let Some(block) = resident {
            return Ok(block.address());
        }
        let mut block = vec![0u8; bytes];
        for &slot in slots {
            let value = recorded(&self.plan, source, step, slot)?;
            self.slots.put(&self.plan, slot, &value, &mut block);
        }
        let staging = self.staging(READ)?;
        staging.write(0, &block)?;
        Ok(staging.address())
    }

    fn block_to_write(
        &mut self,
        step: usize,
        maps: bool,
        sink: &mut dyn SlotSink,
        read: Option<&str>,
    ) -> Result<u64, RuntimeError> {
        if let Some(name) = sink.recording()
            && let Some(block) = self.tier.make(name, step, self.slots.bytes(maps), read)?
        {
            return Ok(block.address());
        }
        Ok(self.staging(WRITTEN)?.address())
    }

    fn staging(&mut self, which: usize) -> Result<&mut Buffer, RuntimeError> {
        if self.staging[which].is_none() {
            let bytes = self.slots.bytes(true);
            let made = self.device.allocate(bytes).or_else(|error| {
                // recordings can be read again from the host: steps cannot do without this
                self.tier.clear();
                self.device.allocate(bytes).map_err(|_| error)
            });
            self.staging[which] = Some(made?);
        }
        Ok(self.staging[which].as_mut().expect("made above"))
    }

    /// Slots that a program reads.
    pub(super) fn slots_read(&self, kind: ProgramKind, remember: bool) -> Vec<SlotId> {
        let nodes = self
            .plan
            .programs
            .get(kind)
            .into_iter()
            .flat_map(|program| &program.nodes);
        let read: BTreeSet<SlotId> = nodes.flat_map(|node| node.kernel.slots_read()).collect();
        // the whole block is copied for the edited image
        let all = (0..self.plan.slots.len() as u32).map(SlotId);
        match kind {
            ProgramKind::Edit if remember => all.filter(|slot| !self.is_map(*slot)).collect(),
            _ => read.into_iter().collect(),
        }
    }

    fn is_map(&self, slot: SlotId) -> bool {
        matches!(self.plan.slots[slot.index()].kind, SlotKind::Maps { .. })
    }

    /// Where a program finds the tables of control.
    fn control_addresses(&self, kind: ProgramKind) -> HashMap<ValueId, Address> {
        let mut offset = 0;
        let mut addresses = HashMap::new();
        let Some(program) = self.plan.programs.get(kind) else {
            return addresses;
        };
        for table in ControlInput::ALL {
            if let Some(&id) = program.inputs.get(table.name()) {
                addresses.insert(id, Address::at(self.control.address() + offset as u64));
            }
            offset += half_rows_bytes(&table.dims(self.plan.context[0]).into());
        }
        addresses
    }

    fn upload_control(&mut self, input: &StepInput<'_>) -> Result<(), RuntimeError> {
        let Some(control) = input.control.filter(|_| self.plan.has_control()) else {
            return Ok(());
        };
        let tables = ControlInput::ALL.map(|table| half_rows(control.table(table)));
        self.control.write(0, &tables.concat())
    }

    /// `[S, C, H, W]` as f16 rows.
    pub(super) fn upload_sample(&mut self, planes: &[f32]) -> Result<(), RuntimeError> {
        let [channels, height, width] = self.plan.latent;
        let rows = rows_of_planes(planes, [self.plan.samples(), channels, height * width]);
        self.sample.write(0, &rows)
    }

    /// Runs the graph; with measuring on, node by node.
    fn launch(&mut self, graph: usize, addresses: [u64; table::ENTRIES]) -> Result<Vec<(usize, f64)>, RuntimeError> {
        let resolve = |rows: Rowed| resolve(rows.address, &addresses);
        let captured: &Captured = &self.captured[graph];
        // SAFETY: `values`, `table`, `sample`, `prompt` and weights live as long as `self` and are replaced only after
        // the graphs over them are dropped; the step's blocks are alive: the tier frees none while a step runs.
        unsafe {
            if self.measures_nodes {
                let (device, functions) = (&self.device, &self.functions);
                return captured.measure(device, functions, &mut self.islands, &self.plan, &resolve);
            }
            captured.run(&mut self.islands, &self.plan, &resolve)?;
        }
        Ok(Vec::new())
    }

    /// The prediction as `[N, C, H, W]`, zero outside the mask.
    fn prediction(&self, prediction: Prediction, binding: Option<&Binding>) -> Result<Vec<f32>, RuntimeError> {
        let [channels, height, width] = self.plan.latent;
        let (pixels, images) = (height * width, self.plan.batch);
        let active = binding.map(|binding| binding.active(0));
        let packed = match (prediction.extent, active) {
            (Extent::Active(_), Some(active)) => Some(active),
            (Extent::Active(_), None) => return Err(RuntimeError::NotPrepared("mask")),
            (Extent::Full, _) => None,
        };
        let stride = prediction.rows.stride;
        let per_image = packed.map_or(pixels, ActiveSet::len);
        let address = prediction.rows.address;
        if address.slot != 0 {
            return Err(RuntimeError::plan("prediction", "it is a recorded value"));
        }
        // SAFETY: the rows lie in the block of values.
        let bytes = unsafe { self.device.read(address.base, images * per_image * stride * 2)? };
        let mut halves = vec![f16::ZERO; bytes.len() / size_of::<f16>()];
        bytemuck::cast_slice_mut::<f16, u8>(&mut halves).copy_from_slice(&bytes);
        let mut rows = vec![0.0; halves.len()];
        halves.convert_to_f32_slice(&mut rows);
        let mut planes = vec![0.0; images * channels * pixels];
        let wanted: Vec<usize> = match active {
            Some(active) => active.pixels().iter().map(|&pixel| pixel as usize).collect(),
            None => (0..pixels).collect(),
        };
        for image in 0..images {
            for (rank, &pixel) in wanted.iter().enumerate() {
                let row = image * per_image + if packed.is_some() { rank } else { pixel };
                for channel in 0..channels {
                    planes[(image * channels + channel) * pixels + pixel] = rows[row * stride + channel];
                }
            }
        }
        Ok(planes)
    }

    /// Slots that a sink takes on the host: maps are there only where `maps` says so.
    pub(super) fn wanted_by(&self, sink: &dyn SlotSink, step: usize, maps: bool) -> Vec<SlotId> {
        let slots = (0..self.plan.slots.len() as u32).map(SlotId);
        let written = slots.filter(|&slot| maps || !self.is_map(slot));
        written.filter(|&slot| sink.wants(step, slot)).collect()
    }

    /// Gives the written slots to a sink, as far as it takes them.
    fn hand_over(
        &mut self,
        step: usize,
        address: u64,
        sink: &mut dyn SlotSink,
        maps: bool,
    ) -> Result<(), RuntimeError> {
        let wanted = self.taken_now(sink, step, maps);
        if wanted.is_empty() {
            return Ok(());
        }
        let layout = (&self.plan, &self.slots);
        let save = match &mut self.save {
            Some(save) => save,
            none => none.insert(Save::new(&self.device)?),
        };
        save.forget();
        save.begin((0, step), address, wanted, layout)?;
        save.finish(0, sink, layout)
    }

    pub(super) fn report(&self, kind: ProgramKind, levels: &[ActiveSet], nodes: Vec<(usize, f64)>) -> StepReport {
        let program = self.plan.programs.get(kind).expect("it has just run");
        let active = |level: u32| levels.get(level as usize).map_or(1.0, |set| set.mask().share());
        let macs = |node: &fisec_plan::Node| {
            let output = node
                .kernel
                .outputs()
                .first()
                .map_or(1.0, |&id| match program.values[id.index()].extent {
                    Extent::Full => 1.0,
                    Extent::Active(level) => active(level),
                });
            let terms = program.share_of_terms(&node.kernel, active);
            (node.macs_dense as f64 * output * terms).round() as u64
        };
        let steps = program.nodes.iter().filter(|node| node.stage == Stage::Step);
        let node_time = |(index, seconds): &(usize, f64)| {
            let node = &program.nodes[*index];
            NodeTime {
                node: node.name.clone(),
                kernel: node.kernel.name(),
                time: Duration::from_secs_f64(seconds.max(0.0)),
                macs: macs(node),
            }
        };
        StepReport {
            macs: steps.map(macs).sum(),
            nodes: nodes.iter().map(node_time).collect(),
            ..StepReport::default()
        }
    }
}

/// An address as it is at a step.
fn resolve(address: Address, table: &[u64; table::ENTRIES]) -> u64 {
    match address.slot {
        0 => address.base,
        slot => table[slot as usize - 1] + address.base,
    }
}
