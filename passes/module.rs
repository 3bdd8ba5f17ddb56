//! The compiler's middle: a dense graph in, three programs out, and their lowering to a plan.

use std::collections::{BTreeSet, HashMap};

use fisec_ir::{Demand, Graph, LevelId, SlotId as IrSlot, ValueType};
use fisec_plan::{
    BundleWriter, CompileOptions, FORMAT, Halos, Level, Norm, Plan, Programs, Remainder, Samples, Slot, SlotKind,
};
use fisec_tensor::DType;
use thiserror::Error;

use crate::analysis::{Levels, Places, REFERENCE_SHARES, representative_mask};
use crate::canonical::merge_equal;
use crate::control::{Controlled, cross_attentions};
use crate::cost::{CostTable, Predictor, pooled_masks};
use crate::fuse::{fold_upsample, fuse_conv_epilogue, fuse_conv_prologue, fuse_linear, sink_views};
use crate::lower::{
    DenseLevels, LowerError, PlanBuilder, ProgramLowering, WeightTarget, lower_network, lower_program, lower_prompt,
    slot_demands,
};
use crate::native::{record_coefficients, spell_norms};
use crate::programs::{edit, guide, record};
use crate::roles::{Roles, RolesError};
use crate::share_halves::share_halves;
use crate::sparse::{Sparsity, compute_rings};
use crate::widen_floats::widen_floats;
use crate::{Budget, Network, PassError, Pipeline};

/// Latents of one image, at most: 8192×8192 pixels of Stable Diffusion. Masks and index tables have an entry for each.
pub const LARGEST_LATENTS: usize = 1 << 20;

/// Bytes of the largest value: no machine that a plan is for holds a larger one beside everything else.
const LARGEST_VALUE: usize = 64 << 30;

/// Latents that three levels can halve without a remainder.
const EVEN: usize = 8;

/// The programs of a model, before lowering.
#[derive(Clone, Debug)]
pub struct Module {
    /// names of the model's inputs
    pub roles: Roles,
    /// where values are sparse and what slots hold
    pub sparsity: Sparsity,
    /// why each level is sparse or dense
    pub level_reasons: Vec<String>,
    /// share of active latents above which a dense step is predicted to be faster
    pub break_even: f64,
    /// everything, writing slots
    pub record: Graph,
    /// everything, under control of recorded attention
    pub guide: Graph,
    /// active pixels only; absent when no level pays
    pub edit: Option<Graph>,
    /// the attentions under control
    pub controlled: Vec<Controlled>,
}

