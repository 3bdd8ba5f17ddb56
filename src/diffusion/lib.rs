//! From words to an image, and from changed words to a changed region.
//!
//! Around the denoiser, which is a plan in the runtime: seeds and noise, samplers, tokenizer and text encoder, guidance,
//! the edit mask, the VAE, and the two loops that generate and edit. Knows neither the compiler nor the command line.

mod error;
pub mod noise;
pub mod samplers;

mod tokenizer;

pub use error::DiffusionError;
pub use tokenizer::{Tokenizer, Tokens};
