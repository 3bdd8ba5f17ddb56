//! Recordings that stay on the device: an edit of an image made in this process copies nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::driver::{Buffer, Device};
use crate::RuntimeError;

/// Device memory that recordings leave free, for what other programs and larger masks need.
const LEFT_FREE: usize = 1 << 30;

/// Blocks of slots by recording and step, newest recording last.
pub(super) struct Tier {
    device: Arc<Device>,
    left_free: usize,
    recordings: VecDeque<(String, HashMap<usize, Buffer>)>,
}

impl Tier {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let (_, total) = device.memory()?;
        Ok(Tier {
            device: Arc::clone(device),
            left_free: LEFT_FREE.min(total / 8),
            recordings: VecDeque::new(),
        })
    }

    /// The block of a step, when it is here and has at least `bytes`.
    pub(super) fn get(&self, recording: &str, step: usize, bytes: usize) -> Option<&Buffer> {
        let mut known = self.recordings.iter();
        let block = known.find(|(name, _)| name == recording)?.1.get(&step);
        block.filter(|block| block.bytes() >= bytes)
    }

    /// A block of `bytes` for a step that is about to be recorded; `None` when there is no room. Older recordings make
    /// room, but not `keep`.
    pub(super) fn make(
        &mut self,
        recording: &str,
        step: usize,
        bytes: usize,
        keep: Option<&str>,
    ) -> Result<Option<&Buffer>, RuntimeError> {
        if !self.recordings.iter().any(|(name, _)| name == recording) {
            self.recordings.push_back((recording.to_owned(), HashMap::new()));
        }
        if self.get(recording, step, bytes).is_none() {
            let Some(block) = self.allocate(recording, bytes, keep)? else {
                return Ok(None);
            };
            let mut known = self.recordings.iter_mut();
            let (_, steps) = known.find(|(name, _)| name == recording).expect("made above");
            steps.insert(step, block);
        }
        Ok(self.get(recording, step, bytes))
    }

    fn allocate(&mut self, recording: &str, bytes: usize, keep: Option<&str>) -> Result<Option<Buffer>, RuntimeError> {
        loop {
            if self.device.memory()?.0 > self.left_free + bytes {
                match self.device.allocate(bytes) {
                    Ok(block) => return Ok(Some(block)),
                    Err(RuntimeError::DeviceMemory) => {}
                    Err(other) => return Err(other),
                }
            }
            let oldest = self
                .recordings
                .iter()
                .position(|(name, _)| name != recording && Some(name.as_str()) != keep);
            let Some(oldest) = oldest else { return Ok(None) };
            self.recordings.remove(oldest);
        }
    }

    /// Frees everything.
    pub(super) fn clear(&mut self) {
        self.recordings.clear();
    }
}
