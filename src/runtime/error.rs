//! What can go wrong while a plan runs.

use std::path::PathBuf;

use fisec_plan::ProgramKind;
use fisec_tensor::{DType, Shape, TensorError};
use thiserror::Error;

/// Why a plan cannot be run. [`RuntimeError::hint`] says what to do about it, where that is known.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// No ONNX Runtime library in any of the places searched.
    #[error("no ONNX Runtime library found")]
    OnnxRuntimeMissing,
    /// The library is there and cannot be used.
    #[error("cannot load ONNX Runtime from `{path}`: {reason}")]
    OnnxRuntimeUnusable {
        /// the library
        path: PathBuf,
        /// what the loader says
        reason: String,
    },
    /// ONNX Runtime refuses a model or a run.
    #[error("{action}: {reason}")]
    OnnxRuntime {
        /// what was tried
        action: String,
        /// its message
        reason: String,
    },
    /// ONNX Runtime does not say what a small model gives.
    #[error("{0}")]
    Probe(String),
    /// `FISEC_ORT_PROVIDER` names nothing that exists.
    #[error("FISEC_ORT_PROVIDER: {0}")]
    Provider(String),
    /// A tensor has another type or shape than its reader expects.
    #[error("{what} should be {expected_dtype}[{expected}], got {dtype}[{shape}]")]
    Mismatch {
        /// which tensor
        what: String,
        /// type asked for
        expected_dtype: DType,
        /// shape asked for
        expected: Shape,
        /// type of the tensor
        dtype: DType,
        /// shape of the tensor
        shape: Shape,
    },
    /// A recorded activation is not in the store.
    #[error("slot `{slot}` of step {step} is not recorded")]
    MissingSlot {
        /// name of the slot
        slot: String,
        /// step of the schedule
        step: usize,
    },
    /// The plan contradicts itself.
    #[error("plan node `{node}`: {reason}")]
    Plan {
        /// name of the node
        node: String,
        /// what is wrong with it
        reason: String,
    },
    /// The plan has no program of this kind.
    #[error("the plan has no `{0}` program")]
    NoProgram(&'static str),
    /// The plan was compiled for another device.
    #[error("the plan is for `{0}`, which this executor does not run")]
    Target(String),
    /// A device keeps values between operators in half precision.
    #[error("the model passes integers between operators that half precision does not hold")]
    LargeIntegers,
    /// The mask has another size than the latents.
    #[error("the mask is {height}x{width}, the latents are {expected_height}x{expected_width}")]
    #[allow(missing_docs)]
    MaskSize {
        height: usize,
        width: usize,
        expected_height: usize,
        expected_width: usize,
    },
    /// The sample has another size than the plan's latents.
    #[error("the sample has {got} elements, the plan takes {expected}")]
    #[allow(missing_docs)]
    SampleSize { expected: usize, got: usize },
    /// The mask was bound to another plan.
    #[error("the mask was bound to another plan")]
    ForeignBinding,
    /// A step that the schedule does not have.
    #[error("step {step} of a schedule of {steps}")]
    #[allow(missing_docs)]
    Step { step: usize, steps: usize },
    /// The threads of the CPU backend cannot be started.
    #[error("cannot start threads: {0}")]
    Threads(String),
    /// A constant of the plan cannot be read.
    #[error(transparent)]
    Bundle(#[from] fisec_plan::PlanError),
    /// The executor was not prepared.
    #[error("no {0} set before the first step")]
    NotPrepared(&'static str),
    /// Bytes that are not the tensor they claim to be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A recorded activation is there and not as it was written: the image counts as not remembered.
    #[error("remembered image `{image}` is damaged: {reason}")]
    DamagedCache {
        /// name of the image
        image: String,
        /// which file, and how
        reason: String,
    },
    /// No CUDA driver.
    #[error("no CUDA driver on this machine")]
    NoDriver,
    /// A driver and no device.
    #[error("no CUDA device on this machine")]
    NoDevice,
    /// The kernels of the plan are for another device.
    #[error("the plan is for {target}, and this device is {device} of compute capability {major}.{minor}")]
    OtherDevice {
        /// target of the plan
        target: String,
        /// name of the device
        device: String,
        /// compute capability
        major: i32,
        /// compute capability
        minor: i32,
    },
    /// A kernel that the plan should bring along is not in it.
    #[error("the plan holds no kernel `{0}`")]
    NoKernel(String),
    /// A call of the driver failed.
    #[error("{call}: {reason}")]
    Cuda {
        /// the driver's function, or the kernel that was launched
        call: &'static str,
        /// what the driver says
        reason: String,
    },
    /// The device's memory is used up.
    #[error("out of device memory")]
    DeviceMemory,
    /// The denoiser returned values that are infinite or not a number.
    #[error("the denoiser returned values that are not finite {place}")]
    NotFinite {
        /// where: the step and the program, or what was computed before the steps
        place: String,
        /// whether it computes in half precision, which may have overflowed
        in_half: bool,
    },
    /// A network beside the denoiser returned values that are infinite or not a number: on a device, which computes in half
    /// precision.
    #[error("the {0} returned values that are not finite: it overflows half precision")]
    Overflow(&'static str),
    /// Anything the slot store reports.
    #[error("slot store: {0}")]
    Store(String),
}

impl RuntimeError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RuntimeError::OnnxRuntimeMissing => {
                Some("run `cargo xtask setup`, or set ORT_DYLIB_PATH to libonnxruntime.so (1.24 or newer)")
            }
            RuntimeError::OnnxRuntimeUnusable { .. } => {
                Some("run `cargo xtask setup` for a version that fits (1.24 or newer)")
            }
            RuntimeError::NoProgram("edit") => Some("no level pays with this model and size: use `--dense`"),
            RuntimeError::MissingSlot { .. } | RuntimeError::DamagedCache { .. } => {
                Some("generate the base image again with `--base none`")
            }
            RuntimeError::LargeIntegers => Some("compile the model with `--target cpu`"),
            RuntimeError::NoDriver | RuntimeError::NoDevice => {
                Some("compile the model with `--target cpu`; `fisec doctor` says what this machine has")
            }
            RuntimeError::OtherDevice { .. } => Some("compile the model for this device, see `fisec compile --help`"),
            RuntimeError::NoKernel(_) => Some("compile the kernels with `cargo xtask kernels`, then the model again"),
            RuntimeError::DeviceMemory => Some("close what else uses the device, or compile for a smaller `--size`"),
            RuntimeError::NotFinite { in_half: true, .. } | RuntimeError::Overflow(_) => Some(
                "a GPU computes in half precision, which may overflow: compile with `--target cpu`, which computes in f32; \
                 if that fails too, the weights are damaged",
            ),
            RuntimeError::NotFinite { .. } => Some(
                "the U-Net was computed in f32, so its weights are damaged or its values out of range: export or download it \
                 again, and try the default `--guidance` and `--sampler`",
            ),
            _ => None,
        }
    }

    /// A step whose prediction is not finite.
    pub(crate) fn not_finite(step: usize, program: ProgramKind, in_half: bool) -> Self {
        RuntimeError::NotFinite {
            place: format!("at step {step} of `{program}`"),
            in_half,
        }
    }

    /// Values that depend on the prompt only are not finite.
    pub(crate) fn prompt_not_finite(in_half: bool) -> Self {
        RuntimeError::NotFinite {
            place: "before the first step, in the keys and values of the prompt".into(),
            in_half,
        }
    }

    /// An error about a plan's node.
    pub(crate) fn plan(node: impl Into<String>, reason: impl Into<String>) -> Self {
        RuntimeError::Plan {
            node: node.into(),
            reason: reason.into(),
        }
    }
}
