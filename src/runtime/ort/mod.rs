//! ONNX Runtime: dense programs, islands, and the pipeline's other networks.
//!
//! The library is loaded at run time; nothing here needs it at build time.

mod library;
mod session;
mod tensor;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use ::ort::environment::Environment;
use ::ort::logging::LogLevel;

use crate::RuntimeError;

pub use library::find_library;
pub use session::{Outlet, Session};

/// The loaded ONNX Runtime library. One per process: later loads return the first.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    library: PathBuf,
}

static LOADED: OnceLock<OnnxRuntime> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

impl OnnxRuntime {
    /// Loads the library that [`find_library`] finds.
    pub fn load() -> Result<Self, RuntimeError> {
        let library = find_library().ok_or(RuntimeError::OnnxRuntimeMissing)?;
        Self::load_from(&library)
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
        };
        Ok(LOADED.get_or_init(|| loaded).clone())
    }

    /// Opens a model. External initializers are memory-mapped beside it. `threads`: 0 takes every core.
    pub fn session(&self, model: &Path, threads: usize) -> Result<Session, RuntimeError> {
        Session::open(&self.environment, model, threads)
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
