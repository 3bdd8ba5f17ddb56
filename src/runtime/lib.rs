//! Runs plans: walks a program's nodes on a backend, with recorded activations from a slot store.
//!
//! A plan is all it knows of the compiler.

mod binding;
pub mod cache;
mod calibrate;
mod control;
mod cpu;
mod cuda;
mod error;
mod executor;
mod finite;
mod network;
pub mod ort;
mod sampled;
mod slots;

pub use binding::{Binding, LayerChoice};
pub use calibrate::{Calibration, Measurement, calibrate, fit};
pub use control::Control;
pub use cuda::{DeviceMemory, describe as describe_cuda, device_memory};
pub use error::RuntimeError;
pub use executor::{Executor, NodeTime, StepReport};
pub use finite::is_finite;
pub use fisec_kernels::cuda::SOURCES as KERNEL_SOURCES;
pub use network::Network;
pub use sampled::{HISTORY, Progress, SampledSteps, StepUpdate};
pub use slots::{SlotSink, SlotSource};
