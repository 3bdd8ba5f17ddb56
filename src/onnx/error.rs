//! Why a model cannot be imported.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A model cannot be imported. Displays as the cause and the place; the hint is for the renderer.
#[derive(Debug, Error)]
pub struct ImportError {
    /// what is wrong, lower case, no trailing period
    pub message: String,
    /// the file concerned
    pub file: PathBuf,
    /// node, tensor, input or byte inside the file; empty when the whole file is meant
    pub place: String,
    /// what the user can do
    pub hint: Option<String>,
}

impl ImportError {
    pub(crate) fn new(file: &Path, place: impl Into<String>, message: impl Into<String>) -> Self {
        ImportError {
            message: message.into(),
            file: file.to_owned(),
            place: place.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  --> {}", self.message, self.file.display())?;
        if !self.place.is_empty() {
            write!(f, ", {}", self.place)?;
        }
        Ok(())
    }
}
