//! What the store holds, with what it cannot use.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use fisec_plan::{Scratch, bytes_on_disk, list_scratch};

use super::entry::{check_files, read_manifest};
use super::{CacheError, Manifest, Store};

/// Length of an image's name: hex digits.
const ID_LENGTH: usize = 12;

/// What the store holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// readable images, oldest first
    pub images: Vec<Manifest>,
    /// entries that cannot be used: damaged ones and those of other versions
    pub damaged: Vec<Damaged>,
    /// what processes have left behind that were killed while they wrote or removed images
    pub leftovers: Vec<Scratch>,
    /// what running processes write or remove
    pub unfinished: Vec<Scratch>,
    /// files and folders that fisec did not make; they count nothing, and only [`Store::remove`] removes them
    pub foreign: Vec<Damaged>,
}

/// An entry that cannot be used.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// name of its folder
    pub id: String,
    /// which file, and how
    pub reason: String,
    /// bytes of its files
    pub bytes: u64,
    pub(crate) path: PathBuf,
}

/// What stands under a name.
pub(crate) enum Found {
    Image(Box<Manifest>),
    Damaged(Damaged),
    Foreign(Damaged),
    /// removed since
    Gone,
}

impl Listing {
    /// Bytes of images, damaged ones included, and of leftovers: what the limit is for.
    pub fn bytes(&self) -> u64 {
        let images: u64 = self.images.iter().map(Manifest::bytes).sum();
        let damaged: u64 = self.damaged.iter().map(|damaged| damaged.bytes).sum();
        images + damaged + self.leftovers.iter().map(|left| left.bytes).sum::<u64>()
    }
}

impl Store {
    /// Everything that is in the store. What is removed meanwhile is not listed.
    pub fn list(&self) -> Result<Listing, CacheError> {
        let mut listing = Listing::default();
        for name in self.names()? {
            match look_at(&self.images.join(&name), &name.to_string_lossy()) {
                Found::Image(manifest) => listing.images.push(*manifest),
                Found::Damaged(damaged) => listing.damaged.push(damaged),
                Found::Foreign(foreign) => listing.foreign.push(foreign),
                Found::Gone => {}
            }
        }
        let hidden = self.hidden_names()?;
        let scratch = list_scratch(&self.images).map_err(CacheError::io(&self.images))?;
        listing.foreign.extend(self.foreign_among(hidden, &scratch));
        (listing.unfinished, listing.leftovers) = scratch.into_iter().partition(|scratch| scratch.is_alive);
        let images = &mut listing.images;
        images.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        listing.damaged.sort_by(|a, b| a.id.cmp(&b.id));
        listing.foreign.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listing)
    }

    /// Bytes that the limit is for, without reading what they are.
    pub(super) fn bytes(&self) -> Result<u64, CacheError> {
        let mut bytes = 0;
        for name in self.names()? {
            let path = self.images.join(&name);
            if is_entry(&path, &name.to_string_lossy()) {
                bytes += bytes_on_disk(&path);
            }
        }
        let scratch = list_scratch(&self.images).map_err(CacheError::io(&self.images))?;
        let leftovers = scratch.iter().filter(|scratch| !scratch.is_alive);
        Ok(bytes + leftovers.map(|left| left.bytes).sum::<u64>())
    }

    /// Names in the folder of images that are not hidden.
    pub(super) fn names(&self) -> Result<Vec<OsString>, CacheError> {
        let mut names = self.all_names()?;
        names.retain(|name| !is_hidden(name));
        Ok(names)
    }

    /// Names in the folder of images that begin with a dot: scratch folders, and what fisec did not make.
    pub(super) fn hidden_names(&self) -> Result<Vec<OsString>, CacheError> {
        let mut names = self.all_names()?;
        names.retain(|name| is_hidden(name));
        Ok(names)
    }

    fn all_names(&self) -> Result<Vec<OsString>, CacheError> {
        let entries = fs::read_dir(&self.images).map_err(CacheError::io(&self.images))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        names.collect::<Result<_, _>>().map_err(CacheError::io(&self.images))
    }

    /// Those of the hidden names that are no scratch folders. The names were read first, so that a scratch folder that is
    /// made meanwhile is not among them.
    fn foreign_among(&self, hidden: Vec<OsString>, scratch: &[Scratch]) -> Vec<Damaged> {
        let is_scratch = |name: &OsString| scratch.iter().any(|scratch| *name == *scratch.name);
        let names = hidden.into_iter().filter(|name| !is_scratch(name));
        let places = names.map(|name| (self.images.join(&name), name));
        let present = places.filter(|(path, _)| fs::symlink_metadata(path).is_ok());
        present
            .map(|(path, name)| foreign(&path, &name.to_string_lossy()))
            .collect()
    }
}

fn foreign(path: &Path, name: &str) -> Damaged {
    Damaged {
        id: name.to_owned(),
        reason: "not made by fisec".into(),
        bytes: bytes_on_disk(path),
        path: path.to_owned(),
    }
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// What stands under `name` at `path`.
pub(super) fn look_at(path: &Path, name: &str) -> Found {
    let read = read_manifest(path, name).and_then(|mut manifest| {
        let found = bytes_on_disk(path);
        // the sum says whether a file can be missing or short; only then every file is looked at
        if found != manifest.on_disk {
            check_files(path, &manifest)?;
            manifest.on_disk = found;
        }
        Ok(manifest)
    });
    let reason = match read {
        Ok(manifest) => return Found::Image(Box::new(manifest)),
        Err(CacheError::Damaged { reason, .. }) => reason,
        Err(other) => other.to_string(),
    };
    if fs::symlink_metadata(path).is_err() {
        return Found::Gone;
    }
    let described = foreign(path, name);
    match is_entry(path, name) {
        true => Found::Damaged(Damaged { reason, ..described }),
        false => Found::Foreign(described),
    }
}

/// Whether fisec made what has this name: an image's name, or an image's files.
pub(super) fn is_entry(path: &Path, name: &str) -> bool {
    let is_id = name.len() == ID_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id
        || ["latents.bin", "step-000.bin"]
            .iter()
            .any(|file| path.join(file).is_file())
}
