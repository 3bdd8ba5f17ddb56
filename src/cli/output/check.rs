//! Output paths are checked before the work: what cannot be written is said at once.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::descriptor;
use super::place::{Place, STDOUT, folder_of};
use super::scratch::ScratchFile;
use crate::cli::failure::Failure;
use crate::cli::printable::shell_word;

/// A file that a command is going to write, or one that it reads.
#[derive(Clone, Debug)]
pub struct Planned<'a> {
    /// how the user named it: `-o`, `--report`, `the model`
    pub role: &'a str,
    /// where it is
    pub path: PathBuf,
}

/// A folder whose files stand for each other, so that no output may be among them.
#[derive(Clone, Copy, Debug)]
pub struct Closed<'a> {
    /// what it is: `the plan`
    pub role: &'a str,
    /// where it is
    pub path: &'a Path,
}

/// Fails unless every output can be written, each to a place of its own, and none to a place of `inputs` or into one of the
/// `closed` folders. Nothing is changed.
pub fn check(outputs: &[Planned<'_>], inputs: &[Planned<'_>], closed: &[Closed<'_>]) -> Result<(), Failure> {
    let mut taken: Vec<(Identity, &Planned<'_>)> = Vec::new();
    for output in outputs {
        let place = Place::of(&output.path).map_err(|error| unreachable(&output.path, error))?;
        check_writable(output, &place)?;
        let Some(identity) = Identity::of(&place) else { continue };
        if let Some((_, other)) = taken.iter().find(|(known, _)| *known == identity) {
            return Err(same_place(other, output));
        }
        let is_input = |input: &&Planned<'_>| {
            let place = Place::of(&input.path).ok();
            place.as_ref().and_then(Identity::of).as_ref() == Some(&identity)
        };
        if let Some(input) = inputs.iter().find(is_input) {
            return Err(would_replace(output, input.role));
        }
        if let Some(folder) = closed.iter().find(|folder| lies_in(&place, folder.path)) {
            return Err(would_replace(output, &format!("a part of {}", folder.role)));
        }
        taken.push((identity, output));
    }
    Ok(())
}

fn same_place(first: &Planned<'_>, second: &Planned<'_>) -> Failure {
    let path = second.path.display();
    let message = match first.role == second.role {
        true => format!("{path}: two files of `{}` would be written there", first.role),
        false => format!(
            "{path}: `{}` and `{}` would be written to the same place",
            first.role, second.role
        ),
    };
    Failure::new(message).hint("give each its own name")
}

fn would_replace(output: &Planned<'_>, what: &str) -> Failure {
    Failure::new(format!(
        "{}: `{}` would replace {what}",
        output.path.display(),
        output.role
    ))
    .hint(format!("give `{}` a name of its own in another folder", output.role))
}

/// The identity of an output's file, equal for all spellings of its path. Character devices have none, so that several
/// outputs may go to one.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// a name in a folder
    Name(Node, std::ffi::OsString),
    /// a pipe
    Stream(Node),
    /// an open file
    Descriptor(u32),
}

/// A file or folder as the system knows it.
#[cfg(unix)]
type Node = (u64, u64);
#[cfg(not(unix))]
type Node = PathBuf;

impl Identity {
    fn of(place: &Place) -> Option<Self> {
        match place {
            Place::Folder => None,
            Place::Descriptor(number) => Some(Identity::Descriptor(*number)),
            Place::Stream(_, metadata) if is_character_device(metadata) => None,
            Place::Stream(path, _) => node(path).map(Identity::Stream),
            Place::File(path, _) => {
                let folder = node(folder_of(path))?;
                Some(Identity::Name(folder, path.file_name()?.to_owned()))
            }
        }
    }
}

#[cfg(unix)]
fn node(path: &Path) -> Option<Node> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn node(path: &Path) -> Option<Node> {
    fs::canonicalize(path).ok()
}

#[cfg(unix)]
fn is_character_device(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;

    metadata.file_type().is_char_device()
}

#[cfg(not(unix))]
fn is_character_device(_: &Metadata) -> bool {
    false
}

#[cfg(unix)]
fn is_socket(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;

    metadata.file_type().is_socket()
}

#[cfg(not(unix))]
fn is_socket(_: &Metadata) -> bool {
    false
}

/// Whether a file is, or is going to be, somewhere below a folder.
fn lies_in(place: &Place, folder: &Path) -> bool {
    let Place::File(path, _) = place else { return false };
    let (Ok(holder), Ok(folder)) = (fs::canonicalize(folder_of(path)), fs::canonicalize(folder)) else {
        return false;
    };
    holder.starts_with(folder)
}

fn check_writable(output: &Planned<'_>, place: &Place) -> Result<(), Failure> {
    let path = &output.path;
    match place {
        Place::Folder => {
            let inside = shell_word(&path.join("NAME").display().to_string());
            Err(Failure::new(format!("{} is a folder", path.display()))
                .hint(format!("name a file in it: `{} {inside}`", output.role)))
        }
        Place::Descriptor(number) => match descriptor::open(*number) {
            Ok(_) => Ok(()),
            Err(error) if *number == STDOUT => Err(Failure::stdout(error)),
            Err(error) => Err(Failure::new(format!("{}: {error}", path.display()))
                .hint("open it for writing in the shell, as in `3> file`, or name a file")),
        },
        Place::Stream(_, metadata) if is_socket(metadata) => {
            Err(Failure::new(format!("{} is a socket", path.display())).hint("name a file, a pipe or a device"))
        }
        // Opening a pipe waits for its reader, and opening a device may do something: that is left to the writing.
        Place::Stream(..) => Ok(()),
        Place::File(target, old) => check_file(path, target, old.is_some()),
    }
}

fn check_file(path: &Path, target: &Path, exists: bool) -> Result<(), Failure> {
    if exists {
        let opened = OpenOptions::new().write(true).open(target);
        return match opened {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let word = shell_word(&path.display().to_string());
                Err(Failure::new(format!("{} is read-only", path.display()))
                    .hint(format!("`chmod u+w {word}` makes it writable; or choose another name")))
            }
            Err(error) => Err(Failure::file(path)(error)),
        };
    }
    match ScratchFile::create_in(folder_of(target)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(format!(
            "{}: no file can be made in its folder: {error}",
            path.display()
        ))
        .hint("choose a folder that you may write to")),
    }
}

/// Why a path leads nowhere.
fn unreachable(path: &Path, error: io::Error) -> Failure {
    let folder = folder_of(path);
    let shown = folder.display();
    match error.kind() {
        ErrorKind::NotFound if !path.as_os_str().is_empty() && !folder.exists() => {
            let word = shell_word(&shown.to_string());
            Failure::new(format!("{}: the folder {shown} does not exist", path.display()))
                .hint(format!("make it first: `mkdir -p {word}`"))
        }
        ErrorKind::NotADirectory => {
            let file = path.ancestors().skip(1).find(|above| above.is_file());
            let file = file.unwrap_or(path).display();
            Failure::new(format!("{}: {file} is a file, not a folder", path.display()))
                .hint("choose a folder that is there")
        }
        ErrorKind::InvalidFilename => Failure::new(format!("{}: the name is too long", path.display()))
            .hint("choose a shorter name; most disks allow 255 bytes"),
        _ => Failure::file(path)(error),
    }
}
