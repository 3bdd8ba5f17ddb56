//! The CUDA backend: a program is a graph of launches, captured once for a size of mask and replayed for every step.
//!
//! Values of the step never leave the device. What depends on the timestep or the prompt only is computed on the host
//! before the first step. Slots are one block per step; kernels reach them through a table of three addresses that
//! changes from step to step, so that a graph does not.

mod assemble;
mod boxed;
mod captured;
mod dense;
mod driver;
mod early;
mod fetch;
mod folded;
mod islands;
mod later;
mod lists;
mod memory;
mod network;
mod predict;
mod prompt;
mod run_memory;
mod sampled;
mod save;
mod slots;
mod step;
mod tier;
mod weights;

use std::collections::HashMap;
use std::sync::Arc;

use fisec_kernels::cuda::{Arch, Gpu};
use fisec_plan::{Bundle, ControlInput, NetworkKind, Plan, ProgramKind, SlotKind, Stage};
use fisec_tensor::{DType, HostTensor};

use crate::executor::{Prepared, StepReport, check_context};
use crate::finite::bytes_are_finite;
use crate::ort::OnnxRuntime;
use crate::{Binding, RuntimeError};
use captured::Captured;
use driver::{Buffer, Device, Event, Functions};
pub(crate) use early::EarlyInput;
use early::{EarlyValues, Schedule};
use fetch::Fetch;
use folded::{FoldedNorms, folded};
use islands::Islands;
use later::Waiting;
pub(crate) use network::NetworkProgram;
use network::Shared;
pub use predict::{DeviceMemory, device_memory};
use prompt::Prompt;
use run_memory::RunMemory;
use save::Save;
use slots::{SlotBlock, half_rows_bytes};
use step::Variant;
use tier::Tier;
use weights::Weights;

/// Graphs kept for other sizes of masks.
const MOST_CAPTURED: usize = 12;

/// A plan on a device.
pub(crate) struct Engine {
    plan: Plan,
    gpu: Gpu,
    prepared: HashMap<ProgramKind, Prepared>,
    norms: HashMap<ProgramKind, FoldedNorms>,
    islands: Islands,
    // graphs go before the memory that they use
    captured: Vec<Captured>,
    functions: Arc<Functions>,
    /// what networks beside the denoiser are opened with
    shared: Arc<Shared>,
    weights: Weights,
    slots: SlotBlock,
    tier: Tier,
    waiting: Waiting,
    prompt_values: EarlyValues,
    prompt: Buffer,
    has_prompt: bool,
    /// fills `prompt` on the device, where the plan has a program for it
    prompt_program: Option<Prompt>,
    timestep_values: EarlyValues,
    schedule: Option<Schedule>,
    /// values of whatever program runs
    values: Buffer,
    /// slots of a step that are not on the device otherwise: read, written
    staging: [Option<Buffer>; 2],
    /// the same for steps that run without the host in between
    fetch: Option<Fetch>,
    run_memory: Option<RunMemory>,
    save: Option<Save>,
    sample: Buffer,
    /// tables of a controlled step
    control: Buffer,
    table: Buffer,
    /// around a step's work
    around: [Event; 2],
    device: Arc<Device>,
    measures_nodes: bool,
    report: StepReport,
}

/// The CUDA device of this machine in words.
///
/// # Errors
/// Says what is missing.
pub fn describe() -> Result<String, RuntimeError> {
    let device = Device::open()?;
    let (major, minor) = device.capability();
    let (free, total) = device.memory()?;
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Ok(format!(
        "{}, compute capability {major}.{minor}, {:.1} of {:.1} GiB free",
        device.name(),
        gib(free),
        gib(total)
    ))
}

