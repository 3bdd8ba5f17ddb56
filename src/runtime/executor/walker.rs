//! Walks a program's nodes on a backend.

use std::time::Instant;

use fisec_plan::{ControlInput, Extent, Kernel, Plan, Program, ProgramKind, Stage, ValueId};
use fisec_tensor::{Constant, DType, HostTensor, Shape};

use super::backend::{Active, Backend, Call, Values, recorded};
use super::input::{StepInput, check_context, check_step};
use super::program::Prepared;
use super::report::{NodeTime, StepReport};
use crate::{Binding, RuntimeError, SlotSource};

/// The programs of a plan with the values of their earlier stages.
pub(super) struct Walker<B: Backend> {
    plan: Plan,
    backend: B,
    programs: Vec<(ProgramKind, Prepared, Stored<B::Value>)>,
    timesteps: Option<usize>,
    has_context: bool,
    measures_nodes: bool,
    report: StepReport,
}

/// Values of the earlier stages, by value id.
struct Stored<V> {
    prompt: Vec<Option<V>>,
    timesteps: Vec<Vec<Option<V>>>,
}

impl<B: Backend> Walker<B> {
    pub(super) fn new(plan: Plan, backend: B) -> Self {
        let programs = plan
            .programs
            .iter()
            .map(|(kind, program)| {
                let stored = Stored {
                    prompt: Vec::new(),
                    timesteps: Vec::new(),
                };
                (kind, Prepared::new(&plan, kind, program), stored)
            })
            .collect();
        Walker {
            plan,
            backend,
            programs,
            timesteps: None,
            has_context: false,
            measures_nodes: false,
            report: StepReport::default(),
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn measure_nodes(&mut self, on: bool) {
        self.measures_nodes = on;
    }

    pub(super) fn last_step(&self) -> &StepReport {
        &self.report
    }

    pub(super) fn prepare(&mut self, kind: ProgramKind) -> Result<(), RuntimeError> {
        let program = self
            .plan
            .programs
            .get(kind)
            .ok_or(RuntimeError::NoProgram(kind.name()))?;
        program
            .nodes
            .iter()
            .try_for_each(|node| self.backend.prepare(&self.plan, node))
    }

    pub(super) fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), RuntimeError> {
        self.timesteps = None;
        let Walker {
            plan,
            backend,
            programs,
            ..
        } = self;
        backend.scope(|backend| {
            for (kind, prepared, stored) in programs.iter_mut() {
                let walk = Walk::new(plan, *kind, prepared);
                for value in stored.timesteps.drain(..).flatten().flatten() {
                    backend.recycle(value);
                }
                for &timestep in timesteps {
                    let input = walk.timestep(timestep);
                    let values = walk.stage(backend, Stage::Timestep, "timestep", &input)?;
                    stored.timesteps.push(values);
                }
            }
            Ok::<(), RuntimeError>(())
        })?;
        self.timesteps = Some(timesteps.len());
        Ok(())
    }

    pub(super) fn set_context(&mut self, context: &HostTensor) -> Result<(), RuntimeError> {
        check_context(&self.plan, context)?;
        self.has_context = false;
        let Walker {
            plan,
            backend,
            programs,
            ..
        } = self;
        backend.scope(|backend| {
            for (kind, prepared, stored) in programs.iter_mut() {
                for value in stored.prompt.drain(..).flatten() {
                    backend.recycle(value);
                }
                stored.prompt = Walk::new(plan, *kind, prepared).stage(backend, Stage::Prompt, "context", context)?;
                if !stored.prompt.iter().flatten().all(|value| backend.is_finite(value)) {
                    return Err(RuntimeError::prompt_not_finite(false));
                }
            }
            Ok::<(), RuntimeError>(())
        })?;
        self.has_context = true;
        Ok(())
    }

    /// One step of a program: `[S, C, H, W]` to `[N, C, H, W]`.
    pub(super) fn step(&mut self, kind: ProgramKind, input: StepInput<'_>) -> Result<Vec<f32>, RuntimeError> {
        check_step(&self.plan, self.timesteps, self.has_context, kind, &input)?;
        let start = Instant::now();
        let Walker {
            plan,
            backend,
            programs,
            measures_nodes,
            ..
        } = self;
        let found = programs.iter().find(|(known, ..)| *known == kind);
        let (_, prepared, stored) = found.ok_or(RuntimeError::NoProgram(kind.name()))?;
        let walk = Walk::new(plan, kind, prepared);
        let measures_nodes = *measures_nodes;
        let mut report = StepReport::default();
        let step = input.step;
        let prediction = backend.scope(|backend| walk.step(backend, stored, input, measures_nodes, &mut report))?;
        if prediction.iter().any(|value| !value.is_finite()) {
            return Err(RuntimeError::not_finite(step, kind, false));
        }
        report.time = start.elapsed();
        self.report = report;
        Ok(prediction)
    }
}

/// One program on the way through its nodes.
pub(super) struct Walk<'a> {
    plan: &'a Plan,
    program: &'a Program,
    prepared: &'a Prepared,
}

