//! Why an image is not remembered, or not found.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A remembered image cannot be written, read or removed.
#[derive(Debug, Error)]
pub enum CacheError {
    /// No image has this id.
    #[error("no remembered image `{0}`")]
    Unknown(String),
    /// Several ids begin like this.
    #[error("`{prefix}` begins the ids of several images: {}", ids.join(", "))]
    Ambiguous {
        /// what was asked for
        prefix: String,
        /// the candidates
        ids: Vec<String>,
    },
    /// A file of the entry is missing, short or altered.
    #[error("remembered image `{id}` is damaged: {reason}")]
    Damaged {
        /// the image
        id: String,
        /// which file, and how
        reason: String,
    },
    /// Another process, or this one, is using the entry.
    #[error("remembered image `{0}` is in use")]
    InUse(String),
    /// The image is larger than everything that may be kept.
    #[error("the image's cache takes {needed} bytes, at most {limit} may be kept")]
    TooLarge {
        /// bytes of the image
        needed: u64,
        /// the size cap
        limit: u64,
    },
    /// Not every slot of every step was recorded.
    #[error("step {0} was not recorded completely")]
    Incomplete(usize),
    /// The system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// file or folder
        path: PathBuf,
        /// what the system says
        source: io::Error,
    },
}

impl CacheError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> CacheError + '_ {
        move |source| CacheError::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the disk has no room left.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, CacheError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            CacheError::Unknown(_) => Some("`fisec sessions` lists them"),
            CacheError::Ambiguous { .. } => Some("give more characters of the id"),
            CacheError::Damaged { .. } => Some("`fisec sessions remove ID`, then make the image again"),
            CacheError::InUse(_) => Some("wait until the other run has ended"),
            CacheError::TooLarge { .. } => Some("raise FISEC_CACHE_LIMIT, e.g. `FISEC_CACHE_LIMIT=50G`"),
            CacheError::Io { .. } if self.is_disk_full() => {
                Some("free space with `fisec sessions prune --keep SIZE`, or set FISEC_HOME to another disk")
            }
            CacheError::Io { source, .. } if is_no_place(source.kind()) => {
                Some("set FISEC_HOME to a folder that you may write to")
            }
            _ => None,
        }
    }
}

/// Whether nothing can be written there.
fn is_no_place(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists
    )
}
