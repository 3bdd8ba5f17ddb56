//! Writes step files on a thread of its own, so that the denoising loop does not wait for the disk.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
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

use super::manifest::{Layout, Part};
use super::{CacheError, Kept, Manifest, SlotLayout, StepFile};
use crate::RuntimeError;

/// Values that may wait for the disk before the loop does.
const QUEUE: usize = 64;

type Value = (usize, SlotId, HostTensor);
/// Creates a file and writes it whole.
pub(crate) type WriteFile = fn(&Path, &[u8]) -> io::Result<()>;

/// What was written: step files, and files of maps of the first calls.
pub(crate) struct Files {
    pub(crate) steps: Vec<StepFile>,
    pub(crate) maps: Vec<StepFile>,
}

/// Assembles slots to step files. Dropping it waits for the thread, so that nothing is written afterwards.
pub(crate) struct StepWriter {
    queue: Option<SyncSender<Value>>,
    thread: Option<JoinHandle<Result<Files, CacheError>>>,
}

impl StepWriter {
    pub(crate) fn start(folder: PathBuf, slots: Vec<SlotLayout>, kept: Kept, write: WriteFile) -> Self {
        let (queue, values) = sync_channel(QUEUE);
        let thread = thread::spawn(move || write_steps(&folder, &slots, kept, values, write));
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
    pub(crate) fn finish(mut self) -> Result<Files, CacheError> {
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

/// A file that is not complete yet.
struct Pending {
    bytes: Vec<u8>,
    /// slots that are in place
    filled: BTreeSet<usize>,
}

fn write_steps(
    folder: &Path,
    slots: &[SlotLayout],
    kept: Kept,
    values: Receiver<Value>,
    write: WriteFile,
) -> Result<Files, CacheError> {
    let layout = Layout::of(slots);
    let count = |part: Part| slots.iter().filter(|slot| slot.part() == part).count();
    let counts = [Part::Step, Part::Maps].map(count);
    let mut pending: BTreeMap<(Part, usize), Pending> = BTreeMap::new();
    let mut files = [vec![None; kept.calls], vec![None; kept.map_calls]];
    if counts[0] == 0 {
        for (call, file) in files[0].iter_mut().enumerate() {
            *file = Some(write_file_of(folder, Part::Step, call, &[], write)?);
        }
    }
    for (call, slot, value) in values {
        let (index, slot) = (slot.index(), &slots[slot.index()]);
        let part = slot.part();
        let buffer = pending.entry((part, call)).or_insert_with(|| Pending {
            bytes: vec![0; layout.length(part)],
            filled: BTreeSet::new(),
        });
        let start = layout.offsets[index];
        buffer.bytes[start..start + slot.bytes()].copy_from_slice(&encode(&fitted(&value, slot), slot.dtype));
        buffer.filled.insert(index);
        if buffer.filled.len() == counts[part as usize] {
            let complete = pending.remove(&(part, call)).expect("just filled");
            files[part as usize][call] = Some(write_file_of(folder, part, call, &complete.bytes, write)?);
        }
    }
    let [steps, maps] = files;
    match steps.iter().position(Option::is_none) {
        Some(step) => Err(CacheError::Incomplete(step)),
        None => Ok(Files {
            steps: steps.into_iter().flatten().collect(),
            // as far as the schedule was dense
            maps: maps.into_iter().map_while(|file| file).collect(),
        }),
    }
}

fn write_file_of(
    folder: &Path,
    part: Part,
    call: usize,
    bytes: &[u8],
    write: WriteFile,
) -> Result<StepFile, CacheError> {
    let path = folder.join(Manifest::file_name(part, call));
    write(&path, bytes).map_err(CacheError::io(&path))?;
    Ok(StepFile {
        bytes: bytes.len() as u64,
        xxh3: checksum(bytes),
    })
}

/// Maps cut to the tokens that are kept; everything else as it is.
fn fitted<'a>(value: &'a HostTensor, slot: &SlotLayout) -> Cow<'a, HostTensor> {
    let (Some(&all), Some(&kept)) = (value.shape().last(), slot.shape.last()) else {
        return Cow::Borrowed(value);
    };
    if !slot.is_map || kept >= all {
        return Cow::Borrowed(value);
    }
    let size = value.dtype().size();
    let rows = value.data().chunks_exact(all * size);
    let bytes: Vec<u8> = rows.flat_map(|row| &row[..kept * size]).copied().collect();
    Cow::Owned(HostTensor::new(value.dtype(), slot.shape.clone(), bytes.into()).expect("rows were cut to the shape"))
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
        let fits = match layout.is_map {
            true => {
                layout.shape.dims().split_last().map(|(_, rows)| rows)
                    == value.shape().split_last().map(|(_, rows)| rows)
            }
            false => layout.shape.elements() == value.shape().elements(),
        };
        if !fits {
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
