//! `fisec run`: words to an image; changed words to a changed region.

mod base;
mod made;
mod progress;
mod settings;

use std::fs;
use std::path::PathBuf;

use clap::Args;
use fisec_diffusion::denoise::{EditOptions, Region};
use fisec_diffusion::samplers::SamplerKind;
use fisec_diffusion::{BaseImage, DiffusionError, Image, Pipeline, Request, Trajectory, mask_from_png, mask_to_png};
use fisec_plan::Bundle;
use fisec_runtime::cache::{CacheError, DEFAULT_LIMIT, Entry, ImageKey, Recording, Store};
use fisec_runtime::ort::OnnxRuntime;
use fisec_runtime::{RuntimeError, SlotSink};

use super::console::Console;
use super::failure::Failure;
use super::{output, units};
use base::BaseChoice;
use made::Made;
use progress::Progress;
pub use settings::parse_share;
use settings::{EditSettings, GuideChoice};

#[derive(Args, Debug)]
#[command(after_help = "Example:
  fisec run demo.plan --prompt \"a dog on the left on grass\" -o dog.png
  fisec run demo.plan --prompt \"a cat on the left on grass\" -o cat.png --report cat.html")]
pub struct Arguments {
    /// Folder that `fisec compile` wrote
    plan: PathBuf,
    /// What to show
    #[arg(short, long)]
    prompt: String,
    /// What not to show
    #[arg(long, default_value = "")]
    negative: String,
    /// Noise; the same seed gives the same noise as PyTorch on a CPU
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Denoising steps
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// How strongly to follow the prompt
    #[arg(long, default_value_t = 5.0)]
    guidance: f32,
    /// ddim, euler, dpm++ or pndm [default: the model's own]
    #[arg(long, value_parser = parse_sampler)]
    sampler: Option<SamplerKind>,
    /// What to edit: the nearest remembered image, nothing, or the image of an id
    #[arg(long, default_value = "auto", value_name = "auto|none|ID", value_parser = BaseChoice::parse)]
    base: BaseChoice,
    #[command(flatten)]
    edit: EditSettings,
    /// Do not remember the image
    #[arg(long)]
    forget: bool,
    /// Bytes of remembered images to keep, e.g. 20G [default: 43 GB]
    #[arg(long, env = "FISEC_CACHE_LIMIT", value_parser = units::parse_bytes, value_name = "SIZE")]
    cache_limit: Option<u64>,
    /// Where the image goes
    #[arg(short, long, default_value = "out.png")]
    output: PathBuf,
    /// Write a page that compares the edit with its base
    #[arg(long, value_name = "OUT.html")]
    report: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    if arguments.prompt.trim().is_empty() {
        return Err(DiffusionError::EmptyPrompt.into());
    }
    let request = arguments.request();
    let bundle = Bundle::open(&arguments.plan)?;
    let runtime = OnnxRuntime::load()?;
    let mut studio = Studio {
        pipeline: Pipeline::open(&bundle, &runtime)?,
        store: arguments.store(console),
        bundle,
        request,
        arguments,
        console,
    };
    let made = studio.make()?;
    output::write_file(&arguments.output, &made.png(&studio.request)?)?;
    if let Some(path) = &arguments.report {
        match made.report(&studio.request)? {
            Some(html) => output::write_file(path, html.as_bytes())?,
            None => console.warn("a first image has nothing to be compared with; no report is written"),
        }
    }
    match arguments.json {
        true => output::print_json(&made.json(&studio.request, arguments)),
        false => {
            console.say(&made.text());
            output::print(&arguments.output.display().to_string())
        }
    }
}

impl Arguments {
    fn request(&self) -> Request {
        Request {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            seed: self.seed,
            steps: self.steps,
            guidance: self.guidance,
            sampler: self.sampler,
        }
    }

    /// Without a store images are made all the same.
    fn store(&self, console: &Console) -> Option<Store> {
        match Store::open(None) {
            Ok(store) => Some(store.with_limit(self.cache_limit.unwrap_or(DEFAULT_LIMIT))),
            Err(error) => {
                not_remembered(console, &error);
                None
            }
        }
    }
}

/// Everything that making one image takes.
struct Studio<'a> {
    pipeline: Pipeline,
    store: Option<Store>,
    bundle: Bundle,
    request: Request,
    arguments: &'a Arguments,
    console: &'a Console,
}

