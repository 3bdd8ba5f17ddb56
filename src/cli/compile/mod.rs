//! `fisec compile`: a model to a plan.

pub mod cubins;
mod dump;
mod files;
pub mod import;
mod index;
mod model;
mod networks;
mod parts;
mod pipeline;
mod place;
mod signature;
mod summary;
mod unknown;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use fisec_ir::{Graph, Op, text};
use fisec_onnx::{Bindings, Import};
use fisec_passes::cost::CostTable;
use fisec_passes::{LARGEST_LATENTS, Module, Network, Pipeline, Roles};
use fisec_plan::{BundleWriter, CompileOptions, Halos, Keys, Norm, Plan, Remainder, Samples};
use fisec_tensor::DType;

use super::console::Console;
use super::failure::Failure;
use super::memory::PeakMemory;
use super::{interrupt, numbers, output};
use dump::PassDump;
pub use dump::Watcher;
pub use import::StepSizes;
pub use model::Model;

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  fisec compile models/demo -o demo.plan\n  fisec compile models/demo --size 768x512 --norm live"
)]
pub struct Arguments {
    /// Pipeline folder (diffusers/optimum ONNX layout), or one U-Net's .onnx file
    model: PathBuf,
    /// Where the plan goes [default: the model's name with `.plan`]
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    choices: Choices,
    /// Which files to take of parts that have several, as diffusers names them: `fp16` for model.fp16.onnx
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Write IR text after this pass, or after all of them
    #[arg(long, value_name = "PASS|all", requires = "dump_folder")]
    dump_after: Option<String>,
    /// Folder for `--dump-after`
    #[arg(short = 'O', long, value_name = "DIR")]
    dump_folder: Option<PathBuf>,
    /// Stop after this many passes; no plan is written
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    /// Cost table of the machine that will run the plan, from `fisec bench --calibrate`
    #[arg(long, value_name = "TABLE.json")]
    costs: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What changes the plan.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// Pixels: one number for a square, or WIDTHxHEIGHT [default: the model's own]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_size)]
    size: Option<ImageSize>,
    /// Images per step: 2 with guidance, 1 without
    #[arg(long, default_value_t = 2, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: u16,
    /// Latents of a step's images: one under several texts, as guidance has it, or one each [default: shared]
    #[arg(long, value_enum)]
    samples: Option<SamplesChoice>,
    /// What a block's second convolution reads around the edited region: recorded values, or computed ones where those are
    /// cheap [default: computed for a GPU, recorded for a CPU]
    #[arg(long, value_enum)]
    halos: Option<HalosChoice>,
    /// Size of a symbolic dimension that nothing else fixes, by its symbol, or by input and axis: `--bind channels=4`,
    /// `--bind sample:1=4`; may be repeated
    #[arg(long, value_name = "NAME=SIZE", value_parser = parse_bound)]
    bind: Vec<(String, usize)>,
    /// Name of the output that is the prediction, where neither shapes nor names tell it
    #[arg(long, value_name = "OUTPUT")]
    prediction: Option<String>,
    /// Where the plan runs: cpu, cuda:sm_80, cuda:sm_90a, cuda:sm_100a
    #[arg(long, default_value = "cpu", value_parser = parse_target)]
    target: String,
    /// Keys and values of self-attention: the whole image's, or the active region's only [default: full]
    #[arg(long, value_enum)]
    kv: Option<KeysChoice>,
    /// Statistics of group norms in an edit [default: frozen]
    #[arg(long, value_enum)]
    norm: Option<NormChoice>,
    /// How many of the finest resolutions are sparse: auto, or a number [default: auto]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_levels, value_name = "auto|N")]
    sparse_levels: Option<Levels>,
    /// How many of the coarsest resolutions let an edit follow the base's cross-attention: auto (all), or a number
    /// [default: auto]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_levels, value_name = "auto|N")]
    control_levels: Option<Levels>,
    /// What computes the levels that are dense: the target's own kernels, or ONNX Runtime (always, on the CPU)
    #[arg(long, value_enum, default_value_t = RemainderChoice::Native)]
    remainder: RemainderChoice,
    /// Defaults of other work, to compare; goes with the same preset of `run`
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Element type of recorded activations: f16, f32
    #[arg(long, default_value = "f16", value_parser = parse_cache_type)]
    cache_type: DType,
}

