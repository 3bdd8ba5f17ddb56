//! Folders that exist only until what is in them is complete.
//!
//! ```text
//! .NAME.tmp-<16 hex digits>/    beside NAME, so on the same file system
//!     fisec.lock                locked by the process that owns the folder for as long as it runs
//!     new/                      what is being written; publication gives it the name NAME
//!     old/NAME                  what had the name before, on file systems that cannot exchange two names
//! ```
//!
//! The kernel releases the lock when the process ends, however it ends and whatever its process id was: a folder whose
//! lock is free is a *leftover*. Docs: `docs/decisions/0020-one-exchange-publishes.md`.

mod known;
mod leftover;
mod names;
mod owner;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

pub use leftover::{Scratch, bytes_on_disk, list_scratch, remove_leftover, remove_leftovers, restore_replaced};
use names::{Names, System};
use owner::Owner;

/// What is being written.
const NEW: &str = "new";

/// Holds the version that is being replaced.
const OLD: &str = "old";

static ALIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A temporary folder beside its final place. [`ScratchFolder::publish`] gives its content that place in one step; dropped
/// before that, the folder and its content are removed.
#[derive(Debug)]
pub struct ScratchFolder {
    place: PathBuf,
    content: PathBuf,
    // The lock is released after the folder is gone.
    _owner: Owner,
}

impl ScratchFolder {
    /// Creates an empty folder next to `target`, whose parent is created when missing. Leftovers of earlier folders for
    /// the same target are removed.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let parent = parent_of(target);
        fs::create_dir_all(parent)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // What cannot be listed or removed does not matter to the new folder, which has a name of its own.
        let _ = leftover::remove_of(parent, &name);
        let (place, owner) = owner::create(parent, &name)?;
        alive().insert(place.clone());
        let folder = ScratchFolder {
            content: place.join(NEW),
            place,
            _owner: owner,
        };
        fs::create_dir(&folder.content)?;
        Ok(folder)
    }

    /// Where the content is until it is published.
    pub fn path(&self) -> &Path {
        &self.content
    }

    /// Writes the content through to the disk, so that a power cut after publication leaves it whole.
    pub fn sync(&self) -> io::Result<()> {
        sync_all(&self.content)
    }

    /// Gives the content the name `target`. What had the name is removed afterwards. Under the name stands at every moment
    /// the old content or the new one; on file systems that cannot exchange two names, a process that is killed between two
    /// renames leaves neither, and [`restore_replaced`] puts the old one back.
    pub fn publish(self, target: &Path) -> io::Result<()> {
        self.publish_by(target, &mut System)
    }

    fn publish_by(&self, target: &Path, names: &mut dyn Names) -> io::Result<()> {
        {
            // `remove_all_scratch` waits until no version stands aside, and nothing that it removed is published.
            let alive = alive();
            if !alive.contains(&self.place) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let aside = self.place.join(OLD);
            names::put(&self.content, target, &aside, names)?;
            // It has been replaced: nothing puts it back from here on.
            let _ = fs::remove_dir_all(aside);
        }
        sync_folder(parent_of(target));
        Ok(())
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        alive().remove(&self.place);
        // What cannot be removed now is a leftover as soon as the lock is free.
        let _ = leftover::dispose(&self.place);
    }
}

/// Removes every scratch folder of this process: for a process that is about to exit without unwinding.
pub fn remove_all_scratch() {
    for place in std::mem::take(&mut *alive()) {
        let _ = leftover::dispose(&place);
    }
}

fn alive() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    ALIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn parent_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_all(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return File::open(path)?.sync_all();
    }
    for entry in fs::read_dir(path)? {
        sync_all(&entry?.path())?;
    }
    sync_folder(path);
    Ok(())
}

/// Writes a folder's names through to the disk, where the system can do that.
fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

#[cfg(test)]
mod tests;
