//! Passes: graph to graph, one file each, and the lowering of graphs to a plan.
//!
//! `canonical` raises an imported graph to the semantic operators; [`Module::build`] makes the three programs of it;
//! [`Module::lower`] writes them as a plan. The order of passes stands in `canonical` and in `programs.rs`, with the
//! reason for each place.

pub mod analysis;
mod budget;
pub mod canonical;
pub mod control;
pub mod cost;
pub mod fuse;
pub mod lower;
mod module;
pub mod native;
mod network;
mod pass;
mod pipeline;
pub mod programs;
mod roles;
mod share_halves;
pub mod sparse;
mod widen_floats;

pub use budget::Budget;
pub use module::{CompileError, LARGEST_LATENTS, Module};
pub use network::Network;
pub use pass::{Changes, PassError};
pub use pipeline::{Listener, PassRun, Pipeline};
pub use roles::{Roles, RolesError};
pub use share_halves::share_halves;
pub use widen_floats::widen_floats;
