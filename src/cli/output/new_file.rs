//! A file on its way to its name.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::descriptor;
use super::place::{Place, STDOUT, folder_of};
use super::scratch::ScratchFile;
use crate::cli::failure::Failure;

/// Bytes that [`NewFile::publish`] puts under a name. Dropped before that, a regular file stays as it was.
///
/// A regular file is replaced by a rename: the new one has the old one's mode and, where the system allows it, owner.
/// Other names of the old file (hard links) keep the old content. Everything else is written through: devices, pipes,
/// open files of this process, and files in a folder that takes no new ones.
#[derive(Debug)]
pub struct NewFile {
    /// as the user wrote it
    name: PathBuf,
    target: Target,
}

/// Where the bytes go.
#[derive(Debug)]
enum Target {
    /// to what stands at the name
    Through(File),
    /// to a new file that gets the name
    New(Box<Replacing>),
}

#[derive(Debug)]
struct Replacing {
    scratch: ScratchFile,
    target: PathBuf,
    old: Option<Metadata>,
}

impl NewFile {
    /// Opens what stands at `path`, or a new file beside it.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        Self::open(path).map_err(Self::failure(path))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let through = |file| NewFile {
            name: path.to_owned(),
            target: Target::Through(file),
        };
        match Place::of(path)? {
            Place::Folder => Err(ErrorKind::IsADirectory.into()),
            Place::Descriptor(number) => descriptor::open(number).map(through),
            Place::Stream(stream, _) => OpenOptions::new().write(true).open(stream).map(through),
            Place::File(target, old) => {
                if old.is_some() {
                    OpenOptions::new().write(true).open(&target)?;
                }
                match ScratchFile::create_in(folder_of(&target)) {
                    Ok(scratch) => Ok(NewFile {
                        name: path.to_owned(),
                        target: Target::New(Box::new(Replacing { scratch, target, old })),
                    }),
                    // As with a file that a container mounts into a folder that is not its own.
                    Err(_) if old.is_some() => File::create(&target).map(through),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn file(&self) -> &File {
        match &self.target {
            Target::Through(file) => file,
            Target::New(replacing) => replacing.scratch.file(),
        }
    }

    /// The file under its name, complete.
    pub fn publish(self) -> Result<(), Failure> {
        let published = match self.target {
            Target::Through(_) => Ok(()),
            Target::New(replacing) => replacing.publish(),
        };
        published.map_err(Self::failure(&self.name))
    }

    /// What to say when the file cannot be written.
    pub fn failure(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
        move |error| match Place::of(path) {
            Ok(Place::Descriptor(STDOUT)) => Failure::stdout(error),
            _ => Failure::file(path)(error),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Replacing {
    fn publish(self) -> io::Result<()> {
        let Some(old) = &self.old else {
            return self.scratch.publish(&self.target);
        };
        let file = self.scratch.file();
        // The new content is on the disk before the old one goes: after a crash of the machine the name stands for one of
        // them. A new name has nothing to lose.
        file.sync_data()?;
        let renamed = keep_attributes(file, old).and_then(|()| self.scratch.publish(&self.target));
        // The name is a mount point, or the folder lets only the file's owner replace it, or the disk has other modes.
        renamed.or_else(|_| copy_into(file, &self.target))
    }
}

/// Overwrites a file without changing which file it is.
fn copy_into(mut from: &File, target: &Path) -> io::Result<()> {
    from.seek(SeekFrom::Start(0))?;
    io::copy(&mut from, &mut File::create(target)?).map(drop)
}

/// Gives a new file the mode and, where the system allows it, the owner of the one that it replaces.
#[cfg(unix)]
fn keep_attributes(file: &File, old: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};

    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        // Only root may give files away, and a member of the group may give it to the group.
        if fchown(file, Some(old.uid()), Some(old.gid())).is_err() {
            let _ = fchown(file, None, Some(old.gid()));
        }
    }
    // After the owner: changing that clears some bits of the mode.
    file.set_permissions(old.permissions())
}

#[cfg(not(unix))]
fn keep_attributes(file: &File, old: &Metadata) -> io::Result<()> {
    file.set_permissions(old.permissions())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::write_file;
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_keeps_its_mode_and_nothing_is_left_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.png");
        fs::write(&path, "old and longer").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let linked = home.path().join("linked");
        fs::hard_link(&path, &linked).unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read(&linked).unwrap(), b"old and longer", "hard links part");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_was_not_published_is_not_there() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.png");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_written_through() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("link.png");
        symlink("target.png", &link).unwrap();
        for content in ["first", "second"] {
            write_file(&link, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(home.path().join("target.png")).unwrap(), content);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        }
    }

    #[test]
    fn a_name_of_the_greatest_length_can_be_written() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("n".repeat(255));
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
