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
    block_bytes: usize,
    left_free: usize,
    recordings: VecDeque<(String, HashMap<usize, Buffer>)>,
}

impl Tier {
    pub(super) fn new(device: &Arc<Device>, block_bytes: usize) -> Result<Self, RuntimeError> {
        let (_, total) = device.memory()?;
        Ok(Tier {
            device: Arc::clone(device),
            block_bytes,
            left_free: LEFT_FREE.min(total / 8),
            recordings: VecDeque::new(),
        })
    }

    /// The block of a step, when it is here.
    pub(super) fn get(&self, recording: &str, step: usize) -> Option<&Buffer> {
        let mut known = self.recordings.iter();
        known.find(|(name, _)| name == recording)?.1.get(&step)
    }

    /// A block for a step that is about to be recorded; `None` when there is no room. Older recordings make room, but
    /// not `keep`.
    pub(super) fn make(
        &mut self,
        recording: &str,
        step: usize,
        keep: Option<&str>,
    ) -> Result<Option<&Buffer>, RuntimeError> {
        if !self.recordings.iter().any(|(name, _)| name == recording) {
            self.recordings.push_back((recording.to_owned(), HashMap::new()));
        }
        if self.get(recording, step).is_none() {
            let Some(block) = self.allocate(recording, keep)? else {
                return Ok(None);
            };
            let mut known = self.recordings.iter_mut();
            let (_, steps) = known.find(|(name, _)| name == recording).expect("made above");
            steps.insert(step, block);
        }
        Ok(self.get(recording, step))
    }

    fn allocate(&mut self, recording: &str, keep: Option<&str>) -> Result<Option<Buffer>, RuntimeError> {
        loop {
            if self.device.memory()?.0 > self.left_free + self.block_bytes {
                match self.device.allocate(self.block_bytes) {
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
