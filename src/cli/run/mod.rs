//! `fisec run`: words to an image; changed words to a changed region.

mod again;
mod base;
mod delivery;
mod made;
mod opened;
mod picture;
mod progress;
mod settings;
mod studio;

use std::path::PathBuf;

use clap::Args;
use fisec_diffusion::samplers::SamplerKind;
use fisec_diffusion::{DiffusionError, Pipeline, Request};
use fisec_plan::Bundle;
use fisec_runtime::cache::{DEFAULT_LIMIT, Store};
use fisec_runtime::ort::OnnxRuntime;

use super::console::Console;
use super::failure::Failure;
use super::{numbers, units};
use base::BaseChoice;
use delivery::Delivery;
use made::Made;
use opened::OpenedImages;
use settings::EditSettings;
pub use settings::parse_share;
use studio::{Studio, not_remembered};

#[derive(Args, Debug)]
#[command(after_help = "Example:
  fisec run demo.plan --prompt \"a dog on the left on grass\" -o dog.png
  fisec run demo.plan --prompt \"a cat on the left on grass\" -o cat.png --report cat.html
  fisec run demo.plan --prompt \"a dog on grass\" --then \"a cat on grass\" --then \"a cat in snow\"
  fisec run demo.plan --image photo.png --source-prompt \"a dog on grass\" --prompt \"a cat on grass\"

Prompts: (word:1.4) weighs a word, (word) is 1.1, [word] 1/1.1; \\( and \\[ are the characters themselves")]
pub struct Arguments {
    /// Folder that `fisec compile` wrote
    plan: PathBuf,
    /// What to show; `(word:1.4)` makes a word count more
    #[arg(short, long)]
    prompt: String,
    /// Edit the image just made to show this; can be given several times. What was recorded stays in memory in between
    #[arg(long, value_name = "PROMPT")]
    then: Vec<String>,
    /// What not to show
    #[arg(long, default_value = "")]
    negative: String,
    /// Noise; the same seed gives the same noise as PyTorch on a CPU
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = numbers::seed)]
    seed: u64,
    /// Denoising steps
    #[arg(long, default_value_t = 50, allow_negative_numbers = true, value_parser = numbers::whole(numbers::STEPS))]
    steps: usize,
    /// How strongly to follow the prompt; at or below 1 there is no guidance and no negative prompt
    #[arg(long, default_value_t = 5.0, allow_negative_numbers = true, value_parser = numbers::decimal(numbers::GUIDANCE))]
    guidance: f64,
    /// ddim, euler, dpm++ or pndm [default: the model's own]
    #[arg(long, value_parser = parse_sampler)]
    sampler: Option<SamplerKind>,
    /// What to edit: the nearest remembered image, nothing, or the image of an id
    #[arg(long, default_value = "auto", value_name = "auto|none|ID", value_parser = BaseChoice::parse)]
    base: BaseChoice,
    /// Edit this PNG of any size: the plan's size is cut from its middle, and the picture remembered
    #[arg(long, value_name = "PHOTO.png", requires = "source_prompt", conflicts_with = "base")]
    image: Option<PathBuf>,
    /// What `--image` shows
    #[arg(long, value_name = "PROMPT")]
    source_prompt: Option<String>,
    #[command(flatten)]
    edit: EditSettings,
    /// Do not remember the image; with `--then`, the last one
    #[arg(long)]
    forget: bool,
    /// Bytes of remembered images to keep, e.g. 20G [default: 43 GB]
    #[arg(long, env = "FISEC_CACHE_LIMIT", value_parser = units::parse_bytes, value_name = "SIZE")]
    cache_limit: Option<u64>,
    /// Where the image goes, a PNG; `-` is stdout
    #[arg(short, long, default_value = "out.png", value_name = "OUT.png")]
    output: PathBuf,
    /// Write the region here as well, a PNG of one pixel per latent
    #[arg(long, value_name = "M.png")]
    mask_out: Option<PathBuf>,
    /// Write a page that compares the edit with its base
    #[arg(long, value_name = "OUT.html")]
    report: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    let mut prompts = arguments.then.iter().chain([&arguments.prompt]);
    if prompts.any(|prompt| prompt.trim().is_empty()) {
        return Err(DiffusionError::EmptyPrompt.into());
    }
    let mut delivery = Delivery::new(arguments, console)?;
    let (request, notice) = arguments.request().settled();
    if let Some(notice) = notice {
        console.say(&notice.to_string());
    }
    let bundle = Bundle::open(&arguments.plan)?;
    let runtime = OnnxRuntime::load()?;
    let mut studio = Studio {
        pipeline: Pipeline::open(&bundle, &runtime)?,
        store: arguments.store(console),
        bundle,
        request,
        base: arguments.base.clone(),
        picture: arguments.image.clone(),
        forgets: arguments.forget && arguments.then.is_empty(),
        arguments,
        console,
        opened: OpenedImages::default(),
        unfinished: None,
        held: Vec::new(),
    };
    let ended = make_all(&mut studio, &mut delivery);
    studio.close();
    delivery.finish(ended)
}

/// The image of `--prompt`, and those of `--then`, each an edit of the one before.
fn make_all(studio: &mut Studio<'_>, delivery: &mut Delivery<'_>) -> Result<(), Failure> {
    let arguments = studio.arguments;
    let mut made = deliver(studio, delivery)?;
    for (number, prompt) in arguments.then.iter().enumerate() {
        studio.go_on_from(&made, prompt)?;
        // nothing goes on from the last one
        studio.forgets = arguments.forget && number + 1 == arguments.then.len();
        made = deliver(studio, delivery)?;
    }
    Ok(())
}

/// One image: first its file, then what is remembered of it. Neither is lost when the other fails.
fn deliver(studio: &mut Studio<'_>, delivery: &mut Delivery<'_>) -> Result<Made, Failure> {
    let mut made = studio.make()?;
    let files = delivery.write(&made, &studio.request);
    let remembered = studio.remember(&mut made);
    if remembered.is_err() {
        made.set_forgotten();
    }
    delivery.tell(&made, &studio.request, files);
    remembered?;
    Ok(made)
}

impl Arguments {
    fn request(&self) -> Request {
        Request {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            seed: self.seed,
            steps: self.steps,
            guidance: self.guidance as f32,
            // the only schedule along which pictures are inverted
            sampler: self.sampler.or(self.image.is_some().then_some(SamplerKind::Ddim)),
        }
    }

    /// Without a store images are made all the same.
    fn store(&self, console: &Console) -> Option<Store> {
        match Store::open(None) {
            Ok(store) => Some(store.with_limit(self.cache_limit.unwrap_or(DEFAULT_LIMIT))),
            Err(error) => {
                not_remembered(console, &error, error.hint());
                None
            }
        }
    }
}

fn parse_sampler(name: &str) -> Result<SamplerKind, String> {
    let sampler = name.parse::<SamplerKind>();
    sampler.map_err(|error| format!("{error}; it is {}", error.hint().unwrap_or_default()))
}