impl<'a> Walk<'a> {
    pub(super) fn new(plan: &'a Plan, kind: ProgramKind, prepared: &'a Prepared) -> Self {
        let program = plan.programs.get(kind).expect("prepared from the same plan");
        Walk {
            plan,
            program,
            prepared,
        }
    }

    /// A timestep in the shape and type that the model declares: a scalar or one per image, float or integer.
    pub(super) fn timestep(&self, timestep: f32) -> HostTensor {
        let declared = self
            .program
            .inputs
            .get("timestep")
            .map(|id| &self.program.values[id.index()]);
        let (dtype, shape) = declared.map_or((DType::F32, Shape::scalar()), |value| {
            (value.dtype, value.shape.clone())
        });
        Constant::filled(dtype, shape, f64::from(timestep)).materialize()
    }

    /// Runs a stage before the steps and returns the values that later stages read.
    pub(super) fn stage<B: Backend>(
        &self,
        backend: &mut B,
        stage: Stage,
        input: &str,
        tensor: &HostTensor,
    ) -> Result<Vec<Option<B::Value>>, RuntimeError> {
        let mut values = Values {
            step: self.empty(),
            prompt: &[],
            timestep: &[],
        };
        if let Some(id) = self.program.inputs.get(input) {
            values.step[id.index()] = Some(backend.import(tensor)?);
        }
        let mut report = StepReport::default();
        for &index in self.prepared.stage(stage) {
            let wanted = self.program.nodes[index].kernel.outputs();
            let call = self.call(index, &values, 0, None, None);
            let outputs = backend.run(
                &Call {
                    wanted: &wanted,
                    ..call
                },
                &mut report,
            )?;
            store(&wanted, outputs, &mut values);
        }
        for (index, value) in values.step.iter_mut().enumerate() {
            if !self.prepared.kept.contains(&ValueId(index as u32))
                && let Some(value) = value.take()
            {
                backend.recycle(value);
            }
        }
        Ok(values.step)
    }

    fn step<B: Backend>(
        &self,
        backend: &mut B,
        stored: &Stored<B::Value>,
        mut input: StepInput<'_>,
        measures_nodes: bool,
        report: &mut StepReport,
    ) -> Result<Vec<f32>, RuntimeError> {
        let mut values = Values {
            step: self.empty(),
            prompt: &stored.prompt,
            timestep: &stored.timesteps[input.step],
        };
        let sample = self.program.inputs["sample"];
        values.step[sample.index()] =
            Some(backend.import_planes(input.sample, self.plan.samples(), self.plan.latent[0]));
        for table in ControlInput::ALL {
            if let (Some(id), Some(control)) = (self.program.inputs.get(table.name()), input.control) {
                values.step[id.index()] = Some(backend.import(control.table(table))?);
            }
        }
        for &index in self.prepared.stage(Stage::Step) {
            let start = measures_nodes.then(Instant::now);
            let macs = report.macs;
            self.node(backend, index, &mut values, &mut input, report)?;
            if let Some(start) = start {
                let node = &self.program.nodes[index];
                report.nodes.push(NodeTime {
                    node: node.name.clone(),
                    kernel: node.kernel.name(),
                    time: start.elapsed(),
                    macs: report.macs - macs,
                });
            }
        }
        self.copy_untouched(&mut input)?;
        let prediction = self.prediction(backend, &values, input.binding)?;
        values
            .step
            .into_iter()
            .flatten()
            .for_each(|value| backend.recycle(value));
        Ok(prediction)
    }

