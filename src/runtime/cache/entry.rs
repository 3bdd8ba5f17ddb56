//! A remembered image, opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fisec_plan::{FileHash, SlotId, json};
use fisec_tensor::{DType, HostTensor, Shape};
use memmap2::Mmap;
use serde::Deserialize;

use super::lock::{self, InUse};
use super::manifest::{DRIFT, FORMAT, Layout, NORMS, Part};
use super::writer::checksum;
use super::{CacheError, Manifest, StepFile};
use crate::finite::is_finite;
use crate::{RuntimeError, SlotSource};

/// Steps that are read and checked while one is in use.
const AHEAD: usize = 8;

/// Guided steps that an edit of most schedules takes at least.
const FIRST_SPARSE: usize = 5;

/// What is wrong with a file that no edit can start from.
const NOT_FINITE: &str = "holds values that are not finite";

/// A remembered image. Its step files are mapped, and checked when first touched; no process removes
/// the image while one of these exists.
#[derive(Debug)]
pub struct Entry {
    folder: PathBuf,
    manifest: Manifest,
    layout: Arc<Layout>,
    /// step files and files of maps
    calls: Arc<[Vec<Step>; 2]>,
    bytes_read: AtomicU64,
    _in_use: InUse,
}

#[derive(Debug)]
struct Step {
    layout: Arc<Layout>,
    part: Part,
    path: PathBuf,
    bytes: u64,
    xxh3: String,
    /// a thread of its own reads it
    ahead: AtomicBool,
    data: OnceLock<Result<Bytes, String>>,
}

impl Entry {
    /// Opens the entry at `folder`: manifest, sizes of all files.
    pub(crate) fn open(folder: &Path) -> Result<Self, CacheError> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let in_use = match lock::hold(folder) {
            Err(_) if !folder.exists() => return Err(CacheError::Unknown(name)),
            Err(_) => return Err(damaged(&name, "lock: missing".into())),
            Ok(held) => held,
        };
        let manifest = read_manifest(folder, &name)?;
        let layout = Arc::new(Layout::of(&manifest.slots));
        let parts = [(Part::Step, &manifest.steps), (Part::Maps, &manifest.maps)];
        let fits =
            |(part, files): &(Part, &Vec<StepFile>)| files.iter().all(|file| file.bytes == layout.length(*part) as u64);
        if !parts.iter().all(fits) {
            return Err(damaged(&name, "manifest.json contradicts itself".into()));
        }
        let calls = parts.map(|(part, files)| Step::all(folder, part, files, &layout));
        check_files(folder, &manifest)?;
        Ok(Entry {
            folder: folder.to_owned(),
            manifest,
            layout,
            calls: Arc::new(calls),
            bytes_read: AtomicU64::new(0),
            _in_use: in_use,
        })
    }

    /// What is known of the image.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Name of the image.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Bytes of slots handed out so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// The trajectory, f32 `[calls + 1, C, H, W]`.
    pub fn latents(&self) -> Result<HostTensor, CacheError> {
        let bytes = self.file("latents.bin")?;
        self.floats("latents.bin", self.manifest.latents.clone(), bytes)
    }

    /// The values of a file, which are numbers.
    fn floats(&self, file: &str, shape: Shape, bytes: Vec<u8>) -> Result<HostTensor, CacheError> {
        let tensor = HostTensor::new(DType::F32, shape, bytes.into());
        let tensor = tensor.map_err(|error| damaged(self.id(), format!("{file}: {error}")))?;
        match is_finite(&tensor) {
            true => Ok(tensor),
            false => Err(damaged(self.id(), format!("{file} {NOT_FINITE}"))),
        }
    }

    /// What each call misses the trajectory by, f32 `[calls, C, H, W]`, when the image is an inverted picture or an edit
    /// of one.
    pub fn drift(&self) -> Result<Option<HostTensor>, CacheError> {
        if !self.manifest.files.contains_key(DRIFT) {
            return Ok(None);
        }
        let bytes = self.file(DRIFT)?;
        let mut dims = self.manifest.latents.to_vec();
        dims.iter_mut()
            .take(1)
            .for_each(|calls| *calls = calls.saturating_sub(1));
        self.floats(DRIFT, dims.into(), bytes).map(Some)
    }

    /// The norms that the image was decoded with, f32 `[values]`, where they are known.
    pub fn norms(&self) -> Result<Option<HostTensor>, CacheError> {
        if !self.manifest.files.contains_key(NORMS) {
            return Ok(None);
        }
        let bytes = self.file(NORMS)?;
        self.floats(NORMS, [bytes.len() / size_of::<f32>()].into(), bytes)
            .map(Some)
    }

    /// The finished image, a PNG.
    pub fn image(&self) -> Result<Vec<u8>, CacheError> {
        self.file("image.png")
    }

    /// Where the finished image is.
    pub fn image_path(&self) -> PathBuf {
        self.folder.join("image.png")
    }

    /// The edit mask, a PNG, when the image is an edit.
    pub fn mask(&self) -> Result<Option<Vec<u8>>, CacheError> {
        match self.manifest.files.contains_key("mask.png") {
            true => self.file("mask.png").map(Some),
            false => Ok(None),
        }
    }

    /// Where the edit mask is, when the image is an edit.
    pub fn mask_path(&self) -> Option<PathBuf> {
        let is_edit = self.manifest.files.contains_key("mask.png");
        is_edit.then(|| self.folder.join("mask.png"))
    }

    /// Checks every file against its checksum.
    pub fn verify(&self) -> Result<(), CacheError> {
        for step in self.calls.iter().flatten() {
            step.data().map_err(|reason| damaged(self.id(), reason))?;
        }
        self.manifest
            .files
            .keys()
            .try_for_each(|name| self.file(name).map(drop))
    }

    /// Maps and checks what an edit reads first, each file on a thread of its own: maps of the calls that are guided, and
    /// steps from the first that may be sparse on.
    pub fn prefetch_first(&self) {
        let guided = FIRST_SPARSE.min(self.map_calls());
        (0..guided).for_each(|call| self.prefetch_part(Part::Maps, call));
        (FIRST_SPARSE..FIRST_SPARSE + AHEAD).for_each(|step| self.prefetch_part(Part::Step, step));
    }

    /// Maps and checks a step on another thread, so that it is ready when its turn comes.
    pub fn prefetch(&self, step: usize) {
        self.prefetch_part(Part::Step, step);
    }

    /// The first calls of which cross-attention maps are kept.
    pub fn map_calls(&self) -> usize {
        self.manifest.maps.len()
    }

    fn prefetch_part(&self, part: Part, call: usize) {
        let file = self.calls[part as usize].get(call);
        if file.is_some_and(|file| file.data.get().is_none() && !file.ahead.swap(true, Ordering::Relaxed)) {
            let calls = Arc::clone(&self.calls);
            std::thread::spawn(move || calls[part as usize][call].data().map(drop));
        }
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, CacheError> {
        let path = self.folder.join(name);
        let expected: &FileHash = match self.manifest.files.get(name) {
            Some(hash) => hash,
            None => return Err(damaged(self.id(), format!("{name}: missing"))),
        };
        let bytes =
            fisec_files::read(&path, expected.bytes).map_err(|error| damaged(self.id(), format!("{name}: {error}")))?;
        if json::file_hash(&bytes) != *expected {
            return Err(damaged(self.id(), format!("{name} is not as it was written")));
        }
        Ok(bytes)
    }
}

