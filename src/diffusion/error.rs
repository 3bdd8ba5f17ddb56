//! What can go wrong between words and image.

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
    /// The scheduler's configuration is wrong or asks for something not built.
    #[error("scheduler configuration: {0}")]
    SchedulerConfig(String),
    /// A sampler's name is not known.
    #[error("unknown sampler `{0}`")]
    UnknownSampler(String),
    /// The model came with a scheduler that is not built.
    #[error("the model's scheduler `{0}` is not supported")]
    UnknownSchedulerClass(String),
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
    /// The plan's batch does not hold both halves of guidance.
    #[error("the plan was compiled for batch {0}; guidance needs 2")]
    Batch(usize),
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
    /// The network returned numbers that are not finite.
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
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            DiffusionError::Unreadable { hint, .. } => *hint,
            DiffusionError::File { source, .. } => source.hint(),
            DiffusionError::UnknownSampler(_) => Some("one of ddim, euler, dpm++, pndm"),
            DiffusionError::UnknownSchedulerClass(_) => {
                Some("choose one with `--sampler ddim`, `euler`, `dpm++` or `pndm`")
            }
            DiffusionError::StepCount { .. } => Some("give `--steps` in that range, e.g. `--steps 50`"),
            DiffusionError::EmptyPrompt => Some("say what to show: `--prompt \"a red barn in a field\"`"),
            DiffusionError::Weight { .. } => Some("write it like `(word:1.4)`; nested brackets multiply"),
            DiffusionError::NoPipeline => Some("compile the pipeline folder instead of its unet/model.onnx"),
            DiffusionError::Batch(_) => Some("compile with `--batch 2`"),
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

pub(crate) fn read_text(path: &Path) -> Result<String, DiffusionError> {
    fisec_files::read_text(path).map_err(|error| DiffusionError::Unreadable {
        path: path.to_path_buf(),
        reason: error.to_string(),
        hint: fisec_files::refused(&error).map(|refused| refused.hint()),
    })
}