/// A model cannot be compiled.
#[derive(Debug, Error)]
pub enum CompileError {
    /// a pass failed
    #[error(transparent)]
    Pass(#[from] PassError),
    /// the inputs are not those of a denoiser
    #[error(transparent)]
    Roles(#[from] RolesError),
    /// the graph has a cycle
    #[error(transparent)]
    Graph(#[from] fisec_ir::GraphError),
    /// a program cannot be lowered
    #[error(transparent)]
    Lower(#[from] LowerError),
}

impl Module {
    /// Builds the programs of a raised graph. `None` when the pipeline's listener stopped it.
    ///
    /// # Errors
    /// Fails when the graph is not a text-conditioned denoiser, when its prediction cannot be told from other outputs, or
    /// when a pass finds it inconsistent.
    pub fn build(
        mut dense: Graph,
        options: &CompileOptions,
        table: &CostTable,
        pipeline: &mut Pipeline<'_>,
    ) -> Result<Option<Module>, CompileError> {
        has_plausible_size(&dense)?;
        has_plausible_values(&dense)?;
        fits_its_size(&dense)?;
        dense.set_name("guide");
        pipeline.run("widen_floats", &mut dense, widen_floats)?;
        pipeline.run("fold_upsample", &mut dense, fold_upsample)?;
        let roles = Roles::of(&dense)?;
        roles.keep_prediction(&mut dense, None)?;
        if options.samples == Samples::Shared {
            // before anything is marked or recorded: slots hold one image where one is computed
            pipeline.run("share_halves", &mut dense, |graph| share_halves(graph, &roles))?;
        }
        let stages = roles.stages(&dense)?;
        let sample = dense
            .input(&roles.sample)
            .map(|value| dense.value_type(value).shape.clone());
        let levels = Levels::of(&dense, &sample.unwrap_or_default());
        let places = Places::of(&dense, &roles, &levels)?;
        let predictor = Predictor::new(&dense, &stages, &levels, &places, table);
        let (best, times) = predictor.choose_levels();
        let sparse_levels = options.sparse_levels.unwrap_or(best).min(levels.sizes().len());
        let level_reasons = reasons(&levels, sparse_levels, options.sparse_levels.is_some(), &times);
        let break_even = predictor.break_even(sparse_levels);
        let mut sparsity = Sparsity {
            levels,
            places,
            sparse_levels,
            rings: Default::default(),
            recorded: Default::default(),
        };
        // live statistics are of whole maps, which are recorded then
        if options.halos == Halos::Computed && options.norm == Norm::Frozen {
            sparsity.rings = compute_rings(&dense, &sparsity);
        }
        let edit = edit(&dense, &mut sparsity, &stages, options.norm, options.keys, pipeline)?;
        if pipeline.is_stopped() {
            return Ok(None);
        }
        let mut record = record(&dense, &edit, &sparsity)?;
        let edit = (sparse_levels > 0).then_some(edit);
        let attentions = cross_attentions(&dense, &stages, &sparsity.places, options.control_levels);
        let (guide, controlled) = guide(dense, &mut record, &attentions, pipeline)?;
        if pipeline.is_stopped() {
            return Ok(None);
        }
        Ok(Some(Module {
            roles,
            sparsity,
            level_reasons,
            break_even,
            record,
            guide,
            edit,
            controlled,
        }))
    }

    /// ONNX name of the output that is the prediction.
    pub fn prediction(&self) -> String {
        let outputs = self.guide.outputs();
        outputs.first().map_or_else(String::new, |(_, name)| (*name).to_owned())
    }

    /// Latent channels, rows and columns.
    pub fn latent(&self) -> [usize; 3] {
        let sample = self.guide.input(&self.roles.sample);
        let shape = sample.map(|value| self.guide.value_type(value).shape.clone());
        shape.map_or([0; 3], |shape| [shape[1], shape[2], shape[3]])
    }

    /// Brings what is dense into the form of a device that runs it without ONNX Runtime.
    ///
    /// # Errors
    /// Fails when a pass leaves an inconsistent graph: a defect.
    pub fn make_native(&mut self, pipeline: &mut Pipeline<'_>) -> Result<(), CompileError> {
        let Module {
            record, guide, edit, ..
        } = self;
        for graph in [&mut *record, &mut *guide].into_iter().chain(&mut *edit) {
            pipeline.run("spell_norms", graph, spell_norms)?;
            // a norm and the slot of its statistics compute the same
            pipeline.run("merge_equal", graph, merge_equal)?;
        }
        if let Some(edit) = edit {
            let changes = record_coefficients(&mut [&mut *record, &mut *guide], edit)?;
            pipeline.finished("record_coefficients", record, changes)?;
            pipeline.finished("record_coefficients", guide, changes)?;
            pipeline.finished("record_coefficients", edit, changes)?;
        }
        for graph in [&mut *record, &mut *guide].into_iter().chain(&mut *edit) {
            pipeline.run("fuse_conv_prologue", graph, fuse_conv_prologue)?;
            pipeline.run("fuse_conv_epilogue", graph, fuse_conv_epilogue)?;
            pipeline.run("sink_views", graph, sink_views)?;
            pipeline.run("fuse_linear", graph, fuse_linear)?;
        }
        Ok(())
    }

    /// Lowers the programs, and the `networks` beside them, into `writer` and returns the plan; the caller adds the model's name, hash and pipeline.
    ///
    /// # Errors
    /// Fails when the bundle cannot be written, or on an operator without a kernel.
    pub fn lower(
        &self,
        target: &str,
        options: &CompileOptions,
        table: &CostTable,
        networks: &[Network],
        writer: &mut BundleWriter,
    ) -> Result<Plan, CompileError> {
        let (height, width) = self.sparsity.levels.sizes().first().copied().unwrap_or((1, 1));
        let masks = REFERENCE_SHARES
            .map(|share| pooled_masks(representative_mask(height, width, share), &self.sparsity.levels));
        let context = ProgramLowering {
            roles: &self.roles,
            masks: &masks,
            table,
            target: WeightTarget::of(target),
            remainder: (options.remainder == Remainder::OnnxRuntime).then_some(DenseLevels {
                levels: &self.sparsity.levels,
                sparse: self.sparsity.sparse_levels,
            }),
            levels: self.sparsity.levels.sizes().len(),
            rings: &self.rings(),
        };
        let budget = Budget::of(
            [&self.record]
                .into_iter()
                .chain(networks.iter().map(|network| &network.graph)),
        );
        let mut builder = PlanBuilder::new(writer, context.target, budget);
        let programs = Programs {
            record: lower_program(&self.record, &context, &mut builder)?,
            guide: lower_program(&self.guide, &context, &mut builder)?,
            edit: self
                .edit
                .as_ref()
                .map(|edit| lower_program(edit, &context, &mut builder))
                .transpose()?,
        };
        let prompt = lower_prompt(table, &mut builder)?;
        let networks = networks
            .iter()
            .map(|network| Ok((network.kind, lower_network(&network.graph, table, &mut builder)?)))
            .collect::<Result<_, LowerError>>()?;
        let islands = builder.into_islands();
        let input = |name: &str| {
            let shape = self
                .guide
                .input(name)
                .map(|value| self.guide.value_type(value).shape.clone());
            shape.unwrap_or_default()
        };
        let (sample, text) = (input(&self.roles.sample), input(&self.roles.context));
        Ok(Plan {
            format: FORMAT,
            fisec: env!("CARGO_PKG_VERSION").into(),
            target: target.into(),
            model: String::new(),
            model_hash: String::new(),
            batch: text[0],
            latent: [sample[1], sample[2], sample[3]],
            context: [text[1], text[2]],
            options: CompileOptions {
                sparse_levels: Some(self.sparsity.sparse_levels),
                control_levels: Some(self.control_levels()),
                ..options.clone()
            },
            levels: self.levels(),
            slots: self.slots(options.cache_dtype),
            weights: Vec::new(),
            islands,
            programs,
            networks,
            prompt,
            break_even: self.break_even,
            modules: Default::default(),
            pipeline: None,
            files: Default::default(),
        })
    }

    /// Levels whose rings are computed.
    fn rings(&self) -> Vec<LevelId> {
        let nodes = self.edit.iter().flat_map(|edit| {
            let outputs = edit.ids().into_iter().flat_map(|id| edit.node(id).outputs());
            outputs
                .filter(|output| output.extent.ring() > 0)
                .filter_map(|output| output.extent.level())
        });
        nodes.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn levels(&self) -> Vec<Level> {
        let sizes = self.sparsity.levels.sizes().iter().zip(&self.level_reasons).enumerate();
        let resolutions = sizes.map(|(index, (&(height, width), reason))| Level {
            height,
            width,
            around: None,
            sparse: index < self.sparsity.sparse_levels,
            reason: reason.clone(),
        });
        let rings = self.rings().into_iter().map(|LevelId(level)| {
            let (height, width) = self.sparsity.levels.sizes()[level as usize];
            Level {
                height,
                width,
                around: Some(level),
                sparse: true,
                reason: "computed around the active set instead of being recorded".into(),
            }
        });
        resolutions.chain(rings).collect()
    }

    fn control_levels(&self) -> usize {
        let levels: BTreeSet<LevelId> = self.controlled.iter().map(|each| each.level).collect();
        levels.len()
    }

    fn slots(&self, cache_dtype: DType) -> Vec<Slot> {
        let demands = self.edit.as_ref().map(slot_demands).unwrap_or_default();
        let maps: HashMap<IrSlot, LevelId> = self.controlled.iter().map(|each| (each.slot, each.level)).collect();
        let kind = |id: IrSlot, level: Option<LevelId>| {
            if let Some(LevelId(level)) = maps.get(&id).copied() {
                return SlotKind::Maps { level };
            }
            match (level, demands.get(&id)) {
                (None, _) => SlotKind::Stats,
                (Some(LevelId(level)), Some(&Demand::Halo(radius))) => SlotKind::Halo { level, radius },
                (Some(LevelId(level)), _) => SlotKind::Full { level },
            }
        };
        let slots = self.record.slots().iter().enumerate();
        slots
            .map(|(index, slot)| {
                let kind = kind(IrSlot(index as u32), slot.level);
                // statistics are few and feed a division: they stay exact
                let dtype = if slot.level.is_none() { DType::F32 } else { cache_dtype };
                let shape = slot.value_type.shape.channels_last();
                let bytes = (shape.elements() * dtype.size()) as u64;
                Slot {
                    name: slot.name.trim_start_matches('/').to_owned(),
                    kind,
                    dtype,
                    shape,
                    bytes,
                }
            })
            .collect()
    }
}

fn reasons(levels: &Levels, sparse_levels: usize, asked: bool, times: &[f64]) -> Vec<String> {
    let ms = |count: usize| times[count] / 1e6;
    let sizes = levels.sizes().iter().enumerate();
    sizes
        .map(|(index, _)| {
            let sparse = index < sparse_levels;
            if asked {
                let asked = if sparse { "sparse" } else { "dense" };
                return format!("{asked} as asked for");
            }
            let (with, without) = (ms(index + 1), ms(index));
            if sparse {
                format!("predicted step at 15 %: {with:.1} ms with this level sparse, {without:.1} ms without")
            } else {
                format!("dense is predicted to be faster: {without:.1} ms a step at 15 % against {with:.1} ms")
            }
        })
        .collect()
}

/// Refuses more latents than [`LARGEST_LATENTS`], before a mask of them is made.
fn has_plausible_size(dense: &Graph) -> Result<(), PassError> {
    let sample = Roles::of(dense).ok().and_then(|roles| dense.input(&roles.sample));
    let Some((value, &[_, _, height, width])) = sample.map(|value| (value, &dense.value_type(value).shape[..])) else {
        return Ok(());
    };
    let latents = height.saturating_mul(width);
    if latents <= LARGEST_LATENTS {
        return Ok(());
    }
    Err(PassError {
        pass: "import",
        node: dense.origin(value.node).label().to_owned(),
        message: format!(
            "the model takes {width}x{height} latents, {latents} of them; a plan has at most {LARGEST_LATENTS}"
        ),
        hint: Some("export it for a smaller image, or with dynamic axes".into()),
    })
}

/// Refuses values of more than [`LARGEST_VALUE`], whatever computes them.
fn has_plausible_values(dense: &Graph) -> Result<(), PassError> {
    let bytes = |value: &ValueType| value.shape.elements().saturating_mul(value.dtype.size());
    for id in dense.ids() {
        let node = dense.node(id);
        let Some(large) = node.outputs().iter().find(|value| bytes(value) > LARGEST_VALUE) else {
            continue;
        };
        return Err(PassError {
            pass: "import",
            node: node.origin().label().to_owned(),
            message: format!(
                "a result is {large}: {} GB, and the largest value of a plan has {}",
                bytes(large) / 1_000_000_000,
                LARGEST_VALUE / 1_000_000_000
            ),
            hint: Some("compile for a smaller size, or export a model that does not expand its values that far".into()),
        });
    }
    Ok(())
}

/// Refuses sizes at which the maps of the model do not meet: exporters that saw even sizes write upsampling by a factor.
fn fits_its_size(dense: &Graph) -> Result<(), PassError> {
    let sample = Roles::of(dense).ok().and_then(|roles| dense.input(&roles.sample));
    let Some([_, _, height, width]) = sample.map(|value| &dense.value_type(value).shape[..]) else {
        return Ok(());
    };
    let halves = height.is_multiple_of(EVEN) && width.is_multiple_of(EVEN);
    if halves || fisec_ir::verify::verify(dense).is_ok() {
        return Ok(());
    }
    Err(PassError {
        pass: "import",
        node: "the first concatenation with a skip".into(),
        message: format!(
            "the model does not work at {width}x{height} latents: upsampled maps are larger than their skips"
        ),
        hint: Some("its upsampling factors are fixed: give a width and height that are multiples of 64 pixels".into()),
    })
}
