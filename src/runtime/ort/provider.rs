//! What ONNX Runtime computes with: its CPU kernels, or an execution provider.

use std::ffi::c_void;
use std::fmt;
use std::str::FromStr;

use ::ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};

/// An execution provider of ONNX Runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// ONNX Runtime's own CPU kernels: always there
    #[default]
    Cpu,
    /// cuBLAS and cuDNN; needs `libonnxruntime_providers_cuda.so` beside the library
    Cuda,
    /// TensorRT, with CUDA for what it does not take; only in builds with the feature `tensorrt`
    TensorRt,
}

impl Provider {
    /// All providers, simplest first.
    pub const ALL: [Provider; 3] = [Provider::Cpu, Provider::Cuda, Provider::TensorRt];

    /// Name as in `FISEC_ORT_PROVIDER`.
    pub const fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::TensorRt => "tensorrt",
        }
    }

    /// The providers to try for a session, the wanted one first. The CPU serves in the end.
    pub(super) const fn fallbacks(self) -> &'static [Provider] {
        match self {
            Provider::Cpu => &[Provider::Cpu],
            Provider::Cuda => &[Provider::Cuda, Provider::Cpu],
            Provider::TensorRt => &[Provider::TensorRt, Provider::Cuda, Provider::Cpu],
        }
    }

    /// Whether the loaded library was built with it. It may still find no device.
    pub fn is_offered(self) -> bool {
        match self {
            Provider::Cpu => true,
            Provider::Cuda => ep::CUDA::is_available().unwrap_or(false),
            Provider::TensorRt => tensorrt_is_offered(),
        }
    }

    /// What to register in a session, best first, on a stream of the caller's where one is given. Registering fails loudly,
    /// so that falling back can be reported.
    pub(super) fn dispatches(self, stream: Option<Stream>) -> Vec<ExecutionProviderDispatch> {
        match self {
            Provider::Cpu => Vec::new(),
            Provider::Cuda => vec![cuda(stream)],
            Provider::TensorRt => tensorrt().into_iter().chain([cuda(stream)]).collect(),
        }
    }
}

/// A CUDA stream of the device's primary context that outlives every session on it.
#[derive(Clone, Copy)]
pub(crate) struct Stream(pub(crate) *mut c_void);

/// Sums in full f32: TF32 would round what a model declares as f32.
fn cuda(stream: Option<Stream>) -> ExecutionProviderDispatch {
    let provider = ep::CUDA::default()
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(false);
    let provider = match stream {
        // SAFETY: what `Stream` says.
        Some(Stream(stream)) => unsafe { provider.with_compute_stream(stream.cast()) },
        None => provider,
    };
    provider.build().error_on_failure()
}

#[cfg(feature = "tensorrt")]
fn tensorrt_is_offered() -> bool {
    ep::TensorRT::is_available().unwrap_or(false)
}

#[cfg(not(feature = "tensorrt"))]
fn tensorrt_is_offered() -> bool {
    false
}

/// Building an engine takes minutes: it is kept, in ONNX Runtime's default place beside the model.
#[cfg(feature = "tensorrt")]
fn tensorrt() -> Option<ExecutionProviderDispatch> {
    let provider = ep::TensorRT::default()
        .with_fp16(true)
        .with_engine_cache(true)
        .with_timing_cache(true);
    Some(provider.build().error_on_failure())
}

#[cfg(not(feature = "tensorrt"))]
fn tensorrt() -> Option<ExecutionProviderDispatch> {
    None
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|provider| provider.name() == text);
        known.ok_or_else(|| format!("`{text}` is none of cpu, cuda, tensorrt"))
    }
}
