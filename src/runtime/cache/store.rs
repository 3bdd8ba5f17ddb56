//! All remembered images of a user.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use fisec_plan::{ScratchFolder, Slot, list_scratch, remove_leftover, restore_replaced};

use super::entry::read_manifest;
use super::listing::{is_entry, is_hidden};
use super::lock::{self, Claim};
use super::manifest::{Layout, Part};
use super::nearest::nearest;
use super::prune::{Bin, Pruned, Taken};
use super::writer::{WriteFile, write_file};
use super::{CacheError, Entry, ImageKey, Kept, Manifest, Nearest, Recording, SlotLayout, default_home};

/// Bytes kept unless the user says otherwise.
pub const DEFAULT_LIMIT: u64 = 40 << 30;

/// The store of remembered images.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) images: PathBuf,
    pub(super) limit: u64,
    pub(super) write: WriteFile,
    evicted: Arc<Mutex<Pruned>>,
}

impl Store {
    /// Opens the store in `home`, or at the default place.
    pub fn open(home: Option<&Path>) -> Result<Self, CacheError> {
        let images = home.map_or_else(default_home, Path::to_owned).join("images");
        fs::create_dir_all(&images).map_err(CacheError::io(&images))?;
        restore_replaced(&images);
        Ok(Store {
            images,
            limit: DEFAULT_LIMIT,
            write: write_file,
            evicted: Arc::default(),
        })
    }

    /// The same store keeping at most `bytes`.
    pub fn with_limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// Bytes kept at most.
    pub fn limit(&self) -> u64 {
        self.limit
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
        {
            let _store = lock::of_store(&self.images);
            self.make_room(needed, parent)?;
        }
        let (parent, settings) = (parent.map(str::to_owned), settings.to_owned());
        Recording::start(self.clone(), key, parent, settings, slots, kept)
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
        let names = self.names()?.into_iter();
        // Whether its files are there shows when it is opened, and is then said.
        let images = names.filter_map(|name| read_manifest(&self.images.join(&name), &name.to_string_lossy()).ok());
        let neighbours = images.filter(|image| image.key.is_neighbour(key));
        Ok(nearest(neighbours.collect(), &key.prompt))
    }

    /// Removes an image, damaged ones included, or anything else that [`Store::list`] names. Returns its whole name.
    pub fn remove(&self, id: &str) -> Result<String, CacheError> {
        let name = self.resolve(id)?;
        let shown = name.to_string_lossy().into_owned();
        let path = self.images.join(&name);
        let _store = lock::of_store(&self.images);
        let removed = match is_hidden(&name) {
            true if self.scratch_names()?.contains(&name) => remove_leftover(&path).map_err(CacheError::io(&path))?,
            // not made by fisec, so no process of fisec uses it
            true => Bin::new(self).throw(&path)? == Taken::Yes,
            false => match Bin::new(self).take(&path)? {
                Taken::Gone => return Err(CacheError::Unknown(shown)),
                taken => taken == Taken::Yes,
            },
        };
        match removed {
            true => Ok(shown),
            false => Err(CacheError::InUse(shown)),
        }
    }

    /// What was removed on behalf of the limit, not yet asked for.
    pub(super) fn evicted(&self) -> MutexGuard<'_, Pruned> {
        self.evicted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives a complete entry its name and keeps to the limit. An image of that name that a process uses is the same
    /// computation, and is taken instead unless it is damaged.
    pub(super) fn publish(&self, folder: ScratchFolder, manifest: &Manifest) -> Result<Entry, CacheError> {
        let target = self.images.join(&manifest.id);
        if target.exists() {
            folder.sync().map_err(CacheError::io(&target))?;
        }
        let mut may_take = true;
        loop {
            let store = lock::of_store(&self.images);
            let claim = lock::claim(&target).map_err(CacheError::io(&target))?;
            if may_take && matches!(claim, Claim::Used) {
                // checked without the lock, because reading a large image takes seconds
                drop(store);
                match Entry::open(&target).and_then(|entry| entry.verify().map(|()| entry)) {
                    Ok(entry) => return Ok(entry),
                    // removed since
                    Err(CacheError::Unknown(_)) => {}
                    // damaged: the processes that use it find that out as well
                    Err(_) => may_take = false,
                }
                continue;
            }
            folder.publish(&target).map_err(CacheError::io(&target))?;
            let entry = Entry::open(&target)?;
            // The image is remembered, whether or not others can be removed.
            let _ = self.make_room(0, manifest.parent.as_deref());
            return Ok(entry);
        }
    }

    /// The one name that is `id`, or of images and scratch folders, begins with it.
    fn resolve(&self, id: &str) -> Result<OsString, CacheError> {
        let unknown = || CacheError::Unknown(id.to_owned());
        if id.is_empty() {
            return Err(unknown());
        }
        let mut names: Vec<OsString> = match id.starts_with('.') {
            true => self.hidden_names()?,
            false => self.names()?,
        };
        if let Some(exact) = names.iter().find(|name| name.to_string_lossy() == id) {
            return Ok(exact.clone());
        }
        names.retain(|name| name.to_string_lossy().starts_with(id));
        let scratch = self.scratch_names()?;
        names.retain(|name| match is_hidden(name) {
            true => scratch.contains(name),
            false => is_entry(&self.images.join(name), &name.to_string_lossy()),
        });
        match names.len() {
            0 => Err(unknown()),
            1 => Ok(names.remove(0)),
            _ => Err(CacheError::Ambiguous {
                prefix: id.to_owned(),
                ids: names.iter().map(|name| name.to_string_lossy().into_owned()).collect(),
            }),
        }
    }

    fn scratch_names(&self) -> Result<Vec<OsString>, CacheError> {
        let scratch = list_scratch(&self.images).map_err(CacheError::io(&self.images))?;
        Ok(scratch.into_iter().map(|scratch| scratch.name.into()).collect())
    }
}
