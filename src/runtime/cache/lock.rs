//! Which entries are in use, across processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::SystemTime;

const NAME: &str = "lock";

/// Holds an entry while it is read.
#[derive(Debug)]
pub(crate) struct InUse(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

/// Creates the lock file of a new entry.
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    File::create(folder.join(NAME)).map(drop)
}

/// Marks the entry as in use and as used now.
pub(crate) fn hold(folder: &Path) -> io::Result<InUse> {
    // A store on a read-only disk can be read all the same.
    let file = match OpenOptions::new().write(true).open(folder.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(_) => File::open(folder.join(NAME))?,
    };
    file.lock_shared()?;
    let _ = file.set_modified(SystemTime::now());
    Ok(InUse(file))
}

/// Whether nobody holds the entry. The answer holds as long as the returned file.
pub(crate) fn claim(folder: &Path) -> io::Result<Option<File>> {
    let file = match File::open(folder.join(NAME)) {
        Ok(file) => file,
        // Without its lock file an entry cannot be opened, so nobody is using it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return File::open(folder).map(Some),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// When the entry was last opened.
pub(crate) fn last_used(folder: &Path) -> Option<SystemTime> {
    folder
        .join(NAME)
        .metadata()
        .and_then(|metadata| metadata.modified())
        .ok()
}
