//! Runs plans: walks a program's nodes on a backend, with recorded activations from a slot store.
//!
//! A plan is all it knows of the compiler.

pub mod cache;
mod error;
pub mod ort;
mod slots;

pub use error::RuntimeError;
pub use slots::{SlotSink, SlotSource};