impl Engine {
    pub(crate) fn new(bundle: Bundle, onnx_runtime: Option<OnnxRuntime>, threads: usize) -> Result<Self, RuntimeError> {
        let plan = bundle.plan().clone();
        let other = || RuntimeError::Target(plan.target.clone());
        let arch = Arch::of_target(&plan.target).ok_or_else(other)?;
        let half = |slot: &fisec_plan::Slot| slot.kind == SlotKind::Stats || slot.dtype == DType::F16;
        if !plan.slots.iter().all(half) {
            return Err(RuntimeError::plan("slots", "a device records maps in f16"));
        }
        let device = Device::open()?;
        let (major, minor) = device.capability();
        if !arch.runs_on(major, minor) {
            return Err(RuntimeError::OtherDevice {
                target: plan.target.clone(),
                device: device.name().to_owned(),
                major,
                minor,
            });
        }
        let multiprocessors = device.multiprocessors();
        let prepared: HashMap<ProgramKind, Prepared> = plan
            .programs
            .iter()
            .map(|(kind, program)| (kind, Prepared::new(&plan, kind, program)))
            .collect();
        let cubins = plan.modules.iter().map(|(name, file)| {
            let path = bundle.path(file);
            let image = fisec_files::read(&path, fisec_files::LARGEST_TEXT)
                .map_err(|error| RuntimeError::Store(format!("{}: {error}", path.display())))?;
            Ok((name.clone(), image))
        });
        let functions = Arc::new(Functions::load(&device, cubins)?);
        let nodes = plan.programs.iter().flat_map(|(_, program)| &program.nodes);
        let (norms, folds) = folded(&plan, &prepared);
        let weights = Weights::upload(&device, &functions, &bundle, nodes, &folds)?;
        let gpu = Gpu { arch, multiprocessors };
        let shared = Arc::new(Shared {
            bundle: bundle.clone(),
            onnx_runtime: onnx_runtime.clone(),
            threads,
            gpu,
            functions: Arc::clone(&functions),
            device: Arc::clone(&device),
        });
        let islands = Islands::new(&device, &bundle, onnx_runtime.as_ref(), threads)?;
        let slots = SlotBlock::new(&plan);
        let prompt_values = EarlyValues::new(&plan, &prepared, Stage::Prompt);
        let timestep_values = EarlyValues::new(&plan, &prepared, Stage::Timestep);
        let tables = ControlInput::ALL.map(|table| half_rows_bytes(&table.dims(plan.context[0]).into()));
        let control_bytes = tables.iter().sum();
        // for all images, also where one stands for all: `latent_update` writes both halves
        let latents = plan.batch * plan.latent[1] * plan.latent[2];
        let sample = device.allocate(latents * fisec_plan::cuda::padded(plan.latent[0]) * 2)?;
        let prompt = device.allocate(prompt_values.bytes())?;
        Ok(Engine {
            prepared,
            norms,
            captured: Vec::new(),
            functions,
            weights,
            tier: Tier::new(&device)?,
            waiting: Waiting::default(),
            slots,
            prompt_program: Prompt::open(&shared, &prompt_values, prompt.address())?,
            prompt,
            prompt_values,
            has_prompt: false,
            shared,
            timestep_values,
            schedule: None,
            values: device.allocate(0)?,
            staging: [None, None],
            fetch: None,
            run_memory: None,
            save: None,
            sample,
            control: device.allocate(control_bytes)?,
            table: device.allocate(assemble::table::ENTRIES * size_of::<u64>())?,
            around: [Event::new(&device)?, Event::new(&device)?],
            device,
            measures_nodes: false,
            report: StepReport::default(),
            islands,
            gpu,
            plan,
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A network beside the denoiser; `None` where the plan has no program for it.
    pub(crate) fn network(&self, kind: NetworkKind) -> Result<Option<NetworkProgram>, RuntimeError> {
        NetworkProgram::open(&self.shared, kind)
    }

    pub(crate) fn measure_nodes(&mut self, on: bool) {
        self.measures_nodes = on;
    }

    pub(crate) fn last_step(&self) -> &StepReport {
        &self.report
    }

    pub(crate) fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), RuntimeError> {
        if self.schedule.as_ref().is_some_and(|known| known.timesteps == timesteps) {
            return Ok(());
        }
        self.device.enter()?;
        self.schedule = None;
        let blocks = timesteps.iter().map(|&timestep| {
            let input = EarlyInput::Timestep(timestep);
            self.timestep_values
                .compute(&mut self.islands.host, &self.plan, &self.prepared, &input)
        });
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let stride = self.timestep_values.bytes();
        self.schedule = Some(Schedule::upload(&self.device, timesteps, &blocks, stride)?);
        self.reserve_run(timesteps.len())
    }

    pub(crate) fn set_context(&mut self, context: &HostTensor) -> Result<(), RuntimeError> {
        check_context(&self.plan, context)?;
        self.device.enter()?;
        if let Some(program) = &mut self.prompt_program {
            program.run(&self.plan, &mut self.islands, context)?;
        } else {
            let input = EarlyInput::Context(context);
            let values = &self.prompt_values;
            let block = values.compute(&mut self.islands.host, &self.plan, &self.prepared, &input)?;
            if !bytes_are_finite(DType::F16, &block) {
                return Err(RuntimeError::prompt_not_finite(true));
            }
            self.prompt.write(0, &block)?;
        }
        self.has_prompt = true;
        Ok(())
    }

    /// Bytes of the device that are in use, by whomever. Nothing is freed between steps, so that it is the most so far.
    pub(crate) fn memory_in_use(&self) -> Result<usize, RuntimeError> {
        self.device.enter()?;
        let (free, total) = self.device.memory()?;
        Ok(total - free)
    }

    /// Why a part of the steps runs on the host; said once.
    pub(crate) fn take_refusal(&mut self) -> Option<String> {
        self.islands.take_refusal()
    }

    pub(crate) fn prepare(&mut self, kind: ProgramKind) -> Result<(), RuntimeError> {
        self.device.enter()?;
        let program = self
            .plan
            .programs
            .get(kind)
            .ok_or(RuntimeError::NoProgram(kind.name()))?;
        self.islands.prepare(&self.plan, program)?;
        match kind {
            // its graph depends on the mask
            ProgramKind::Edit => Ok(()),
            dense => self.graph(dense, Variant::default(), &[]).map(drop),
        }
    }

    /// Assembles and captures what sparse steps inside a mask run.
    pub(crate) fn prepare_edit(&mut self, binding: &Binding, remember: bool) -> Result<(), RuntimeError> {
        self.device.enter()?;
        let variant = Variant { remember, maps: false };
        self.graph(ProgramKind::Edit, variant, binding.levels()).map(drop)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Memory is freed with the context current; an error here has nobody to go to.
        let _ = self.device.enter();
    }
}