/// Pixels.
#[derive(Clone, Copy, Debug)]
pub struct ImageSize {
    width: usize,
    height: usize,
}

/// A number of resolutions; `None`: chosen by the compiler.
#[derive(Clone, Copy, Debug)]
pub struct Levels(Option<usize>);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeysChoice {
    /// context is kept
    Full,
    /// as in the paper's Figure A1
    Masked,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HalosChoice {
    /// a slot for every block
    Recorded,
    /// more work for fewer bytes
    Computed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SamplesChoice {
    /// what comes before the text is computed once
    Shared,
    /// every image is computed by itself
    Each,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RemainderChoice {
    /// convolutions, products and attention of the target, where it has them
    Native,
    /// islands in ONNX Runtime; on a GPU through its CUDA provider
    OnnxRuntime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// FISEdit: masked keys, frozen norms, dense at 24 rows and below, no control
    Paper,
}

/// Most rows of a level that the paper's settings compute densely.
const PAPER_DENSE_ROWS: usize = 24;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NormChoice {
    /// recorded at the same step
    Frozen,
    /// recorded, corrected by what changed
    Updated,
    /// computed over the whole map
    Live,
}

/// A model on its way to a plan.
pub struct Compiled {
    pub plan: Plan,
    /// how often each operator occurs after raising
    pub recognised: BTreeMap<String, usize>,
    /// ONNX operators that stay as they are
    pub opaque: BTreeMap<String, usize>,
    pub passes: usize,
    pub took: Duration,
    /// bytes that were resident at once beside mapped files, at most
    pub memory: Option<u64>,
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    let (started, memory) = (Instant::now(), PeakMemory::start());
    let model = Model::find(&arguments.model, arguments.variant.as_deref())?;
    let target = arguments.output.clone().unwrap_or_else(|| model.default_plan());
    let target = place::of_plan(&target, &arguments.model, arguments.dump_folder.as_deref())?;
    let dump = arguments.dump_after.as_ref().zip(arguments.dump_folder.as_ref());
    let dump = dump.map(|(pass, folder)| PassDump::new(pass, folder)).transpose()?;
    let mut watcher = Watcher::new(arguments.stop_after, dump);
    let table = arguments.cost_table()?;
    let Some(compiled) = compile(&model, &arguments.choices, &table, &target, &mut watcher, console)? else {
        if interrupt::is_requested() {
            return Err(Failure::interrupted());
        }
        console.say(&format!(
            "stopped after {} passes, the last {}",
            watcher.count(),
            watcher.last()
        ));
        return watcher.finish();
    };
    watcher.finish()?;
    let compiled = Compiled {
        took: started.elapsed(),
        memory: memory.finish(),
        ..compiled
    };
    match arguments.json {
        true => output::print_json(&summary::json(&compiled, &target)),
        false => output::print(&summary::text(&compiled, &target)),
    }
}

impl Arguments {
    fn cost_table(&self) -> Result<CostTable, Failure> {
        let shipped = CostTable::shipped(&self.choices.target)
            .map_err(|error| Failure::new(error).hint("compile with `--target cpu`"))?;
        let Some(path) = &self.costs else { return Ok(shipped) };
        let text = fisec_files::read_text(path).map_err(Failure::file(path))?;
        CostTable::parse(&text).map_err(|error| {
            Failure::new(format!("{}: {error}", path.display())).hint("`fisec bench PLAN --calibrate` writes one")
        })
    }
}

/// The model's raised graph, with what the importer knows.
pub fn raise(model: &Model, choices: &Choices, watcher: &mut Watcher) -> Result<Import, Failure> {
    let (width, height) = match choices.size {
        Some(size) => (size.width, size.height),
        None => model.default_size()?,
    };
    let scale = model.vae_scale();
    if width % scale != 0 || height % scale != 0 || width == 0 || height == 0 {
        return Err(
            Failure::new(format!("{width}x{height} pixels cannot be made of latents"))
                .hint(format!("give multiples of {}, e.g. `--size 512`", scale * 8)),
        );
    }
    let latents = (height / scale).saturating_mul(width / scale);
    if latents > LARGEST_LATENTS {
        return Err(too_many_latents(width, height, latents, scale));
    }
    let sizes = StepSizes {
        batch: choices.batch.into(),
        height: height / scale,
        width: width / scale,
        // a U-Net alone takes as many as it was exported for
        tokens: model
            .fixed_tokens()
            .filter(|_| !matches!(model.parts(), Ok(Some(_))))
            .unwrap_or_else(|| model.tokens()),
    };
    let mut imported = import::import(model.unet(), &sizes.bindings(choices))?;
    import::raise_graph(&mut imported.graph, watcher)?;
    Ok(imported)
}

fn too_many_latents(width: usize, height: usize, latents: usize, scale: usize) -> Failure {
    let most = LARGEST_LATENTS.isqrt() * scale;
    Failure::new(format!(
        "{width}x{height} pixels are {latents} latents, and a plan has at most {LARGEST_LATENTS}: masks, index tables and \
         activations have an entry for each"
    ))
    .hint(format!("the largest square is `--size {most}`"))
}

/// Compiles to `target`; `None` when the watcher stopped it.
fn compile(
    model: &Model,
    choices: &Choices,
    table: &CostTable,
    target: &Path,
    watcher: &mut Watcher,
    console: &Console,
) -> Result<Option<Compiled>, Failure> {
    import::check_inputs(model.unet())?;
    let mut writer = BundleWriter::create(target)?;
    let leftovers = writer.removed_leftovers();
    if !leftovers.is_empty() {
        console.say(&output::removed_leftovers(leftovers));
    }
    let pipeline = pipeline::open(model, console)?;
    let imported = raise(model, choices, watcher)?;
    console.detail(&format!(
        "{} nodes, written by {}",
        imported.graph.len(),
        imported.producer
    ));
    if watcher.is_stopped() {
        return Ok(None);
    }
    let files = imported.model_files;
    let model_hash = thread::spawn(move || pipeline::hash(&files));
    let (recognised, opaque) = census(&imported.graph);
    let Some(module) = build(imported.graph, choices, table, watcher)? else {
        return Ok(None);
    };
    if let Some(pipeline) = &pipeline {
        pipeline.check_fit(&module)?;
    }
    let networks = networks::build(pipeline.as_ref(), &choices.target, module.latent(), watcher, console)?;
    if watcher.is_stopped() {
        return Ok(None);
    }
    let plan = module.lower(&choices.target, &choices.options(), table, &networks, &mut writer)?;
    let modules = cubins::add(&choices.target, &mut writer)?;
    writer.add_file("graph.fir", programs_text(&module, &networks).as_bytes())?;
    let plan = Plan {
        model: model.name(),
        modules,
        model_hash: model_hash.join().expect("hashing does not panic")?,
        pipeline: pipeline.map(|pipeline| pipeline.copy(&mut writer)).transpose()?,
        ..plan
    };
    Ok(Some(Compiled {
        plan: writer.finish(plan)?,
        recognised,
        opaque,
        passes: watcher.count(),
        took: Duration::ZERO,
        memory: None,
    }))
}

/// The three programs of a raised graph.
pub fn build(
    mut graph: Graph,
    choices: &Choices,
    table: &CostTable,
    watcher: &mut Watcher,
) -> Result<Option<Module>, Failure> {
    let mut listener = |_: usize, name: &str, graph: &Graph| -> ControlFlow<()> { watcher.after(name, graph) };
    let mut passes = Pipeline::new(&mut listener);
    let options = choices.options_for(&graph);
    Roles::of(&graph)?.keep_prediction(&mut graph, choices.prediction.as_deref())?;
    let mut module = Module::build(graph, &options, table, &mut passes)?;
    if let Some(module) = module.as_mut().filter(|_| choices.target.starts_with("cuda:")) {
        module.make_native(&mut passes)?;
    }
    Ok(module.filter(|_| !passes.is_stopped()))
}

/// The programs as IR text.
pub fn programs_text(module: &Module, networks: &[Network]) -> String {
    let programs = [Some(&module.record), Some(&module.guide), module.edit.as_ref()];
    let networks = networks.iter().map(|network| &network.graph);
    let texts: Vec<String> = programs
        .into_iter()
        .flatten()
        .chain(networks)
        .map(text::print)
        .collect();
    texts.join("\n")
}

/// How often each operator occurs: semantic ones, and those that stay ONNX.
fn census(graph: &Graph) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut recognised, mut opaque) = (BTreeMap::new(), BTreeMap::new());
    for id in graph.ids() {
        match graph.op(id) {
            Op::Input(_) | Op::Output(_) => {}
            Op::Onnx(op) => *opaque.entry(op.op_type.clone()).or_default() += 1,
            op => *recognised.entry(op.name().to_owned()).or_default() += 1,
        }
    }
    (recognised, opaque)
}

impl Choices {
    /// The options for a model of this size.
    fn options_for(&self, graph: &Graph) -> CompileOptions {
        let sample = Roles::of(graph).ok().and_then(|roles| graph.input(&roles.sample));
        let latent = sample.map(|sample| graph.value_type(sample).shape.clone());
        let mut options = self.options();
        if let (Some(Preset::Paper), None, Some(latent)) = (self.preset, options.sparse_levels, latent) {
            let halves = std::iter::successors(Some(latent[2].min(latent[3])), |rows| Some(rows.div_ceil(2)));
            options.sparse_levels = Some(halves.take_while(|&rows| rows > PAPER_DENSE_ROWS).count());
        }
        options
    }

