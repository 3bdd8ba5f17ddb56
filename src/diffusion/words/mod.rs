//! Words: what a prompt emphasises, which of its words are new, and how recorded attention follows from that.

mod alignment;
mod emphasis;
mod steering;

pub use alignment::{Alignment, Source};
pub use emphasis::Emphasis;
pub use steering::{ControlOptions, Steering, Words};
