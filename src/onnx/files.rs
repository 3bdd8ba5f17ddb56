//! Memory maps of the model and of its external data.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use crate::ImportError;

/// The files of one model, each mapped once.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    model: PathBuf,
    folder: PathBuf,
    mapped: BTreeMap<PathBuf, Bytes>,
}

impl ModelFiles {
    /// Maps the model itself and returns its bytes.
    pub fn open(model: &Path) -> Result<(Self, Bytes), ImportError> {
        let bytes = map(model).map_err(|error| {
            let hint = fisec_files::refused(&error).map(|refused| refused.hint().to_owned());
            let failure = ImportError::new(model, "", format!("cannot read the model: {error}"));
            ImportError { hint, ..failure }
        })?;
        let files = ModelFiles {
            model: model.to_owned(),
            folder: model.parent().map(Path::to_owned).unwrap_or_default(),
            mapped: BTreeMap::from([(model.to_owned(), bytes.clone())]),
        };
        Ok((files, bytes))
    }

    /// The path of the model.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// All files mapped so far.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.mapped.keys().cloned().collect()
    }

    /// `length` bytes at `offset` of a file beside the model; the rest of the file when no length is given.
    pub fn external(
        &mut self,
        place: &str,
        location: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Bytes, ImportError> {
        if !stays_inside(location) {
            let message = format!("external data `{location}` lies outside the model's folder");
            return Err(ImportError::new(&self.model, place, message)
                .hint("external data must be in the folder of the model or below it"));
        }
        let path = self.folder.join(location);
        if !self.mapped.contains_key(&path) {
            let bytes = map(&path).map_err(|error| {
                let message = format!("cannot read external data `{location}`: {error}");
                let whole = "copy the whole folder of the export, not only the .onnx file";
                let hint = fisec_files::refused(&error).map_or(whole, |refused| refused.hint());
                ImportError::new(&self.model, place, message).hint(hint)
            })?;
            self.mapped.insert(path.clone(), bytes);
        }
        let bytes = &self.mapped[&path];
        let size = bytes.len() as u64;
        let end = length.map_or(Some(size), |length| offset.checked_add(length));
        match end {
            Some(end) if offset <= end && end <= size => Ok(bytes.slice(offset as usize..end as usize)),
            _ => {
                let wanted = length.map_or(String::new(), |length| format!(" {length} bytes"));
                let message = format!("external data wants{wanted} at byte {offset}, the file has {size}");
                Err(ImportError::new(&path, place, message).hint("the file is truncated or belongs to another export"))
            }
        }
    }
}

/// Whether a location names a file in the folder or below it. Symbolic links there are the user's and may lead away.
fn stays_inside(location: &str) -> bool {
    let path = Path::new(location);
    !location.is_empty()
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn map(path: &Path) -> std::io::Result<Bytes> {
    let file = fisec_files::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is only read. Truncating the file while it is mapped would end the process by a signal, which no
    // reader of mapped weights can prevent; model files are not written while they are compiled.
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapped))
}
