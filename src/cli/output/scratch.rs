//! Files that exist only until they are complete.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Files of this process that are not complete.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Random names may be taken; a folder in which so many are is not to be written.
const ATTEMPTS: usize = 16;

/// A file under a random name. Removed on drop unless it was renamed.
#[derive(Debug)]
pub struct ScratchFile {
    path: PathBuf,
}

impl ScratchFile {
    /// Creates an empty file in `folder`. The short name leaves the choice of the final one free.
    pub fn create_in(folder: &Path) -> io::Result<(Self, File)> {
        let (path, file) = create(|name| {
            let path = folder.join(format!(".fisec-{name}.tmp"));
            // Registered first: a signal between the two finds what it has to remove.
            unfinished().insert(path.clone());
            let created = File::create_new(&path);
            if created.is_err() {
                unfinished().remove(&path);
            }
            (path, created)
        })?;
        Ok((ScratchFile { path }, file))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, which may be that of another file.
    pub fn rename(&self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        // After a rename there is nothing under this name.
        let _ = fs::remove_file(&self.path);
        unfinished().remove(&self.path);
    }
}

/// Removes every scratch file of this process: for a process that is about to exit without unwinding.
pub fn remove_scratch() {
    for path in std::mem::take(&mut *unfinished()) {
        let _ = fs::remove_file(path);
    }
}

/// Writes bytes that found no other place to a new file in the system's folder for temporary files.
pub fn rescue(bytes: &[u8], extension: &str) -> io::Result<PathBuf> {
    let (path, mut file) = create(|name| {
        let path = env::temp_dir().join(format!("fisec-{name}.{extension}"));
        let created = File::create_new(&path);
        (path, created)
    })?;
    match file.write_all(bytes) {
        Ok(()) => Ok(path),
        Err(error) => {
            let _ = fs::remove_file(&path);
            Err(error)
        }
    }
}

fn create(attempt: impl Fn(&str) -> (PathBuf, io::Result<File>)) -> io::Result<(PathBuf, File)> {
    for _ in 0..ATTEMPTS {
        // The standard library's only source of randomness: keys of a hasher that come from the system.
        let (path, created) = attempt(&format!("{:016x}", RandomState::new().hash_one(std::process::id())));
        match created {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (path, file)),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
