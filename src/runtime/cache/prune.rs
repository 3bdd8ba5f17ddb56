//! Room for new images: what goes first, and what stays.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fisec_plan::{Scratch, ScratchFolder, list_scratch, remove_leftovers};

use super::lock::{self, Claim};
use super::{CacheError, Damaged, Manifest, Store};

/// How long a prune waits for processes that have been killed.
const DYING: Duration = Duration::from_millis(500);

/// What was removed to make room.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// images removed
    pub removed: Vec<Manifest>,
    /// images removed that could not be used
    pub damaged: Vec<Damaged>,
    /// what killed processes had left behind
    pub leftovers: Vec<Scratch>,
    /// bytes still kept, damaged images and leftovers that could not be removed included
    pub kept: u64,
    /// why an image that should have gone is still there, when it is not in use
    pub refused: Option<String>,
}

impl Pruned {
    /// Bytes removed.
    pub fn freed(&self) -> u64 {
        let images: u64 = self.removed.iter().map(Manifest::bytes).sum();
        let damaged: u64 = self.damaged.iter().map(|damaged| damaged.bytes).sum();
        images + damaged + self.leftovers.iter().map(|left| left.bytes).sum::<u64>()
    }

    /// Whether nothing was removed.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.damaged.is_empty() && self.leftovers.is_empty()
    }

    fn extend(&mut self, other: Pruned) {
        self.removed.extend(other.removed);
        self.damaged.extend(other.damaged);
        self.leftovers.extend(other.leftovers);
        self.kept = other.kept;
        self.refused = other.refused;
    }
}

impl Store {
    /// Removes what killed processes have left behind, then images until at most `keep` bytes are left: damaged ones, then
    /// those that are quickly made again for the room that they take, and long unused. Images in use stay, and those that
    /// they are edits of go last. Waits for other processes that prune.
    pub fn prune(&self, keep: u64) -> Result<Pruned, CacheError> {
        self.wait_for_the_dying();
        let _store = lock::of_store(&self.images);
        self.evict(keep, None)
    }

    /// A process that was just killed takes a moment to free its memory and its locks, and looks alive until then.
    fn wait_for_the_dying(&self) {
        let started = Instant::now();
        let is_alive = || list_scratch(&self.images).is_ok_and(|found| found.iter().any(|scratch| scratch.is_alive));
        while is_alive() && started.elapsed() < DYING {
            thread::sleep(DYING / 20);
        }
    }

    /// Keeps to the limit: for a process that has closed its images.
    pub fn keep_to_limit(&self) -> Result<(), CacheError> {
        let _store = lock::of_store(&self.images);
        self.make_room(0, None)
    }

    /// What was removed on behalf of the limit since this was last asked.
    pub fn take_evicted(&self) -> Pruned {
        std::mem::take(&mut *self.evicted())
    }

    /// Evicts until `needed` bytes are free below the limit. The store's lock is held.
    pub(super) fn make_room(&self, needed: u64, parent: Option<&str>) -> Result<(), CacheError> {
        let pruned = self.evict(self.limit.saturating_sub(needed), parent)?;
        self.evicted().extend(pruned);
        Ok(())
    }

    /// The store's lock is held; an edit of `parent` is about to be made.
    fn evict(&self, keep: u64, parent: Option<&str>) -> Result<Pruned, CacheError> {
        let mut pruned = Pruned {
            leftovers: remove_leftovers(&self.images).map_err(CacheError::io(&self.images))?,
            kept: self.bytes()?,
            ..Pruned::default()
        };
        if pruned.kept <= keep {
            return Ok(pruned);
        }
        let listing = self.list()?;
        let mut bin = Bin::new(self);
        let (mut left, mut refused) = (pruned.kept, None);
        let mut takes = |path: &Path, bytes: u64| {
            let taken = match left > keep {
                true => bin.take(path),
                false => Ok(Taken::Used),
            };
            // One that cannot be removed, as another user's in a shared home, does not keep the others.
            let taken = taken.unwrap_or_else(|error| {
                refused.get_or_insert(error.to_string());
                Taken::Used
            });
            if taken == Taken::Yes {
                left = left.saturating_sub(bytes);
            }
            taken == Taken::Yes
        };
        pruned.damaged = listing.damaged;
        pruned.damaged.retain(|damaged| takes(&damaged.path, damaged.bytes));
        pruned.removed = self.in_order(listing.images, parent);
        pruned
            .removed
            .retain(|image| takes(&self.images.join(&image.id), image.bytes()));
        drop(bin);
        pruned.kept = self.bytes()?;
        pruned.refused = refused;
        Ok(pruned)
    }

    /// Images in the order in which they go. Those that images in use, and `parent`, are edits of go last.
    fn in_order(&self, mut images: Vec<Manifest>, parent: Option<&str>) -> Vec<Manifest> {
        let in_use = |image: &&Manifest| matches!(lock::claim(&self.images.join(&image.id)), Ok(Claim::Used));
        let mut used: Vec<&str> = images.iter().filter(in_use).map(|image| image.id.as_str()).collect();
        used.extend(parent);
        let mut ancestors: BTreeSet<String> = BTreeSet::new();
        for id in used {
            let mut next = Some(id);
            while let Some(id) = next.filter(|id| ancestors.insert((*id).to_owned())) {
                let image = images.iter().find(|image| image.id == id);
                next = image.and_then(|image| image.parent.as_deref());
            }
        }
        images.sort_by_cached_key(|image| (ancestors.contains(&image.id), Worth(self.worth(image))));
        images
    }

    /// Seconds to rebuild per byte, halved for every day without use.
    fn worth(&self, image: &Manifest) -> f64 {
        let used = lock::last_used(&self.images.join(&image.id)).unwrap_or(SystemTime::UNIX_EPOCH);
        let unused = SystemTime::now().duration_since(used).unwrap_or_default();
        let days = unused.as_secs_f64() / 86_400.0;
        image.seconds / (image.bytes().max(1) as f64) / (1.0 + days)
    }
}

/// An f64 in its total order.
#[derive(PartialEq)]
struct Worth(f64);

impl Eq for Worth {}

impl PartialOrd for Worth {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worth {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What became of an entry that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// a process reads it
    Used,
    /// it was removed before
    Gone,
}

/// A scratch folder for what is removed: the name goes first, so that no process opens what is half removed. Dropping it
/// frees the room.
pub(super) struct Bin<'a> {
    store: &'a Store,
    folder: Option<ScratchFolder>,
}

impl<'a> Bin<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Bin { store, folder: None }
    }

    /// Takes an entry out of the store, unless it is in use. The store's lock is held.
    pub(super) fn take(&mut self, entry: &Path) -> Result<Taken, CacheError> {
        let _claimed = match lock::claim(entry).map_err(CacheError::io(entry))? {
            Claim::Used => return Ok(Taken::Used),
            Claim::Gone => return Ok(Taken::Gone),
            Claim::Free(file) => file,
        };
        self.throw(entry)
    }

    /// Takes anything out of the store, a symbolic link as a link. The store's lock is held.
    pub(super) fn throw(&mut self, entry: &Path) -> Result<Taken, CacheError> {
        let images = &self.store.images;
        let folder = match &mut self.folder {
            Some(folder) => folder,
            empty => empty.insert(ScratchFolder::beside(&images.join("removed")).map_err(CacheError::io(images))?),
        };
        let name = entry.file_name().unwrap_or_default();
        match fs::rename(entry, folder.path().join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Taken::Gone),
            other => other.map(|()| Taken::Yes).map_err(CacheError::io(entry)),
        }
    }
}
