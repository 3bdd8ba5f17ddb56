//! From words to an image, and from changed words to a changed region.
//!
//! Around the denoiser, which is a plan in the runtime: seeds and noise, samplers, tokenizer and text encoder, guidance,
//! the edit mask, the VAE, and the two loops that generate and edit. Knows neither the compiler nor the command line.

pub mod denoise;
mod denoiser;
mod error;
mod event;
mod image;
pub mod json;
pub mod mask;
mod network;
pub mod noise;
mod paste;
mod picture;
mod pipeline;
mod plan_denoiser;
mod png_rows;
pub mod samplers;
mod text;
mod tokenizer;
mod trajectory;
mod vae;
pub mod words;

pub use denoiser::{Denoiser, Work};
pub use error::DiffusionError;
pub use event::{Event, Notice, Observer, Phase, Timings};
pub use image::{Image, mask_to_png};
pub use mask::{mask_from_png, read_user_mask};
pub use paste::{paste, paste_part, pieces};
pub use picture::Fitted;
pub use pipeline::{BaseImage, EditedImage, Generated, Pipeline, Request};
pub use plan_denoiser::PlanDenoiser;
pub use png_rows::{LARGEST_PIXELS, LONGEST_SIDE, PngError};
pub use text::{TextEncoder, emphasised, guidance_context};
pub use tokenizer::{Tokenizer, Tokens};
pub use trajectory::Trajectory;
pub use vae::{VaeDecoder, VaeEncoder};
