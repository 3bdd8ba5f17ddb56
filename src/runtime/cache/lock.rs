//! Who uses what, across processes and machines: locks on files, which the kernel releases when a process ends.
//!
//! Order: the lock of the store first, then those of entries. A process that has the store's lock asks for entries without
//! waiting, so that no two wait for each other; one that uses entries may wait for the store's lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::SystemTime;

const NAME: &str = "lock";

/// Attempts to lock an entry that is replaced meanwhile.
const ATTEMPTS: usize = 16;

/// Holds an entry while it is read.
#[derive(Debug)]
pub(crate) struct InUse(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

/// Holds the store while entries get or lose their names.
#[derive(Debug)]
pub(crate) struct StoreLock(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] Option<File>);

/// An entry that a process which has the store's lock asks for.
pub(crate) enum Claim {
    /// nothing has the name
    Gone,
    /// a process reads it
    Used,
    /// until the file is closed, reading it has to wait
    Free(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] Option<File>),
}

/// Waits for the store's lock, a file beside the folder of images. A store that cannot be written, or is on a file system
/// without locks, has none: there, processes that change it at once may fail, but lose nothing.
pub(crate) fn of_store(images: &Path) -> StoreLock {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = fisec_files::open_itself(&mut options, &images.with_extension("lock")).ok();
    StoreLock(file.inspect(|file| wait_for(|| file.lock())))
}

/// Waits for a lock. On a file system without locks the answer comes at once, and nothing is locked.
fn wait_for(lock: impl Fn() -> io::Result<()>) {
    while lock().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {}
}

/// Creates the lock file of a new entry.
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    fisec_files::open_itself(&mut options, &folder.join(NAME)).map(drop)
}

/// Marks the entry as in use and as used now. Waits while the entry is removed or replaced; what has the name afterwards is
/// held, and `NotFound` is returned when nothing has it.
pub(crate) fn hold(folder: &Path) -> io::Result<InUse> {
    for _ in 0..ATTEMPTS {
        let file = open(folder)?;
        wait_for(|| file.lock_shared());
        if fisec_files::is_at(&file, &folder.join(NAME)) {
            let _ = file.set_modified(SystemTime::now());
            return Ok(InUse(file));
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Asks for an entry, to remove or replace it.
pub(crate) fn claim(folder: &Path) -> io::Result<Claim> {
    let file = match open(folder) {
        Ok(file) => file,
        // Without its lock file, and with something else in its place, an entry cannot be opened, so no process reads it.
        Err(error) if is_absent(&error) || fisec_files::refused(&error).is_some() => {
            return Ok(match fs::symlink_metadata(folder) {
                Ok(_) => Claim::Free(None),
                Err(_) => Claim::Gone,
            });
        }
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(Claim::Used),
        // also where the file system has no locks
        _ => Ok(Claim::Free(Some(file))),
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

/// For writing, which exclusive locks on network file systems need. A store on a read-only disk can be read all the same.
fn open(folder: &Path) -> io::Result<File> {
    let path = folder.join(NAME);
    match fisec_files::open_itself(OpenOptions::new().read(true).write(true), &path) {
        Err(error) if !is_absent(&error) => fisec_files::open_itself(OpenOptions::new().read(true), &path),
        other => other,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