    fn node<B: Backend>(
        &self,
        backend: &mut B,
        index: usize,
        values: &mut Values<'_, B::Value>,
        input: &mut StepInput<'_>,
        report: &mut StepReport,
    ) -> Result<(), RuntimeError> {
        let node = &self.program.nodes[index];
        if let Kernel::WriteSlot { input: value, slot } = node.kernel {
            let wanted = input.wants(slot);
            if let Some(sink) = input.sink.as_deref_mut().filter(|_| wanted) {
                let call = self.call(index, values, input.step, None, None);
                let shape = self.plan.slots[slot.index()].shape.clone();
                sink.put(input.step, slot, backend.export(call.value(value)?, shape)?)?;
            }
        } else {
            let wanted = self.wanted(index, input);
            if !wanted.is_empty() {
                let call = self.call(index, values, input.step, input.binding, input.source);
                let outputs = backend.run(
                    &Call {
                        wanted: &wanted,
                        ..call
                    },
                    report,
                )?;
                store(&wanted, outputs, values);
            }
            self.remember(backend, index, values, input)?;
        }
        for id in &self.prepared.release[index] {
            if let Some(value) = values.step[id.index()].take() {
                backend.recycle(value);
            }
        }
        Ok(())
    }

    fn call<'c, V>(
        &'c self,
        index: usize,
        values: &'c Values<'c, V>,
        step: usize,
        binding: Option<&'c Binding>,
        source: Option<&'c dyn SlotSource>,
    ) -> Call<'c, V> {
        Call {
            plan: self.plan,
            program: self.program,
            node: &self.program.nodes[index],
            step,
            binding,
            source,
            table: binding
                .and_then(|binding| binding.table(index))
                .or(self.prepared.tables[index].as_ref()),
            values,
            wanted: &[],
        }
    }

    /// The outputs of a node without those that only a recording reads which does not want them.
    fn wanted(&self, index: usize, input: &StepInput<'_>) -> Vec<ValueId> {
        let mut outputs = self.program.nodes[index].kernel.outputs();
        outputs.retain(|id| match self.prepared.recorded_only.get(id) {
            Some(slots) => slots.iter().any(|&slot| input.wants(slot)),
            None => true,
        });
        outputs
    }

    fn empty<V>(&self) -> Vec<Option<V>> {
        std::iter::repeat_with(|| None)
            .take(self.program.values.len())
            .collect()
    }

    /// Records the slots whose edited value is known after this node.
    fn remember<B: Backend>(
        &self,
        backend: &mut B,
        index: usize,
        values: &Values<'_, B::Value>,
        input: &mut StepInput<'_>,
    ) -> Result<(), RuntimeError> {
        let (Some(sink), Some(source)) = (input.sink.as_deref_mut(), input.source) else {
            return Ok(());
        };
        for &(slot, id) in &self.prepared.remembered[index] {
            if !sink.wants(input.step, slot) {
                continue;
            }
            let call = self.call(index, values, input.step, input.binding, input.source);
            let value = call.value(id)?;
            let edited = match call.active_of(id)? {
                Some(active) => backend.replace_rows(&recorded(self.plan, source, input.step, slot)?, value, active)?,
                None => backend.export(value, self.plan.slots[slot.index()].shape.clone())?,
            };
            sink.put(input.step, slot, edited)?;
        }
        Ok(())
    }

    /// Slots that the edit does not change stand in the edited image as in its base.
    fn copy_untouched(&self, input: &mut StepInput<'_>) -> Result<(), RuntimeError> {
        let (Some(sink), Some(source)) = (input.sink.as_deref_mut(), input.source) else {
            return Ok(());
        };
        for &slot in &self.prepared.untouched {
            if !sink.wants(input.step, slot) {
                continue;
            }
            sink.put(input.step, slot, recorded(self.plan, source, input.step, slot)?)?;
        }
        Ok(())
    }

    fn prediction<B: Backend>(
        &self,
        backend: &B,
        values: &Values<'_, B::Value>,
        binding: Option<&Binding>,
    ) -> Result<Vec<f32>, RuntimeError> {
        let id = self.program.outputs["prediction"];
        let missing = || RuntimeError::plan("prediction", "it is not computed");
        let value = values.get(id).ok_or_else(missing)?;
        let active = match (self.program.values[id.index()].extent, binding) {
            (Extent::Active(level), Some(binding)) => Some(Active::Packed(binding.active(level))),
            (Extent::Active(_), None) => return Err(missing()),
            (Extent::Full, Some(binding)) => Some(Active::Whole(binding.active(0))),
            (Extent::Full, None) => None,
        };
        Ok(backend.export_planes(value, self.plan.batch, self.plan.latent[0], active))
    }
}

fn store<V>(wanted: &[ValueId], outputs: Vec<V>, values: &mut Values<'_, V>) {
    for (id, value) in wanted.iter().zip(outputs) {
        values.step[id.index()] = Some(value);
    }
}
