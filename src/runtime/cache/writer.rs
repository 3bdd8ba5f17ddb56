//! Writes step files on threads of its own, so that the denoising loop does not wait for the disk.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZero;
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
use crate::finite::bytes_are_finite;

/// Values that may wait for each thread before the loop does.
const QUEUE: usize = 64;

/// Threads that write. Each has a step's file in memory.
const MOST_THREADS: usize = 4;

type Value = (usize, SlotId, HostTensor);
/// A file of a call that is written.
type Written = (Part, usize, StepFile);
/// Creates a file and writes it whole.
pub(crate) type WriteFile = fn(&Path, &[u8]) -> io::Result<()>;

/// What was written: step files, and files of maps of the first calls.
pub(crate) struct Files {
    pub(crate) steps: Vec<StepFile>,
    pub(crate) maps: Vec<StepFile>,
}

/// Assembles slots to step files, steps in turn on several threads: one is not as fast as disks are. Dropping it waits for
/// the threads, so that nothing is written afterwards.
pub(crate) struct StepWriter {
    threads: Vec<Writing>,
}

struct Writing {
    queue: SyncSender<Value>,
    thread: JoinHandle<Result<Vec<Written>, CacheError>>,
}

impl StepWriter {
    pub(crate) fn start(folder: PathBuf, slots: Vec<SlotLayout>, kept: Kept, write: WriteFile) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let count = cores.min(MOST_THREADS).min(kept.calls.max(1));
        let writing = |index: usize| {
            let (queue, values) = sync_channel(QUEUE);
            let (folder, slots) = (folder.clone(), slots.clone());
            let calls = (index..kept.calls).step_by(count);
            let thread = thread::spawn(move || write_steps(&folder, &slots, calls, values, write));
            Writing { queue, thread }
        };
        StepWriter {
            threads: (0..count).map(writing).collect(),
        }
    }

    /// Hands a value over. Whether the disk took it shows in [`StepWriter::finish`].
    pub(crate) fn send(&self, step: usize, slot: SlotId, value: HostTensor) {
        let _ = self.threads[step % self.threads.len()].queue.send((step, slot, value));
    }

    /// Waits for the disk.
    pub(crate) fn finish(mut self, kept: Kept) -> Result<Files, CacheError> {
        let mut files = [vec![None; kept.calls], vec![None; kept.map_calls]];
        let threads = std::mem::take(&mut self.threads);
        for written in threads.into_iter().map(Writing::join).collect::<Vec<_>>() {
            for (part, call, file) in written? {
                files[part as usize][call] = Some(file);
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
}

impl Writing {
    fn join(self) -> Result<Vec<Written>, CacheError> {
        drop(self.queue);
        self.thread.join().expect("a writer does not panic")
    }
}

impl Drop for StepWriter {
    fn drop(&mut self) {
        for writing in self.threads.drain(..) {
            let _ = writing.join();
        }
    }
}

/// A file that is not complete yet.
struct Pending {
    bytes: Vec<u8>,
    /// slots that are in place
    filled: BTreeSet<usize>,
}

/// Files of these calls, and of the others that values come of.
fn write_steps(
    folder: &Path,
    slots: &[SlotLayout],
    mut calls: impl Iterator<Item = usize>,
    values: Receiver<Value>,
    write: WriteFile,
) -> Result<Vec<Written>, CacheError> {
    let layout = Layout::of(slots);
    let count = |part: Part| slots.iter().filter(|slot| slot.part() == part).count();
    let counts = [Part::Step, Part::Maps].map(count);
    let mut pending: BTreeMap<(Part, usize), Pending> = BTreeMap::new();
    let mut files = Vec::new();
    // memory of steps that are written: new pages cost as much as writing them
    let mut spare: Vec<Vec<u8>> = Vec::new();
    if counts[0] == 0 {
        calls.try_for_each(|call| {
            files.push((Part::Step, call, write_file_of(folder, Part::Step, call, &[], write)?));
            Ok(())
        })?;
    }
    for (call, slot, value) in values {
        let (index, slot) = (slot.index(), &slots[slot.index()]);
        let part = slot.part();
        let buffer = pending.entry((part, call)).or_insert_with(|| {
            let mut bytes = spare.pop().unwrap_or_default();
            bytes.resize(layout.length(part), 0);
            Pending {
                bytes,
                filled: BTreeSet::new(),
            }
        });
        let start = layout.offsets[index];
        let encoded = encode(&fitted(&value, slot), slot.dtype);
        if !bytes_are_finite(slot.dtype, &encoded) {
            return Err(CacheError::NotFinite {
                slot: slot.name.clone(),
                step: call,
                dtype: slot.dtype,
            });
        }
        buffer.bytes[start..start + slot.bytes()].copy_from_slice(&encoded);
        buffer.filled.insert(index);
        if buffer.filled.len() == counts[part as usize] {
            let complete = pending.remove(&(part, call)).expect("just filled");
            files.push((part, call, write_file_of(folder, part, call, &complete.bytes, write)?));
            spare.push(complete.bytes);
        }
    }
    Ok(files)
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
