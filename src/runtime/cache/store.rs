//! All remembered images of a user.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fisec_plan::Slot;

use super::entry::read_manifest;
use super::manifest::{Layout, Part};
use super::nearest::nearest;
use super::writer::{WriteFile, write_file};
use super::{CacheError, Entry, ImageKey, Kept, Manifest, Nearest, Recording, SlotLayout, default_home, lock};

/// Bytes kept when nobody says otherwise.
pub const DEFAULT_LIMIT: u64 = 40 << 30;

/// Unfinished entries older than this were left behind by a process that was killed.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The store of remembered images.
#[derive(Clone, Debug)]
pub struct Store {
    images: PathBuf,
    limit: u64,
    write: WriteFile,
}

/// What the store holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// readable images, oldest first
    pub images: Vec<Manifest>,
    /// entries that cannot be used
    pub damaged: Vec<Damaged>,
}

/// An entry that cannot be used.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// name of its folder
    pub id: String,
    /// which file, and how
    pub reason: String,
}

/// What pruning did.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// images removed
    pub removed: Vec<Manifest>,
    /// bytes still kept
    pub kept: u64,
}

impl Store {
    /// Opens the store in `home`, or at the default place.
    pub fn open(home: Option<&Path>) -> Result<Self, CacheError> {
        let images = home.map_or_else(default_home, Path::to_owned).join("images");
        fs::create_dir_all(&images).map_err(CacheError::io(&images))?;
        let store = Store {
            images,
            limit: DEFAULT_LIMIT,
            write: write_file,
        };
        store.remove_stale();
        Ok(store)
    }

    /// The same store keeping at most `bytes`.
    pub fn with_limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// Where the images are.
    pub fn folder(&self) -> &Path {
        &self.images
    }

    /// Begins to remember an image. Some samplers make one more call of the denoiser than there are steps. `settings`
    /// tells edits of one parent and prompt apart.
    pub fn begin(
        &self,
        key: ImageKey,
        parent: Option<&str>,
        settings: &str,
        slots: &[Slot],
        kept: impl Into<Kept>,
    ) -> Result<Recording, CacheError> {
        let kept = kept.into();
        let slots = slots.iter().map(|slot| SlotLayout::from(slot).cut(kept.tokens));
        let slots: Vec<SlotLayout> = slots.collect();
        let layout = Layout::of(&slots);
        let bytes = |part: Part, calls: usize| (layout.length(part) as u64).saturating_mul(calls as u64);
        let needed = bytes(Part::Step, kept.calls).saturating_add(bytes(Part::Maps, kept.map_calls));
        if needed > self.limit {
            return Err(CacheError::TooLarge {
                needed,
                limit: self.limit,
            });
        }
        self.prune(self.limit - needed)?;
        let target = self.images.join(key.id(parent, settings));
        Recording::start(
            target,
            key,
            parent.map(str::to_owned),
            settings.to_owned(),
            slots,
            kept,
            self.write,
        )
    }

    /// Every entry, oldest first.
    pub fn list(&self) -> Result<Listing, CacheError> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.images).map_err(CacheError::io(&self.images))? {
            let name = entry.map_err(CacheError::io(&self.images))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            match read_manifest(&self.images.join(&name), &name) {
                Ok(manifest) => listing.images.push(manifest),
                Err(CacheError::Damaged { id, reason }) => listing.damaged.push(Damaged { id, reason }),
                Err(other) => return Err(other),
            }
        }
        listing
            .images
            .sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        listing.damaged.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listing)
    }

    /// Opens the image whose id is or begins with `id`.
    pub fn get(&self, id: &str) -> Result<Entry, CacheError> {
        Entry::open(&self.images.join(self.resolve(id)?))
    }

    /// The image made of exactly this key and, for an edit, of this parent and settings.
    pub fn find(&self, key: &ImageKey, parent: Option<&str>, settings: &str) -> Result<Option<Entry>, CacheError> {
        match Entry::open(&self.images.join(key.id(parent, settings))) {
            Err(CacheError::Unknown(_)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The image that differs from `key` in the prompt only, and there the least, when it is near enough to edit.
    pub fn find_nearest(&self, key: &ImageKey) -> Result<Option<Nearest>, CacheError> {
        let mut images = self.list()?.images;
        images.retain(|image| image.key.is_neighbour(key));
        Ok(nearest(images, &key.prompt))
    }

    /// Removes an image, damaged ones included.
    pub fn remove(&self, id: &str) -> Result<String, CacheError> {
        let id = self.resolve(id)?;
        match self.remove_unused(&id)? {
            true => Ok(id),
            false => Err(CacheError::InUse(id)),
        }
    }

    /// Removes images until at most `keep` bytes are left: first those that are quickly made again for the room that they
    /// take, and long unused. Images in use stay.
    pub fn prune(&self, keep: u64) -> Result<Pruned, CacheError> {
        let mut images = self.list()?.images;
        images.sort_by(|a, b| self.worth(a).total_cmp(&self.worth(b)));
        let mut kept: u64 = images.iter().map(Manifest::bytes).sum();
        let mut removed = Vec::new();
        for image in images {
            if kept <= keep {
                break;
            }
            if self.remove_unused(&image.id)? {
                kept -= image.bytes();
                removed.push(image);
            }
        }
        Ok(Pruned { removed, kept })
    }

    /// Seconds to rebuild per byte, halved for every day without use.
    fn worth(&self, image: &Manifest) -> f64 {
        let used = lock::last_used(&self.images.join(&image.id)).unwrap_or(SystemTime::UNIX_EPOCH);
        let unused = SystemTime::now().duration_since(used).unwrap_or_default();
        let days = unused.as_secs_f64() / 86_400.0;
        image.seconds / (image.bytes().max(1) as f64) / (1.0 + days)
    }

    fn remove_unused(&self, id: &str) -> Result<bool, CacheError> {
        let folder = self.images.join(id);
        let Some(_claim) = lock::claim(&folder).map_err(CacheError::io(&folder))? else {
            return Ok(false);
        };
        // The name goes first, so that nobody opens what is half removed.
        let doomed = self.images.join(format!(".{id}.removed-{}", std::process::id()));
        fs::rename(&folder, &doomed).map_err(CacheError::io(&folder))?;
        fs::remove_dir_all(&doomed).map_err(CacheError::io(&doomed))?;
        Ok(true)
    }

    fn resolve(&self, id: &str) -> Result<String, CacheError> {
        let unknown = || CacheError::Unknown(id.to_owned());
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(unknown());
        }
        let entries = fs::read_dir(&self.images).map_err(CacheError::io(&self.images))?;
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut ids: Vec<String> = names.filter(|name| name.starts_with(id)).collect();
        match ids.len() {
            0 => Err(unknown()),
            1 => Ok(ids.remove(0)),
            _ if ids.iter().any(|name| name == id) => Ok(id.to_owned()),
            _ => Err(CacheError::Ambiguous {
                prefix: id.to_owned(),
                ids,
            }),
        }
    }

    /// Best effort: what cannot be removed now is removed another time.
    fn remove_stale(&self) {
        let Ok(entries) = fs::read_dir(&self.images) else {
            return;
        };
        for entry in entries.flatten() {
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.and_then(|time| time.elapsed().map_err(io::Error::other));
            if is_hidden && age.is_ok_and(|age| age > STALE) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