impl SlotSource for Entry {
    fn recording(&self) -> Option<&str> {
        Some(&self.manifest.id)
    }

    fn slot(&self, step: usize, slot: SlotId) -> Result<HostTensor, RuntimeError> {
        let missing = || RuntimeError::MissingSlot {
            slot: slot.0.to_string(),
            step,
        };
        let layout = self.manifest.slots.get(slot.index()).ok_or_else(missing)?;
        let file = self.calls[layout.part() as usize].get(step).ok_or_else(missing)?;
        let is_first = file.data.get().is_none();
        let data = file.data().map_err(|reason| RuntimeError::DamagedCache {
            image: self.manifest.id.clone(),
            reason,
        })?;
        if is_first {
            (1..=AHEAD).for_each(|next| self.prefetch_part(layout.part(), step + next));
        }
        let start = self.layout.offsets[slot.index()];
        let value = data.slice(start..start + layout.bytes());
        self.bytes_read.fetch_add(value.len() as u64, Ordering::Relaxed);
        Ok(HostTensor::new(layout.dtype, layout.shape.clone(), value)?)
    }
}

impl Step {
    fn all(folder: &Path, part: Part, files: &[StepFile], layout: &Arc<Layout>) -> Vec<Self> {
        let calls = files.iter().enumerate();
        calls
            .map(|(call, file)| Step {
                layout: Arc::clone(layout),
                part,
                path: folder.join(Manifest::file_name(part, call)),
                bytes: file.bytes,
                xxh3: file.xxh3.clone(),
                ahead: AtomicBool::new(false),
                data: OnceLock::new(),
            })
            .collect()
    }

    fn data(&self) -> Result<Bytes, String> {
        self.data.get_or_init(|| self.load()).clone()
    }

    fn load(&self) -> Result<Bytes, String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        check_size(&self.path, self.bytes)?;
        let data = map(&self.path).map_err(|error| format!("{name}: {error}"))?;
        if data.len() as u64 != self.bytes || checksum(&data) != self.xxh3 {
            return Err(format!("{name} is not as it was written"));
        }
        if !self.layout.is_finite(self.part, &data) {
            return Err(format!("{name} {NOT_FINITE}"));
        }
        Ok(data)
    }
}

/// Reads and checks an entry's manifest.
pub(crate) fn read_manifest(folder: &Path, name: &str) -> Result<Manifest, CacheError> {
    let fail = |reason: String| damaged(name, format!("manifest.json: {reason}"));
    let text = fisec_files::read_text(&folder.join("manifest.json")).map_err(|error| fail(error.to_string()))?;
    let mut manifest = parse(&text).map_err(fail)?;
    if manifest.id != name {
        return Err(fail(format!("it belongs to `{}`", manifest.id)));
    }
    manifest.on_disk = text.len() as u64 + manifest.bytes_of_files();
    Ok(manifest)
}

