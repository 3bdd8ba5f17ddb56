//! What can go wrong between words and image.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use fisec_runtime::RuntimeError;
use fisec_tensor::TensorError;
use thiserror::Error;

use crate::png_rows::PngError;

/// Why no image came out. [`DiffusionError::hint`] says what to do about it, where that is known.
#[derive(Debug, Error)]
pub enum DiffusionError {
    /// A file cannot be read.
    #[error("cannot read `{path}`: {reason}")]
    Unreadable {
        /// the file
        path: PathBuf,
        /// what the system says
        reason: String,
        /// what to do about it, where that is known
        hint: Option<&'static str>,
    },
    /// A file was read and is wrong.
    #[error("`{path}`: {source}")]
    File {
        /// the file
        path: PathBuf,
        /// what is wrong
        source: Box<DiffusionError>,
    },
    /// A text is no JSON, not even as Python writes it.
    #[error("{0}")]
    Json(String),
    /// The scheduler's configuration is wrong.
    #[error("scheduler configuration: {0}")]
    SchedulerConfig(String),
    /// A sampler has no schedule of this many steps.
    #[error("{0}")]
    Schedule(String),
    /// A sampler's name is not known.
    #[error("unknown sampler `{0}`")]
    UnknownSampler(String),
    /// The model's scheduler, or a sampler with the scheduler's settings, is not built.
    #[error("{}", refused_scheduler(class, *sampler, reason))]
    Scheduler {
        /// diffusers class of the model's scheduler; may be empty
        class: String,
        /// the sampler that cannot do what the scheduler's file asks for; absent when the class is not built
        sampler: Option<&'static str>,
        /// the setting that is not built; may be empty
        reason: String,
        /// samplers that can be chosen instead
        choices: Vec<&'static str>,
    },
    /// Too few or too many steps.
    #[error("{steps} steps: the model allows 1 to {most}")]
    StepCount {
        /// steps asked for
        steps: usize,
        /// timesteps that the model was trained on
        most: usize,
    },
    /// The tokenizer cannot be read or used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A part of a prompt counts for more than makes sense.
    #[error("`{words}` weighs {weight} in the prompt; a weight is a number from -100 to 100")]
    Weight {
        /// the beginning of the part
        words: String,
        /// its weight
        weight: f32,
    },
    /// The prompt has no words.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A network of the pipeline has inputs or outputs that do not fit.
    #[error("{network}: {reason}")]
    Network {
        /// text encoder, VAE decoder or encoder
        network: &'static str,
        /// what does not fit
        reason: String,
    },
    /// The plan was compiled from a U-Net alone.
    #[error("the plan has no text encoder and no VAE: it was compiled from a U-Net alone")]
    NoPipeline,
    /// The plan computes neither one image per step nor both halves of guidance.
    #[error("the plan was compiled for batch {0}; an image takes batch 2, or 1 without guidance")]
    Batch(usize),
    /// The plan computes one image per step, and guidance takes two.
    #[error("guidance {0} takes two images per step, and the plan was compiled for batch 1")]
    GuidanceBatch(f32),
    /// A mask that is no PNG, or cannot be decoded.
    #[error("mask: {0}")]
    MaskImage(#[source] PngError),
    /// A picture that is no PNG, or cannot be decoded.
    #[error("picture: {0}")]
    Picture(#[source] PngError),
    /// An image that cannot be written as a PNG, or is too large for the memory.
    #[error("image: {0}")]
    Image(String),
    /// A mask of another aspect ratio than the image.
    #[error("the mask is {width}x{height}, the image {image_width}x{image_height}")]
    MaskSize {
        /// columns of the mask
        width: usize,
        /// rows of the mask
        height: usize,
        /// columns of the image
        image_width: usize,
        /// rows of the image
        image_height: usize,
    },
    /// A mask that selects nothing.
    #[error("the mask has no white pixel")]
    MaskEmpty,
    /// An edit size outside 0 to 1.
    #[error("edit size {0} lies outside 0 to 1")]
    EditSize(f64),
    /// An option has a value that makes no sense.
    #[error("{0}")]
    Option(String),
    /// What was recorded of the base image does not fit this edit.
    #[error("the base image does not fit: {0}")]
    Base(String),
    /// Pictures are inverted along a DDIM schedule only.
    #[error("a picture cannot be inverted with the sampler `{0}`")]
    InversionSampler(&'static str),
    /// The plan's programs do not follow recorded attention.
    #[error("the plan was compiled without attention control")]
    NoControl,
    /// A network beside the denoiser returned values that are not finite.
    #[error("the {network} returned values that are not finite")]
    NetworkNotFinite {
        /// text encoder, VAE decoder or encoder
        network: &'static str,
        /// whether it was computed in half precision only, which may have overflowed
        in_half: bool,
    },
    /// The denoiser returned values that are not finite.
    #[error("the denoiser returned values that are not finite at step {0}")]
    NotFinite(usize),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A tensor is not what it should be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl DiffusionError {
    /// What to do about it.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            DiffusionError::Unreadable { hint: Some(hint), .. } => Some((*hint).into()),
            DiffusionError::File { source, .. } => source.hint(),
            DiffusionError::Scheduler { choices, .. } => Some(choice_of_sampler(choices).into()),
            other => other.fixed_hint().map(Cow::from),
        }
    }

    fn fixed_hint(&self) -> Option<&'static str> {
        match self {
            DiffusionError::Unreadable { .. } => Some("check that the file is there and may be read"),
            DiffusionError::Json(_) => Some("the file is damaged or was cut short: copy or export it again"),
            DiffusionError::SchedulerConfig(_) => {
                Some("the file is damaged, or no scheduler of diffusers wrote it: copy or export it again")
            }
            DiffusionError::UnknownSampler(_) => Some("one of ddim, euler, dpm++, pndm"),
            DiffusionError::Schedule(_) => Some("choose another number with `--steps`, or another `--sampler`"),
            DiffusionError::StepCount { .. } => Some("give `--steps` in that range, e.g. `--steps 50`"),
            DiffusionError::EmptyPrompt => Some("say what to show: `--prompt \"a red barn in a field\"`"),
            DiffusionError::Weight { .. } => Some("write it like `(word:1.4)`; nested brackets multiply"),
            DiffusionError::NoPipeline => Some("compile the pipeline folder instead of its unet/model.onnx"),
            DiffusionError::Batch(_) => Some("compile with `--batch 2`"),
            DiffusionError::GuidanceBatch(_) => Some(
                "give `--guidance 1`, which is no guidance; or export the U-Net with a dynamic batch or batch 2, and compile \
                 that with `--batch 2`",
            ),
            DiffusionError::NetworkNotFinite { in_half: true, .. } => {
                Some("half precision may overflow: compile the model again, with an f32 export of that part")
            }
            DiffusionError::NetworkNotFinite { .. } => Some(
                "it was computed in f32, so its weights are damaged or its values out of range: export or download that part \
                 again, then compile",
            ),
            DiffusionError::NotFinite(_) => {
                Some("export or download the U-Net again, or try the default `--guidance` and `--sampler`")
            }
            DiffusionError::MaskImage(error) => error
                .hint()
                .or(Some("give an 8-bit PNG: white where the image may change")),
            DiffusionError::Picture(error) => error.hint().or(Some("check that the file is a whole PNG")),
            DiffusionError::MaskSize { .. } => Some("a mask may have any size of the image's aspect ratio"),
            DiffusionError::MaskEmpty => Some("paint white where the image may change"),
            DiffusionError::InversionSampler(_) => Some("use `--sampler ddim`"),
            DiffusionError::NoControl => Some("compile it again without `--control-levels 0`"),
            DiffusionError::EditSize(_) => Some("give a share of the image, e.g. `--edit-size 0.1`"),
            DiffusionError::Base(_) => Some("generate the base image again with `--base none`"),
            DiffusionError::Tokenizer(_) => {
                Some("the tokenizer folder needs tokenizer.json, or vocab.json and merges.txt")
            }
            DiffusionError::Runtime(error) => error.hint(),
            _ => None,
        }
    }

    /// The same error, naming the file it was found in.
    pub(crate) fn at(self, path: &Path) -> Self {
        match self {
            located @ (DiffusionError::Unreadable { .. } | DiffusionError::File { .. }) => located,
            source => DiffusionError::File {
                path: path.to_path_buf(),
                source: Box::new(source),
            },
        }
    }
}

fn refused_scheduler(class: &str, sampler: Option<&str>, reason: &str) -> String {
    let class = match class {
        "" => "the model's scheduler".to_owned(),
        class => format!("the model's scheduler `{class}`"),
    };
    let reason = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    match sampler {
        None => format!("{class} is not supported{reason}"),
        Some(sampler) => format!("the sampler {sampler} cannot do what {class} asks for{reason}"),
    }
}

/// How to choose another sampler than the model's own.
fn choice_of_sampler(choices: &[&str]) -> String {
    match choices {
        [] => "no sampler of fisec makes the images that this model was trained for".into(),
        [only] => format!("choose `--sampler {only}`"),
        [first, middle @ .., last] => {
            let middle: String = middle.iter().map(|name| format!(", `{name}`")).collect();
            format!("choose one with `--sampler {first}`{middle} or `{last}`")
        }
    }
}

pub(crate) fn read_text(path: &Path) -> Result<String, DiffusionError> {
    fisec_files::read_text(path).map_err(|error| DiffusionError::Unreadable {
        path: path.to_path_buf(),
        reason: error.to_string(),
        hint: fisec_files::refused(&error).map(|refused| refused.hint()),
    })
}
