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

/// A file that has no name yet, or a random one where the file system has no files without names. It goes on drop unless it
/// was published. A process that is killed leaves nothing behind where names can be given late.
#[derive(Debug)]
pub struct ScratchFile {
    /// the random name
    path: PathBuf,
    file: File,
    is_named: bool,
}

impl ScratchFile {
    /// Creates an empty file in `folder`. The short name leaves the choice of the final one free.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        if let Some(file) = unnamed::create_in(folder) {
            return Ok(ScratchFile {
                path: folder.join(scratch_name()),
                file,
                is_named: false,
            });
        }
        let (path, file) = create(|| {
            let path = folder.join(scratch_name());
            // Registered first: a signal between the two finds what it has to remove.
            unfinished().insert(path.clone());
            let created = File::options().read(true).write(true).create_new(true).open(&path);
            if created.is_err() {
                unfinished().remove(&path);
            }
            (path, created)
        })?;
        Ok(ScratchFile {
            path,
            file,
            is_named: true,
        })
    }

    /// The open file, for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, which may be that of another file.
    pub fn publish(&self, target: &Path) -> io::Result<()> {
        if self.is_named {
            return fs::rename(&self.path, target);
        }
        match unnamed::link(&self.file, target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => return linked,
        }
        unfinished().insert(self.path.clone());
        unnamed::link(&self.file, &self.path)?;
        fs::rename(&self.path, target)
    }
}

/// Files without a name, which the kernel removes when the last process that has them open ends.
#[cfg(target_os = "linux")]
mod unnamed {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

    /// `None` where the file system, or the kernel, has none.
    pub fn create_in(folder: &Path) -> Option<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = open(folder, flags, Mode::from_raw_mode(0o666)).ok()?;
        // The way to the name leads through this folder, which some containers do not mount.
        let file = File::from(file);
        Path::new(&entry(&file)).exists().then_some(file)
    }

    pub fn link(file: &File, target: &Path) -> io::Result<()> {
        Ok(linkat(CWD, entry(file), CWD, target, AtFlags::SYMLINK_FOLLOW)?)
    }

    fn entry(file: &File) -> String {
        format!("/proc/self/fd/{}", file.as_raw_fd())
    }
}

#[cfg(not(target_os = "linux"))]
mod unnamed {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    pub fn create_in(_folder: &Path) -> Option<File> {
        None
    }

    pub fn link(_file: &File, _target: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn scratch_name() -> String {
    format!(".fisec-{}.tmp", random())
}

/// The standard library's only source of randomness: keys of a hasher that come from the system.
fn random() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
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
    let (path, mut file) = create(|| {
        let path = env::temp_dir().join(format!("fisec-{}.{extension}", random()));
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

fn create(attempt: impl Fn() -> (PathBuf, io::Result<File>)) -> io::Result<(PathBuf, File)> {
    for _ in 0..ATTEMPTS {
        let (path, created) = attempt();
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