/// A manifest of another format may differ in everything else, so the format is the reason to give.
fn parse(text: &str) -> Result<Manifest, String> {
    let manifest = match json::is_intact(text) {
        true => serde_json::from_str::<Manifest>(text).map_err(|error| error.to_string()),
        false => Err("not as it was written".into()),
    };
    match manifest {
        Ok(manifest) if manifest.format == FORMAT => Ok(manifest),
        other => match format_of(text) {
            Some(format) if format != FORMAT => Err(format!("format {format} instead of {FORMAT}")),
            _ => other,
        },
    }
}

fn format_of(text: &str) -> Option<u32> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    serde_json::from_str::<Versioned>(text).ok().map(|found| found.format)
}

/// Checks the size of every file that the manifest names.
pub(crate) fn check_files(folder: &Path, manifest: &Manifest) -> Result<(), CacheError> {
    let others = manifest.files.iter().map(|(file, hash)| (file.clone(), hash.bytes));
    let calls = |part: Part, files: &[StepFile]| -> Vec<(String, u64)> {
        let files = files.iter().enumerate();
        files
            .map(|(call, file)| (Manifest::file_name(part, call), file.bytes))
            .collect()
    };
    let steps = calls(Part::Step, &manifest.steps).into_iter();
    for (file, bytes) in steps.chain(calls(Part::Maps, &manifest.maps)).chain(others) {
        check_size(&folder.join(file), bytes).map_err(|reason| damaged(&manifest.id, reason))?;
    }
    Ok(())
}

fn check_size(path: &Path, bytes: u64) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match fs::metadata(path) {
        Err(error) => Err(format!("{name}: {error}")),
        Ok(metadata) if metadata.len() != bytes => {
            Err(format!("{name} has {} bytes instead of {bytes}", metadata.len()))
        }
        Ok(_) => Ok(()),
    }
}

fn damaged(id: &str, reason: String) -> CacheError {
    CacheError::Damaged {
        id: id.to_owned(),
        reason,
    }
}

fn map(path: &Path) -> io::Result<Bytes> {
    let file = fisec_files::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a published entry is removed or replaced by rename, never written in place, so mapped bytes do not change.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use fisec_plan::{Slot, SlotKind};

    use super::super::{ImageKey, Store};
    use super::*;
    use crate::SlotSink;

    fn key() -> ImageKey {
        ImageKey {
            plan: String::new(),
            prompt: "a".into(),
            negative: String::new(),
            seed: 0,
            sampler: "ddim".into(),
            steps: 2,
            guidance: 1.0,
            width: 8,
            height: 8,
        }
    }

    fn slot(name: &str, dtype: DType) -> Slot {
        Slot {
            name: name.into(),
            kind: SlotKind::Stats,
            dtype,
            shape: [4].into(),
            bytes: 4 * dtype.size() as u64,
        }
    }

    /// A step whose file is as it was written, by a version that did not look at the values.
    #[test]
    fn recorded_values_that_are_not_finite_are_damaged() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(Some(home.path())).unwrap();
        let slots = [
            slot("half", DType::F16),
            slot("float", DType::F32),
            slot("more", DType::F32),
        ];
        // the last value of every slot
        let places = [
            (6, vec![0x00, 0x7c]),
            (20, vec![0, 0, 0xc0, 0x7f]),
            (36, vec![0, 0, 0x80, 0xff]),
        ];
        for (place, bytes) in places {
            let mut recording = store.begin(key(), None, "", &slots, 2).unwrap();
            for (step, slot) in (0..2).flat_map(|step| (0..3).map(move |slot| (step, slot))) {
                let value = HostTensor::from_f32([4], vec![1.0, -2.0, 3.0, 6e4]);
                recording.put(step, SlotId(slot), value).unwrap();
            }
            recording.set_image(Vec::new());
            let entry = recording.commit().unwrap();
            entry.verify().unwrap();
            let (folder, mut manifest) = (entry.folder.clone(), entry.manifest.clone());
            drop(entry);
            let path = folder.join("step-001.bin");
            let mut file = fs::read(&path).unwrap();
            file[place..place + bytes.len()].copy_from_slice(&bytes);
            manifest.steps[1].xxh3 = checksum(&file);
            fs::write(&path, file).unwrap();
            fs::write(folder.join("manifest.json"), json::seal(&manifest)).unwrap();
            let entry = Entry::open(&folder).unwrap();
            assert!(entry.slot(0, SlotId(0)).is_ok());
            for slot in 0..3 {
                match entry.slot(1, SlotId(slot)) {
                    Err(RuntimeError::DamagedCache { reason, .. }) => {
                        assert_eq!(reason, "step-001.bin holds values that are not finite");
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(matches!(entry.verify(), Err(CacheError::Damaged { .. })));
        }
    }
}
