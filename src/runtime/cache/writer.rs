//! Writes step files on a thread of its own, so that the denoising loop does not wait for the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use fisec_plan::SlotId;
use fisec_tensor::{DType, HostTensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use xxhash_rust::xxh3::xxh3_64;

use super::{CacheError, Manifest, SlotLayout, StepFile};
use crate::RuntimeError;

/// Values that may wait for the disk before the loop does.
const QUEUE: usize = 64;

type Value = (usize, SlotId, HostTensor);
/// Creates a file and writes it whole.
pub(crate) type WriteFile = fn(&Path, &[u8]) -> io::Result<()>;

/// Assembles slots to step files. Dropping it waits for the thread, so that nothing is written afterwards.
pub(crate) struct StepWriter {
    queue: Option<SyncSender<Value>>,
    thread: Option<JoinHandle<Result<Vec<StepFile>, CacheError>>>,
}

impl StepWriter {
    pub(crate) fn start(folder: PathBuf, slots: Vec<SlotLayout>, steps: usize, write: WriteFile) -> Self {
        let (queue, values) = sync_channel(QUEUE);
        let thread = thread::spawn(move || write_steps(&folder, &slots, steps, values, write));
        StepWriter {
            queue: Some(queue),
            thread: Some(thread),
        }
    }

    /// Hands a value over. Whether the disk took it shows in [`StepWriter::finish`].
    pub(crate) fn send(&self, step: usize, slot: SlotId, value: HostTensor) {
        if let Some(queue) = &self.queue {
            let _ = queue.send((step, slot, value));
        }
    }

    /// Waits for the disk.
    pub(crate) fn finish(mut self) -> Result<Vec<StepFile>, CacheError> {
        drop(self.queue.take());
        let thread = self.thread.take().expect("taken here only");
        thread.join().expect("the writer does not panic")
    }
}

impl Drop for StepWriter {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One buffer per step that is not complete yet.
struct Pending {
    bytes: Vec<u8>,
    missing: Vec<bool>,
}

fn write_steps(
    folder: &Path,
    slots: &[SlotLayout],
    steps: usize,
    values: Receiver<Value>,
    write: WriteFile,
) -> Result<Vec<StepFile>, CacheError> {
    let (offsets, length) = Manifest::offsets(slots);
    let mut pending = BTreeMap::new();
    let mut files: Vec<Option<StepFile>> = vec![None; steps];
    if slots.is_empty() {
        for (step, file) in files.iter_mut().enumerate() {
            *file = Some(write_step(folder, step, &[], write)?);
        }
    }
    for (step, slot, value) in values {
        let buffer = pending.entry(step).or_insert_with(|| Pending {
            bytes: vec![0; length],
            missing: vec![true; slots.len()],
        });
        let index = slot.index();
        let data = encode(&value, slots[index].dtype);
        buffer.bytes[offsets[index]..offsets[index] + data.len()].copy_from_slice(&data);
        buffer.missing[index] = false;
        if !buffer.missing.contains(&true) {
            let complete = pending.remove(&step).expect("just filled");
            files[step] = Some(write_step(folder, step, &complete.bytes, write)?);
        }
    }
    match files.iter().position(Option::is_none) {
        Some(step) => Err(CacheError::Incomplete(step)),
        None => Ok(files.into_iter().flatten().collect()),
    }
}

fn write_step(folder: &Path, step: usize, bytes: &[u8], write: WriteFile) -> Result<StepFile, CacheError> {
    let path = folder.join(Manifest::step_file(step));
    write(&path, bytes).map_err(CacheError::io(&path))?;
    Ok(StepFile {
        bytes: bytes.len() as u64,
        xxh3: checksum(bytes),
    })
}

/// Checksum of a step file.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}

/// Writes a file that nobody else sees yet.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::create_new(path)?.write_all(bytes)
}

/// The tensor's bytes in another element type.
pub(crate) fn encode(value: &HostTensor, dtype: DType) -> Bytes {
    if let (DType::F32, DType::F16, Ok(values)) = (value.dtype(), dtype, value.as_f32()) {
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(&values);
        return HostTensor::from_pod(DType::F16, value.shape().clone(), halves)
            .data()
            .clone();
    }
    value.cast(dtype).data().clone()
}

impl SlotLayout {
    /// The layout of `slot`, when `value` fits it.
    pub(crate) fn of<'a>(slots: &'a [SlotLayout], slot: SlotId, value: &HostTensor) -> Result<&'a Self, RuntimeError> {
        let Some(layout) = slots.get(slot.index()) else {
            return Err(RuntimeError::Store(format!("there is no slot {}", slot.0)));
        };
        if layout.shape.elements() != value.shape().elements() {
            return Err(RuntimeError::Mismatch {
                what: format!("slot `{}`", layout.name),
                expected_dtype: layout.dtype,
                expected: layout.shape.clone(),
                dtype: value.dtype(),
                shape: value.shape().clone(),
            });
        }
        Ok(layout)
    }
}
