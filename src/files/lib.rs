//! Opening files for reading.
//!
//! Models, plans, pictures and configurations come from other people. Their folders can hold devices and named pipes, and
//! opening a named pipe blocks the process. Everything that fisec reads is opened here: regular files only, symbolic links
//! followed, texts up to [`LARGEST_TEXT`].

use std::fmt;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

/// Largest configuration, tokenizer, cost table or IR text that is read, bytes.
pub const LARGEST_TEXT: u64 = 256 << 20;

/// What stands where a file is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// a directory
    Folder,
    /// a FIFO
    NamedPipe,
    /// a socket of the local domain
    Socket,
    /// a character or block device
    Device,
    /// something else that cannot be read as a file
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Folder => "a folder",
            Kind::NamedPipe => "a named pipe",
            Kind::Socket => "a socket",
            Kind::Device => "a device",
            Kind::Other => "something else",
        })
    }
}

/// Why something that is there is not read. Comes inside an [`io::Error`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// It is no regular file.
    #[error("it is {0}, not a file")]
    NotAFile(Kind),
    /// It is larger than anything of its kind.
    #[error("it has {bytes} bytes, more than the {most} that are read")]
    TooLarge {
        /// its size
        bytes: u64,
        /// largest size that is read
        most: u64,
    },
}

impl Refused {
    /// What the user can do.
    pub fn hint(self) -> &'static str {
        match self {
            Refused::NotAFile(Kind::Folder) => "give a file, not the folder that holds it",
            Refused::NotAFile(_) => "give a regular file; save what comes through a pipe or from a device to one first",
            Refused::TooLarge { .. } => "check that the file is what it should be",
        }
    }
}

/// The reason, when an error of this crate's functions is a refusal.
pub fn refused(error: &io::Error) -> Option<Refused> {
    error.get_ref()?.downcast_ref::<Refused>().copied()
}

/// Opens a regular file for reading; links are followed.
///
/// # Errors
/// Fails when the file is missing or unreadable, and with [`Refused::NotAFile`] on pipes, devices, sockets and folders,
/// none of which it waits for.
pub fn open(path: &Path) -> io::Result<File> {
    // first without opening: some devices act on being opened
    check(fs::metadata(path)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // another thing can stand there by now, which must neither block nor become the process's terminal
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC);
    }
    let file = options.open(path)?;
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// The bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open`], and with [`Refused::TooLarge`], before memory is taken for it.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let bytes = file.metadata()?.len();
    let too_large = |bytes: u64| io::Error::new(io::ErrorKind::FileTooLarge, Refused::TooLarge { bytes, most });
    if bytes > most {
        return Err(too_large(bytes));
    }
    let mut contents = Vec::new();
    contents.try_reserve_exact(bytes as usize)?;
    // files of the system have no size, and others can grow
    let read = file.take(most.saturating_add(1)).read_to_end(&mut contents)?;
    match read as u64 > most {
        true => Err(too_large(read as u64)),
        false => Ok(contents),
    }
}

/// The text of a regular file of at most [`LARGEST_TEXT`] bytes.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read(path, LARGEST_TEXT)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Fails, naming it, on what is no regular file. What a path leads to can change: [`open`] looks at what it has opened.
///
/// # Errors
/// As [`open`], but for permissions.
pub fn check_path(path: &Path) -> io::Result<()> {
    check(fs::metadata(path)?.file_type())
}

/// Opens a file for locking: a regular file that is at `path` itself. A symbolic link is not followed, and a named pipe is
/// refused without waiting for its other end.
///
/// # Errors
/// What the system says, or that something else than a file is there.
#[cfg(unix)]
pub fn open_itself(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    // first without opening: some devices act on being opened
    if let Ok(metadata) = fs::symlink_metadata(path) {
        check(metadata.file_type())?;
    }
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC);
    let file = options.open(path)?;
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// Opens a file for locking: a regular file that is at `path` itself.
///
/// # Errors
/// What the system says, or that something else than a file is there.
#[cfg(not(unix))]
pub fn open_itself(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        check(metadata.file_type())?;
    }
    options.open(path)
}

/// Whether `path` still names an open file.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Whether `path` still names an open file, as far as this system can tell.
#[cfg(not(unix))]
pub fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

fn check(file_type: FileType) -> io::Result<()> {
    if file_type.is_file() {
        return Ok(());
    }
    let refused = Refused::NotAFile(kind(file_type));
    Err(io::Error::new(io::ErrorKind::InvalidInput, refused))
}

#[cfg(unix)]
fn kind(file_type: FileType) -> Kind {
    use std::os::unix::fs::FileTypeExt;
    match file_type {
        kind if kind.is_dir() => Kind::Folder,
        kind if kind.is_fifo() => Kind::NamedPipe,
        kind if kind.is_socket() => Kind::Socket,
        kind if kind.is_char_device() || kind.is_block_device() => Kind::Device,
        _ => Kind::Other,
    }
}

#[cfg(not(unix))]
fn kind(file_type: FileType) -> Kind {
    if file_type.is_dir() { Kind::Folder } else { Kind::Other }
}
