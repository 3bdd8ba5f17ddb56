//! Where the files of one kind go, when a command writes several.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::extension::{Format, check_extension};
use super::new_file::NewFile;
use super::place::{Place, STDOUT};
use super::write_file;
use crate::cli::failure::Failure;

/// A name from which those of several files are made, or a device, a pipe or an open file that takes one after another.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    is_stream: bool,
    stream: Option<NewFile>,
}

impl Destination {
    /// Looks at what stands at a path that was checked.
    pub fn of(path: &Path) -> Self {
        Destination {
            path: path.to_owned(),
            is_stream: matches!(Place::of(path), Ok(Place::Stream(..) | Place::Descriptor(_))),
            stream: None,
        }
    }

    /// Whether files go to stdout, which then holds nothing else.
    pub fn is_stdout(&self) -> bool {
        matches!(Place::of(&self.path), Ok(Place::Descriptor(STDOUT)))
    }

    /// Refuses a file whose name promises another format. Devices and pipes promise nothing.
    pub fn check_extension(&self, flag: &str, format: Format) -> Result<(), Failure> {
        match self.is_stream {
            true => Ok(()),
            false => check_extension(flag, &self.path, format),
        }
    }

    /// The paths of the first `count` files.
    pub fn paths(&self, count: usize) -> impl Iterator<Item = PathBuf> + '_ {
        let count = if self.is_stream { 1 } else { count };
        (1..=count).map(|number| self.path(number))
    }

    /// The path of the file of a number: `cat.png`, `cat-2.png`, `cat-3.png`, …; a stream has one for all.
    pub fn path(&self, number: usize) -> PathBuf {
        if number == 1 || self.is_stream {
            return self.path.clone();
        }
        let mut name = OsString::from(self.path.file_stem().unwrap_or_default());
        name.push(format!("-{number}"));
        if let Some(extension) = self.path.extension() {
            name.push(".");
            name.push(extension);
        }
        self.path.with_file_name(name)
    }

    /// Writes the file of a number. A stream stays open, so that the reader of a pipe gets all of them.
    pub fn write(&mut self, number: usize, bytes: &[u8]) -> Result<(), Failure> {
        if !self.is_stream {
            return write_file(&self.path(number), bytes);
        }
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => NewFile::create(&self.path)?,
        };
        let stream = self.stream.insert(stream);
        stream.write_all(bytes).map_err(NewFile::failure(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_files_are_numbered() {
        let destination = Destination::of("folder.d/cat.png".as_ref());
        assert_eq!(destination.path(1), Path::new("folder.d/cat.png"));
        assert_eq!(destination.path(2), Path::new("folder.d/cat-2.png"));
        assert_eq!(Destination::of("cat".as_ref()).path(3), Path::new("cat-3"));
        assert_eq!(Destination::of("/dev/null".as_ref()).path(3), Path::new("/dev/null"));
    }
}
