//! What stands at a path that is to be written.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;

/// As many symbolic links as the system follows itself.
const MOST_LINKS: usize = 40;

/// Number of stdout.
pub const STDOUT: u32 = 1;

/// What stands at a path, symbolic links followed.
#[derive(Debug)]
pub enum Place {
    /// an open file of this process: `-`, `/dev/stdout`, `/dev/fd/3`, a shell's `>(command)`
    Descriptor(u32),
    /// a device or a pipe, which is opened and written
    Stream(PathBuf, Metadata),
    /// a regular file, or a name that is free
    File(PathBuf, Option<Metadata>),
    /// a folder, or a name that can only be one
    Folder,
}

impl Place {
    /// Follows `path`.
    ///
    /// # Errors
    /// What the system says where the path cannot be followed: a missing folder, a file in a folder's place, a name that is
    /// too long, links in a circle.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Place::Descriptor(STDOUT));
        }
        if path.as_os_str().is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "the path is empty"));
        }
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            match descriptor(&path) {
                Some(Owner::Us(number)) => return Ok(Place::Descriptor(number)),
                Some(Owner::Another) => return Ok(Place::Stream(path.clone(), fs::metadata(&path)?)),
                None => {}
            }
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == ErrorKind::NotFound => return free(path),
                Err(error) => return Err(error),
            };
            if metadata.is_symlink() {
                // A relative link starts from the folder that holds it.
                path = folder_of(&path).join(fs::read_link(&path)?);
            } else if metadata.is_dir() {
                return Ok(Place::Folder);
            } else if metadata.is_file() {
                return Ok(Place::File(path, Some(metadata)));
            } else {
                return Ok(Place::Stream(path, metadata));
            }
        }
        Err(circle())
    }
}

/// The folder that a path names, symbolic links followed also where nothing is there yet.
pub fn resolve_folder(path: &Path) -> Result<PathBuf, Failure> {
    // without a slash at the end, which would hide a link
    let mut resolved: PathBuf = path.components().collect();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&resolved) {
            Ok(link) => resolved = folder_of(&resolved).join(link),
            Err(_) => return Ok(resolved),
        }
    }
    Err(Failure::file(path)(circle()))
}

fn circle() -> io::Error {
    io::Error::other("its symbolic links lead in a circle")
}

/// The folder that holds a path's last name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// A name that nothing has yet, in a folder that is there.
fn free(path: PathBuf) -> io::Result<Place> {
    let ends_like_a_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.file_name().is_none();
    if ends_like_a_folder && fs::metadata(folder_of(&path)).is_ok() {
        return Ok(Place::Folder);
    }
    match fs::metadata(folder_of(&path)) {
        Ok(folder) if folder.is_dir() => Ok(Place::File(path, None)),
        Ok(_) => Err(ErrorKind::NotADirectory.into()),
        Err(error) => Err(error),
    }
}

/// Whose open file a path names.
enum Owner {
    Us(u32),
    Another,
}

/// The open file that a path in `/dev/fd` or `/proc/PID/fd` names.
fn descriptor(path: &Path) -> Option<Owner> {
    let number = path.file_name()?.to_str()?.parse().ok()?;
    let folder = fs::canonicalize(path.parent()?).ok()?;
    // Where `/dev/fd` is a folder of its own it holds the files of the process that looks.
    if folder == Path::new("/dev/fd") {
        return Some(Owner::Us(number));
    }
    let names: Vec<&str> = folder.to_str()?.split('/').collect();
    let (["", "proc", process, "fd"] | ["", "proc", process, "task", _, "fd"]) = names[..] else {
        return None;
    };
    let own = fs::read_link("/proc/self").ok()?;
    Some(match own.as_os_str() == process {
        true => Owner::Us(number),
        false => Owner::Another,
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file_at(path: &Path) -> (PathBuf, bool) {
        match Place::of(path).unwrap() {
            Place::File(path, existing) => (path, existing.is_some()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn links_are_followed_to_files_that_are_there_or_not() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        symlink("folder/target", at("link")).unwrap();
        symlink("link", at("chain")).unwrap();
        assert_eq!(file_at(&at("chain")), (at("folder/target"), false));
        fs::write(at("folder/target"), "").unwrap();
        assert_eq!(file_at(&at("chain")), (at("folder/target"), true));
        symlink("circle", at("circle")).unwrap();
        assert!(Place::of(&at("circle")).is_err());
    }

    #[test]
    fn what_is_no_file_is_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        assert!(matches!(Place::of(home.path()), Ok(Place::Folder)));
        assert!(matches!(Place::of(&at("new/")), Ok(Place::Folder)));
        assert!(matches!(Place::of(Path::new("..")), Ok(Place::Folder)));
        assert!(matches!(Place::of(Path::new("-")), Ok(Place::Descriptor(1))));
        assert!(matches!(Place::of(Path::new("/dev/stdout")), Ok(Place::Descriptor(1))));
        assert!(matches!(Place::of(Path::new("/dev/fd/2")), Ok(Place::Descriptor(2))));
        assert!(matches!(Place::of(Path::new("/dev/null")), Ok(Place::Stream(..))));
        fs::write(at("file"), "").unwrap();
        let kind = |path: &Path| Place::of(path).unwrap_err().kind();
        assert_eq!(kind(&at("file/x.png")), ErrorKind::NotADirectory);
        assert_eq!(kind(&at("file/")), ErrorKind::NotADirectory);
        assert_eq!(kind(&at("missing/x.png")), ErrorKind::NotFound);
        assert_eq!(kind(&at(&"n".repeat(256))), ErrorKind::InvalidFilename);
        assert_eq!(kind(Path::new("")), ErrorKind::NotFound);
    }
}
