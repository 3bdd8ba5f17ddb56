//! Which process a scratch folder belongs to: the one that holds the lock in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

/// The lock file of a scratch folder.
pub(super) const LOCK: &str = "fisec.lock";

/// Names tried before giving up.
const ATTEMPTS: usize = 16;

/// Bytes of the target's name that the folder's name has at most: names end at 255 bytes.
const LONGEST: usize = 200;

/// How often a lock is asked for while another process only looks whether it is free.
const LOOKS: usize = 200;

/// Where a file system has no locks, a folder counts as left over after this time.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The lock of a scratch folder, held until this is dropped.
#[derive(Debug)]
pub(super) struct Owner(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

#[cfg(test)]
impl Owner {
    pub(super) fn of(file: File) -> Self {
        Owner(file)
    }
}

/// Creates a scratch folder for `name` in `parent`, with its lock held.
pub(super) fn create(parent: &Path, name: &str) -> io::Result<(PathBuf, Owner)> {
    let mut last = io::ErrorKind::AlreadyExists.into();
    for _ in 0..ATTEMPTS {
        let place = parent.join(format!(".{}.tmp-{:016x}", shortened(name), random()));
        match fs::create_dir(&place).and_then(|()| lock_new(&place)) {
            Ok(Some(owner)) => return Ok((place, owner)),
            // another process took the folder for a leftover between its creation and its lock
            Ok(None) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                last = error
            }
            Err(error) => {
                let _ = fs::remove_dir(&place);
                return Err(error);
            }
        }
    }
    Err(last)
}

fn lock_new(place: &Path) -> io::Result<Option<Owner>> {
    let file = open(place)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        // without locks on this file system, age decides
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    Ok(fisec_files::is_at(&file, &place.join(LOCK)).then_some(Owner(file)))
}

/// Takes over a folder whose process has ended; `None` while that runs.
pub(super) fn claim(place: &Path) -> io::Result<Option<Owner>> {
    let file = open(place)?;
    for _ in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(fisec_files::is_at(&file, &place.join(LOCK)).then_some(Owner(file))),
            Err(TryLockError::Error(_)) => return Ok(is_old(place).then_some(Owner(file))),
            Err(TryLockError::WouldBlock) => {}
        }
        // A process that looks whether the lock is free holds a shared one for a moment.
        if file.try_lock_shared().is_err() {
            return Ok(None);
        }
        file.unlock()?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(None)
}

/// Whether the folder's process runs, without taking the folder over.
pub(super) fn is_alive(place: &Path) -> bool {
    let Ok(file) = open_lock(OpenOptions::new().read(true), place) else {
        return false;
    };
    match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(_)) => !is_old(place),
    }
}

/// Whether the lock in a folder is a regular file, or there is none yet.
pub(super) fn can_be_locked(place: &Path) -> bool {
    match fs::symlink_metadata(place.join(LOCK)) {
        Ok(metadata) => metadata.is_file(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Opened for writing, which locks on network file systems need.
fn open(place: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    open_lock(&mut options, place)
}

/// Opens the lock of a real folder: a regular file, no symbolic link, and without waiting for a writer of a named pipe.
fn open_lock(options: &mut OpenOptions, place: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(place)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    fisec_files::open_itself(options, &place.join(LOCK))
}

fn is_old(place: &Path) -> bool {
    let modified = fs::symlink_metadata(place).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE))
}

/// The hasher's keys come from the system's random numbers.
fn random() -> u64 {
    RandomState::new().hash_one((std::process::id(), SystemTime::now()))
}

/// The part of a target's name that its scratch folders are named after.
pub(super) fn shortened(name: &str) -> &str {
    let mut end = name.len().min(LONGEST);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}
