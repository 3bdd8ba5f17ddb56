//! ONNX Runtime: dense programs, islands, and the pipeline's other networks.
//!
//! The library is loaded at run time; nothing here needs it at build time.

mod bound;
mod library;
mod probe;
mod provider;
mod session;
mod tensor;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use ::ort::environment::Environment;
use ::ort::logging::LogLevel;

use crate::RuntimeError;

pub(crate) use bound::Placed;
pub use library::find_library;
pub use probe::Probed;
pub use provider::Provider;
pub(crate) use provider::Stream;
pub use session::{Outlet, Session};

/// The loaded ONNX Runtime library. One per process: later loads return the first.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    library: PathBuf,
    provider: Provider,
}

static LOADED: OnceLock<OnnxRuntime> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

impl OnnxRuntime {
    /// Loads the library that [`find_library`] finds. Sessions compute with the provider that `FISEC_ORT_PROVIDER` names,
    /// on the CPU where it is not set.
    pub fn load() -> Result<Self, RuntimeError> {
        let library = find_library().ok_or(RuntimeError::OnnxRuntimeMissing)?;
        let loaded = Self::load_from(&library)?;
        match env::var("FISEC_ORT_PROVIDER") {
            Ok(name) => Ok(loaded.with_provider(name.parse().map_err(RuntimeError::Provider)?)),
            Err(_) => Ok(loaded),
        }
    }

    /// The same library, its sessions computing with `provider` where that is possible.
    pub fn with_provider(self, provider: Provider) -> Self {
        OnnxRuntime { provider, ..self }
    }

    /// Loads `library`, unless one is loaded already.
    pub fn load_from(library: &Path) -> Result<Self, RuntimeError> {
        let _one_at_a_time = LOADING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded.clone());
        }
        let unusable = |reason: String| RuntimeError::OnnxRuntimeUnusable {
            path: library.to_path_buf(),
            reason,
        };
        let environment = ::ort::init_from(library)
            .map_err(|error| unusable(error.to_string()))?
            .with_name("fisec")
            .with_telemetry(false)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        environment.set_log_level(LogLevel::Error);
        let loaded = OnnxRuntime {
            environment,
            library: library.to_path_buf(),
            provider: Provider::Cpu,
        };
        Ok(LOADED.get_or_init(|| loaded).clone())
    }

    /// Opens a model. External initializers are memory-mapped beside it. `threads`: 0 takes every core. Where the provider
    /// cannot be used, the next simpler one is: [`Session::provider`] and [`Session::fallback`] say so.
    pub fn session(&self, model: &Path, threads: usize) -> Result<Session, RuntimeError> {
        Session::open(&self.environment, model, threads, self.provider, None)
    }

    /// Opens a model for a device: in the CUDA provider, or the one that was asked for, with all work on `stream`. Falls back
    /// as [`OnnxRuntime::session`] does.
    ///
    /// # Safety
    /// The session is dropped before the stream.
    pub(crate) unsafe fn session_on(
        &self,
        stream: Stream,
        model: &Path,
        threads: usize,
    ) -> Result<Session, RuntimeError> {
        let provider = match self.provider {
            Provider::Cpu => Provider::Cuda,
            other => other,
        };
        Session::open(&self.environment, model, threads, provider, Some(stream))
    }

    /// What sessions are to compute with.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The library in use.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Version and build of the library.
    pub fn build_info(&self) -> &'static str {
        ::ort::info()
    }
}
