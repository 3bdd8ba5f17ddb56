//! An image that is being remembered.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fisec_plan::{FileHash, ScratchFolder, SlotId, bytes_on_disk, json};
use fisec_tensor::HostTensor;

use super::manifest::{DRIFT, FORMAT, NORMS};
use super::writer::StepWriter;
use super::{CacheError, Entry, ImageKey, Kept, Manifest, SlotLayout, Store, lock};
use crate::{RuntimeError, SlotSink};

/// Takes everything that an image's entry holds. Dropped before [`Recording::commit`], it leaves nothing.
///
/// A disk that fails does not stop the image from being made: `commit` reports it.
pub struct Recording {
    store: Store,
    kept: Kept,
    manifest: Manifest,
    writer: StepWriter,
    // After the writer: the folder goes last.
    folder: ScratchFolder,
    files: BTreeMap<&'static str, Vec<u8>>,
    started: Instant,
    waits: bool,
}

impl Recording {
    pub(crate) fn start(
        store: Store,
        key: ImageKey,
        parent: Option<String>,
        settings: String,
        slots: Vec<SlotLayout>,
        kept: Kept,
    ) -> Result<Self, CacheError> {
        let id = key.id(parent.as_deref(), &settings);
        let target = store.images.join(&id);
        let folder = ScratchFolder::beside(&target).map_err(CacheError::io(&target))?;
        let writer = StepWriter::start(folder.path().to_owned(), slots.clone(), kept, store.write);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Recording {
            store,
            kept,
            manifest: Manifest {
                format: FORMAT,
                id,
                key,
                parent,
                settings,
                created: created.as_millis() as u64,
                seconds: 0.0,
                slots,
                latents: [0].into(),
                steps: Vec::new(),
                maps: Vec::new(),
                files: BTreeMap::new(),
                on_disk: 0,
            },
            writer,
            folder,
            files: BTreeMap::new(),
            started: Instant::now(),
            waits: false,
        })
    }

    /// Name that the image will have.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Lets devices keep what is recorded until it is [asked for](crate::Executor::hand_over), which has to happen before
    /// [`Recording::commit`].
    pub fn wait(&mut self) {
        self.waits = true;
    }

    /// Sets the trajectory, f32 `[calls + 1, C, H, W]`: the initial noise and the latents after every call.
    pub fn set_latents(&mut self, latents: &HostTensor) {
        self.manifest.latents = latents.shape().clone();
        self.files
            .insert("latents.bin", latents.cast(fisec_tensor::DType::F32).data().to_vec());
    }

    /// Sets what each call misses the trajectory by, f32 `[calls, C, H, W]`.
    pub fn set_drift(&mut self, drift: &HostTensor) {
        self.files
            .insert(DRIFT, drift.cast(fisec_tensor::DType::F32).data().to_vec());
    }

    /// Sets the norms that the image was decoded with, f32 `[values]`.
    pub fn set_norms(&mut self, norms: &HostTensor) {
        self.files
            .insert(NORMS, norms.cast(fisec_tensor::DType::F32).data().to_vec());
    }

    /// Sets the finished image, a PNG.
    pub fn set_image(&mut self, png: Vec<u8>) {
        self.files.insert("image.png", png);
    }

    /// Sets the edit mask, a PNG.
    pub fn set_mask(&mut self, png: Vec<u8>) {
        self.files.insert("mask.png", png);
    }

    /// Waits for the disk and gives the entry its name. An entry of the same name is replaced; when a process uses it, the
    /// entry that is there is returned.
    pub fn commit(mut self) -> Result<Entry, CacheError> {
        let files = self.writer.finish(self.kept)?;
        (self.manifest.steps, self.manifest.maps) = (files.steps, files.maps);
        for (name, bytes) in &self.files {
            let path = self.folder.path().join(name);
            (self.store.write)(&path, bytes).map_err(CacheError::io(&path))?;
            let hash: FileHash = json::file_hash(bytes);
            self.manifest.files.insert((*name).to_owned(), hash);
        }
        self.manifest.seconds = self.started.elapsed().as_secs_f64();
        let path = self.folder.path().join("manifest.json");
        (self.store.write)(&path, json::seal(&self.manifest).as_bytes()).map_err(CacheError::io(&path))?;
        lock::create(self.folder.path()).map_err(CacheError::io(self.folder.path()))?;
        let (needed, limit) = (bytes_on_disk(self.folder.path()), self.store.limit);
        if needed > limit {
            return Err(CacheError::TooLarge { needed, limit });
        }
        self.store.publish(self.folder, &self.manifest)
    }
}

impl SlotSink for Recording {
    fn recording(&self) -> Option<&str> {
        Some(&self.manifest.id)
    }

    fn wants(&self, step: usize, slot: SlotId) -> bool {
        let is_map = self.manifest.slots.get(slot.index()).is_some_and(|slot| slot.is_map);
        !is_map || step < self.kept.map_calls
    }

    fn wants_now(&self, _: usize, _: SlotId) -> bool {
        !self.waits
    }

    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
        SlotLayout::of(&self.manifest.slots, slot, &value)?;
        if step >= self.kept.calls {
            return Err(RuntimeError::Store(format!("there is no step {step}")));
        }
        if self.wants(step, slot) {
            self.writer.send(step, slot, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{fs, io};

    use fisec_plan::Slot;
    use fisec_tensor::DType;

    use super::*;

    fn no_room(_: &Path, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn a_full_disk_is_reported_at_the_end_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let key = ImageKey {
            plan: String::new(),
            prompt: String::new(),
            negative: String::new(),
            seed: 0,
            sampler: "ddim".into(),
            steps: 200,
            guidance: 1.0,
            width: 8,
            height: 8,
        };
        let slot = Slot {
            name: "a".into(),
            kind: fisec_plan::SlotKind::Stats,
            dtype: DType::F32,
            shape: [1].into(),
            bytes: 4,
        };
        let slots = vec![SlotLayout::from(&slot)];
        let mut store = Store::open(Some(home.path())).unwrap();
        store.write = no_room;
        let mut recording = Recording::start(store.clone(), key, None, String::new(), slots, 200.into()).unwrap();
        for step in 0..200 {
            recording
                .put(step, SlotId(0), HostTensor::from_f32([1], vec![1.0]))
                .unwrap();
        }
        let error = recording.commit().unwrap_err();
        assert!(error.is_disk_full() && error.hint().is_some(), "{error}");
        assert_eq!(fs::read_dir(store.folder()).unwrap().count(), 0);
    }
}