impl Studio<'_> {
    /// Edits the base where there is one. A base that turns out to be damaged counts as not remembered.
    fn make(&mut self) -> Result<Made, Failure> {
        let key = self.key()?;
        let options = self.edit_options()?;
        let choice = &self.arguments.base;
        let base = base::choose(choice, self.store.as_ref(), &key, &self.arguments.edit, self.console)?;
        let Some(entry) = base else {
            if let Some(flag) = self.arguments.edit.given() {
                return Err(
                    Failure::new(format!("`{flag}` needs an image to edit, and none is near enough"))
                        .hint("make the base image first, or name it with `--base ID`; `fisec sessions` lists them"),
                );
            }
            return self.generate(key);
        };
        match self.edit(key.clone(), &entry, &options) {
            Err(EditError::Damaged(reason)) if !matches!(choice, BaseChoice::Image(_)) => {
                self.console
                    .warn(&format!("{reason}; the image is made from the start"));
                self.generate(key)
            }
            Err(EditError::Damaged(reason)) => {
                Err(Failure::new(reason).hint("make the base image again with `--base none`"))
            }
            Err(EditError::Other(failure)) => Err(failure),
            Ok(made) => Ok(made),
        }
    }

    fn generate(&mut self, key: ImageKey) -> Result<Made, Failure> {
        let mut recording = self.begin(key.clone(), None, "")?;
        let mut progress = Progress::new(self.console);
        let sink = recording.as_mut().map(|recording| recording as &mut dyn SlotSink);
        let generated = self
            .pipeline
            .generate(&self.request, sink, &mut |event| progress.on(event))?;
        drop(progress);
        let entry = self.remember(recording, &generated.trajectory, &generated.image, None)?;
        Ok(Made::first(generated, key, entry, self.pipeline.calls(&self.request)?))
    }

    fn edit(&mut self, key: ImageKey, base: &Entry, options: &EditOptions) -> Result<Made, EditError> {
        let base_image = Image::from_png(&base.image()?)?;
        let trajectory = Trajectory::from_tensor(&base.latents()?)?;
        let remembers = !self.arguments.edit.dense;
        let mut recording = match remembers {
            true => self.begin(key.clone(), Some(base.id()), &self.arguments.edit.text())?,
            false => None,
        };
        let source = BaseImage {
            prompt: &base.manifest().key.prompt,
            trajectory: &trajectory,
            slots: base,
            image: Some(&base_image),
        };
        let mut progress = Progress::new(self.console);
        let sink = recording.as_mut().map(|recording| recording as &mut dyn SlotSink);
        let edited = self
            .pipeline
            .edit(&self.request, source, options, sink, &mut |event| progress.on(event))?;
        drop(progress);
        let entry = match &edited.image {
            Some(image) => {
                let mask = mask_to_png(&edited.edited.mask)?;
                self.remember(recording, &edited.edited.trajectory, image, Some(mask))?
            }
            None => None,
        };
        Ok(Made::edit(
            edited,
            key,
            base_image,
            base,
            entry,
            self.pipeline.calls(&self.request)?,
        ))
    }

    fn key(&self) -> Result<ImageKey, Failure> {
        let (height, width) = self.pipeline.image_size();
        Ok(ImageKey {
            plan: self.bundle.hash().to_owned(),
            prompt: self.request.prompt.clone(),
            negative: self.request.negative.clone(),
            seed: self.request.seed,
            sampler: self.pipeline.sampler_kind(&self.request)?.name().to_owned(),
            steps: self.request.steps,
            guidance: self.request.guidance.into(),
            width,
            height,
        })
    }

    fn edit_options(&self) -> Result<EditOptions, Failure> {
        let settings = &self.arguments.edit;
        let scale = self
            .bundle
            .plan()
            .pipeline
            .as_ref()
            .map_or(8, |pipeline| pipeline.vae_scale);
        let grow = settings.grow.div_ceil(scale);
        let region = match (&settings.mask, settings.edit_size) {
            (Some(path), _) => {
                let png = fs::read(path).map_err(Failure::file(path))?;
                let mask = self.pipeline.fit_mask(&mask_from_png(&png)?)?;
                Region::Given(mask)
            }
            (None, Some(share)) => Region::Share(share),
            (None, None) => Region::Changed { grow },
        };
        Ok(EditOptions {
            region,
            guide_steps: settings.guide_steps.into(),
            dense: settings.dense,
            break_even: if settings.sparse {
                1.0
            } else {
                self.bundle.plan().break_even
            },
        })
    }

    /// What cannot be remembered is made all the same.
    fn begin(&self, key: ImageKey, parent: Option<&str>, settings: &str) -> Result<Option<Recording>, DiffusionError> {
        let Some(store) = self.store.as_ref().filter(|_| !self.arguments.forget) else {
            return Ok(None);
        };
        let calls = self.pipeline.calls(&self.request)?;
        match store.begin(key, parent, settings, &self.bundle.plan().slots, calls) {
            Ok(recording) => Ok(Some(recording)),
            Err(error) => {
                not_remembered(self.console, &error);
                Ok(None)
            }
        }
    }

    fn remember(
        &self,
        recording: Option<Recording>,
        trajectory: &Trajectory,
        image: &Image,
        mask: Option<Vec<u8>>,
    ) -> Result<Option<Entry>, DiffusionError> {
        let Some(mut recording) = recording else {
            return Ok(None);
        };
        recording.set_latents(&trajectory.to_tensor());
        recording.set_image(image.to_png(&[])?);
        if let Some(mask) = mask {
            recording.set_mask(mask);
        }
        match recording.commit() {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => {
                not_remembered(self.console, &error);
                Ok(None)
            }
        }
    }
}

fn parse_sampler(name: &str) -> Result<SamplerKind, String> {
    let sampler = name.parse::<SamplerKind>();
    sampler.map_err(|error| format!("{error}; it is {}", error.hint().unwrap_or_default()))
}

fn not_remembered(console: &Console, error: &CacheError) {
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    console.warn(&format!("the image is not remembered: {error}{hint}"));
}

/// Why an edit failed: the base is damaged, or something else.
enum EditError {
    Damaged(String),
    Other(Failure),
}

impl From<DiffusionError> for EditError {
    fn from(error: DiffusionError) -> Self {
        match error {
            DiffusionError::Runtime(RuntimeError::DamagedCache { .. } | RuntimeError::MissingSlot { .. })
            | DiffusionError::Base(_) => EditError::Damaged(error.to_string()),
            other => EditError::Other(other.into()),
        }
    }
}

impl From<CacheError> for EditError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Damaged { .. } => EditError::Damaged(error.to_string()),
            other => EditError::Other(other.into()),
        }
    }
}

impl From<GuideChoice> for fisec_diffusion::denoise::GuideSteps {
    fn from(choice: GuideChoice) -> Self {
        match choice {
            GuideChoice::Auto => Self::Auto,
            GuideChoice::Steps(steps) => Self::Exactly(steps),
        }
    }
}
