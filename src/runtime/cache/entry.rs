//! A remembered image, opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fisec_plan::{FileHash, SlotId, json};
use fisec_tensor::{DType, HostTensor};
use memmap2::Mmap;

use super::lock::{self, InUse};
use super::manifest::{DRIFT, FORMAT, Layout, NORMS, Part};
use super::writer::checksum;
use super::{CacheError, Manifest, StepFile};
use crate::{RuntimeError, SlotSource};

/// Steps that are read and checked while one is in use.
const AHEAD: usize = 8;

/// Guided steps that an edit of most schedules takes at least.
const FIRST_SPARSE: usize = 5;

/// A remembered image. Its step files are mapped, and checked when first touched; while one of these exists, nobody
/// removes the image.
#[derive(Debug)]
pub struct Entry {
    folder: PathBuf,
    manifest: Manifest,
    layout: Layout,
    /// step files and files of maps
    calls: Arc<[Vec<Step>; 2]>,
    bytes_read: AtomicU64,
    _in_use: InUse,
}

#[derive(Debug)]
struct Step {
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
        let layout = Layout::of(&manifest.slots);
        let parts = [(Part::Step, &manifest.steps), (Part::Maps, &manifest.maps)];
        let fits =
            |(part, files): &(Part, &Vec<StepFile>)| files.iter().all(|file| file.bytes == layout.length(*part) as u64);
        if !parts.iter().all(fits) {
            return Err(damaged(&name, "manifest.json contradicts itself".into()));
        }
        let calls = parts.map(|(part, files)| Step::all(folder, part, files));
        let files = manifest
            .files
            .iter()
            .map(|(file, hash)| (folder.join(file), hash.bytes));
        let step_files = calls.iter().flatten().map(|step| (step.path.clone(), step.bytes));
        for (path, bytes) in files.chain(step_files) {
            check_size(&path, bytes).map_err(|reason| damaged(&name, reason))?;
        }
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
        HostTensor::new(DType::F32, self.manifest.latents.clone(), bytes.into())
            .map_err(|error| damaged(self.id(), format!("latents.bin: {error}")))
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
        let drift = HostTensor::new(DType::F32, dims, bytes.into());
        drift
            .map(Some)
            .map_err(|error| damaged(self.id(), format!("{DRIFT}: {error}")))
    }

    /// The norms that the image was decoded with, f32 `[values]`, where they are known.
    pub fn norms(&self) -> Result<Option<HostTensor>, CacheError> {
        if !self.manifest.files.contains_key(NORMS) {
            return Ok(None);
        }
        let bytes = self.file(NORMS)?;
        let norms = HostTensor::new(DType::F32, [bytes.len() / size_of::<f32>()], bytes.into());
        norms
            .map(Some)
            .map_err(|error| damaged(self.id(), format!("{NORMS}: {error}")))
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
    fn all(folder: &Path, part: Part, files: &[StepFile]) -> Vec<Self> {
        let calls = files.iter().enumerate();
        calls
            .map(|(call, file)| Step {
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
        Ok(data)
    }
}

/// Reads and checks an entry's manifest.
pub(crate) fn read_manifest(folder: &Path, name: &str) -> Result<Manifest, CacheError> {
    let path = folder.join("manifest.json");
    let fail = |reason: String| damaged(name, format!("manifest.json: {reason}"));
    let text = fisec_files::read_text(&path).map_err(|error| fail(error.to_string()))?;
    if !json::is_intact(&text) {
        return Err(fail("not as it was written".into()));
    }
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(fail(format!("format {} instead of {FORMAT}", manifest.format)));
    }
    if manifest.id != name {
        return Err(fail(format!("it belongs to `{}`", manifest.id)));
    }
    Ok(manifest)
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
