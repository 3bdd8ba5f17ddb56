//! Why a bundle cannot be read or written.

use std::io;
use std::path::{Path, PathBuf};

use fisec_tensor::TensorError;
use thiserror::Error;

use crate::FORMAT;

/// A bundle cannot be read or written.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The folder holds no plan.
    #[error("{} is not a plan: it has no plan.json", .0.display())]
    NotAPlan(PathBuf),
    /// The plan was written in another format.
    #[error("{} is a plan of format {found}, this fisec reads format {FORMAT}", path.display())]
    Version {
        /// the bundle
        path: PathBuf,
        /// its format
        found: u64,
    },
    /// A file is not what it was when the plan was compiled.
    #[error("{} was altered after it was compiled", .0.display())]
    Altered(PathBuf),
    /// A file has another size than when the plan was compiled.
    #[error("{} has {found} bytes, the plan says {expected}", path.display())]
    WrongSize {
        /// the file
        path: PathBuf,
        /// bytes that the plan gives
        expected: u64,
        /// bytes on disk
        found: u64,
    },
    /// A file of the bundle is not there.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// `plan.json` cannot be parsed.
    #[error("{} cannot be read as a plan: {reason}", path.display())]
    Malformed {
        /// `plan.json`
        path: PathBuf,
        /// what the parser says
        reason: String,
    },
    /// The plan contradicts itself.
    #[error("{message}\n  --> {place}")]
    Invalid {
        /// table and entry, e.g. `edit, node conv_in`
        place: String,
        /// what is wrong
        message: String,
    },
    /// A weight's bytes do not fit its type and shape.
    #[error("weight `{name}`: {source}")]
    Weight {
        /// the weight
        name: String,
        /// what does not fit
        source: TensorError,
    },
    /// The place to write to is taken by something else.
    #[error("{} exists and is not a plan", .0.display())]
    Occupied(PathBuf),
    /// The system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// file or folder
        path: PathBuf,
        /// what the system says
        source: io::Error,
    },
}

impl PlanError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> PlanError + '_ {
        move |source| PlanError::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn invalid(place: impl Into<String>, message: impl Into<String>) -> Self {
        PlanError::Invalid {
            place: place.into(),
            message: message.into(),
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            PlanError::NotAPlan(_) => "give the folder that `fisec compile` wrote",
            PlanError::Version { .. } => "compile the model again with this fisec",
            PlanError::Altered(_)
            | PlanError::WrongSize { .. }
            | PlanError::Missing(_)
            | PlanError::Malformed { .. }
            | PlanError::Invalid { .. }
            | PlanError::Weight { .. } => "compile the model again: `fisec compile MODEL -o PLAN`",
            PlanError::Occupied(_) => "choose another place with `-o`",
            PlanError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => "free some space on that disk or choose another place",
                io::ErrorKind::PermissionDenied => "check the permissions of that path",
                _ => return fisec_files::refused(source).map(|refused| refused.hint().to_owned()),
            },
        };
        Some(hint.into())
    }
}