    /// Adds the sizes that the user gives.
    pub fn bind(&self, bindings: Bindings) -> Bindings {
        let given = self.bind.iter();
        given.fold(bindings, |bindings, (name, size)| bindings.symbol(name, *size))
    }

    /// `cpu` or `cuda:<arch>`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The same choices where images of a step have latents of their own, unless `--samples` says otherwise.
    pub fn for_each_sample(&self) -> Self {
        let samples = self.samples.or(Some(SamplesChoice::Each));
        Choices {
            samples,
            ..self.clone()
        }
    }

    pub fn options(&self) -> CompileOptions {
        CompileOptions {
            keys: match (self.kv, self.preset) {
                (Some(KeysChoice::Full), _) | (None, None) => Keys::Full,
                (Some(KeysChoice::Masked), _) | (None, Some(Preset::Paper)) => Keys::Masked,
            },
            norm: match self.norm {
                Some(NormChoice::Frozen) | None => Norm::Frozen,
                Some(NormChoice::Updated) => Norm::Updated,
                Some(NormChoice::Live) => Norm::Live,
            },
            sparse_levels: self.sparse_levels.and_then(|levels| levels.0),
            cache_dtype: self.cache_type,
            control_levels: match self.control_levels {
                Some(levels) => levels.0,
                None => self.preset.map(|Preset::Paper| 0),
            },
            samples: match self.samples {
                Some(SamplesChoice::Shared) | None => Samples::Shared,
                Some(SamplesChoice::Each) => Samples::Each,
            },
            remainder: match self.remainder {
                RemainderChoice::Native => Remainder::Native,
                RemainderChoice::OnnxRuntime => Remainder::OnnxRuntime,
            },
            halos: match self.halos {
                Some(HalosChoice::Recorded) => Halos::Recorded,
                Some(HalosChoice::Computed) => Halos::Computed,
                // a device has the time, and recordings are in its memory
                None if self.target.starts_with("cuda:") && self.preset.is_none() => Halos::Computed,
                None => Halos::Recorded,
            },
        }
    }
}

fn parse_size(text: &str) -> Result<ImageSize, String> {
    let (width, height) = text.split_once(['x', 'X']).unwrap_or((text, text));
    let largest = *numbers::PIXELS.end();
    let side = numbers::whole(1..=largest);
    match (side(width), side(height)) {
        (Ok(width), Ok(height)) => Ok(ImageSize { width, height }),
        _ => Err(format!(
            "write a size like 512 or 768x512, each side from 1 to {largest} pixels"
        )),
    }
}

fn parse_bound(text: &str) -> Result<(String, usize), String> {
    let bound = text
        .rsplit_once('=')
        .and_then(|(name, size)| Some((name, size.parse().ok()?)));
    match bound {
        Some((name, size)) if !name.is_empty() && size > 0 => Ok((name.to_owned(), size)),
        _ => Err("write a name and a size, like channels=4 or sample:1=4".into()),
    }
}

fn parse_target(text: &str) -> Result<String, String> {
    let known = std::iter::once("cpu").chain(fisec_plan::cuda::TARGETS);
    let names: Vec<&str> = known.collect();
    match names.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("the targets are {}", names.join(", "))),
    }
}

fn parse_levels(text: &str) -> Result<Levels, String> {
    numbers::auto_or_whole(numbers::LEVELS)(text).map(Levels)
}

fn parse_cache_type(text: &str) -> Result<DType, String> {
    match text {
        "f16" => Ok(DType::F16),
        "f32" => Ok(DType::F32),
        _ => Err("write f16 or f32".into()),
    }
}
