//! One name for new content, whether or not the name is taken.

use std::fs;
use std::io;
use std::path::Path;

/// Attempts while other processes publish under the same name.
const ATTEMPTS: usize = 64;

/// The steps of a publication that other processes see.
pub(super) trait Names {
    /// Exchanges two names in one step; false where the file system cannot.
    fn exchange(&mut self, one: &Path, other: &Path) -> io::Result<bool>;

    /// Moves `from` to a name that is free.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
}

/// The file system.
pub(super) struct System;

impl Names for System {
    fn exchange(&mut self, one: &Path, other: &Path) -> io::Result<bool> {
        exchange(one, other)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}

/// Gives `new` the name `target`. What had the name stands afterwards where `new` was, or in the folder `aside`.
pub(super) fn put(new: &Path, target: &Path, aside: &Path, names: &mut dyn Names) -> io::Result<()> {
    let mut attempts = 1;
    loop {
        let result = match fs::symlink_metadata(target).is_ok() {
            true => replace(new, target, aside, names),
            false => names.rename(new, target),
        };
        match result {
            Err(error) if attempts < ATTEMPTS && is_race(&error) => attempts += 1,
            other => return other,
        }
    }
}

fn replace(new: &Path, target: &Path, aside: &Path, names: &mut dyn Names) -> io::Result<()> {
    if names.exchange(new, target)? {
        return Ok(());
    }
    if aside.exists() {
        // An attempt before this one lost the name to another process, whose version is the newer one.
        fs::remove_dir_all(aside)?;
    }
    fs::create_dir(aside)?;
    let old = aside.join(target.file_name().unwrap_or_default());
    names.rename(target, &old)?;
    names.rename(new, target).inspect_err(|_| {
        // When this fails too, the folder is kept, and `restore_replaced` puts the old version back.
        let _ = names.rename(&old, target);
    })
}

/// Whether another process took or freed the name between two steps.
fn is_race(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;

    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        // PERM: how some sandboxes refuse a system call that they do not know
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(false)
}
