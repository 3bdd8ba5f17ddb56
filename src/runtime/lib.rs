//! Runs plans: walks a program's nodes on a backend, with recorded activations from a slot store.
//!
//! A plan is all it knows of the compiler.

mod error;
pub mod ort;

pub use error::RuntimeError;
