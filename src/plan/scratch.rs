//! Folders that exist only until what is in them is complete.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

static ALIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A temporary folder beside its final place, so that a rename publishes it. Removed on drop unless published.
#[derive(Debug)]
pub struct ScratchFolder {
    path: PathBuf,
    published: bool,
}

impl ScratchFolder {
    /// Creates an empty folder next to `target`, whose parent is created when missing.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!(".{name}.tmp-{}-{count}", process::id()));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        alive().insert(path.clone());
        let folder = ScratchFolder { path, published: false };
        fs::create_dir(&folder.path)?;
        Ok(folder)
    }

    /// Where the folder is until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the folder to `target`. What was there is removed, and stays when the move fails.
    pub fn publish(mut self, target: &Path) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push("-old");
        let aside = PathBuf::from(aside);
        let replaces = target.exists();
        if replaces {
            fs::rename(target, &aside)?;
        }
        if let Err(error) = fs::rename(&self.path, target) {
            if replaces {
                fs::rename(&aside, target)?;
            }
            return Err(error);
        }
        self.published = true;
        if replaces {
            fs::remove_dir_all(&aside)?;
        }
        Ok(())
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        alive().remove(&self.path);
        if !self.published {
            // Nothing can be done about a folder that cannot be removed; it is empty of meaning either way.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes every scratch folder of this process: for a process that is about to exit without unwinding.
pub fn remove_all_scratch() {
    for path in std::mem::take(&mut *alive()) {
        let _ = fs::remove_dir_all(path);
    }
}

fn alive() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    ALIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_folders_leave_nothing() {
        let home = tempfile::tempdir().unwrap();
        let folder = ScratchFolder::beside(&home.path().join("a/plan")).unwrap();
        fs::write(folder.path().join("x"), "y").unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(home.path().join("a")).unwrap().count(), 0);
    }

    #[test]
    fn publishing_replaces_the_folder_that_was_there() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("plan");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), "").unwrap();
        let folder = ScratchFolder::beside(&target).unwrap();
        fs::write(folder.path().join("new"), "").unwrap();
        folder.publish(&target).unwrap();
        assert!(target.join("new").exists() && !target.join("old").exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
