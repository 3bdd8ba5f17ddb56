//! What `manifest.json` says of a remembered image.

use std::collections::BTreeMap;

use fisec_plan::{FileHash, Slot};
use fisec_tensor::{DType, Shape};
use serde::{Deserialize, Serialize};

use super::ImageKey;

/// Version of the entry format; others count as not remembered.
pub(crate) const FORMAT: u32 = 1;

/// A remembered image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// version of the entry format
    pub format: u32,
    /// name of the image
    pub id: String,
    /// what it follows from
    pub key: ImageKey,
    /// the image that it is an edit of
    pub parent: Option<String>,
    /// how the edit was made: mask, guide steps and the like, as the session writes them
    pub settings: String,
    /// seconds since 1970
    pub created: u64,
    /// seconds that making it took
    pub seconds: f64,
    /// slots of every step, in order
    pub slots: Vec<SlotLayout>,
    /// shape of the trajectory `[calls + 1, C, H, W]`
    pub latents: Shape,
    /// one per call of the denoiser
    pub steps: Vec<StepFile>,
    /// every other file
    pub files: BTreeMap<String, FileHash>,
}

/// How a slot stands in a step file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotLayout {
    /// name in the plan
    pub name: String,
    /// element type
    pub dtype: DType,
    /// dimensions
    pub shape: Shape,
}

/// Size and checksum of a step file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFile {
    /// sum of the slots' bytes
    pub bytes: u64,
    /// XXH3 of the file, hex: guards against damage at memory speed, not against intent
    pub xxh3: String,
}

impl From<&Slot> for SlotLayout {
    fn from(slot: &Slot) -> Self {
        SlotLayout {
            name: slot.name.clone(),
            dtype: slot.dtype,
            shape: slot.shape.clone(),
        }
    }
}

impl SlotLayout {
    /// Bytes per step; saturates.
    pub fn bytes(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }
}

impl Manifest {
    /// Bytes of the whole entry without the manifest.
    pub fn bytes(&self) -> u64 {
        let steps: u64 = self.steps.iter().map(|step| step.bytes).sum();
        steps + self.files.values().map(|file| file.bytes).sum::<u64>()
    }

    /// First byte of each slot in a step file, and the file's length.
    pub(crate) fn offsets(slots: &[SlotLayout]) -> (Vec<usize>, usize) {
        let mut end = 0usize;
        let mut starts = Vec::with_capacity(slots.len());
        for slot in slots {
            starts.push(end);
            end = end.saturating_add(slot.bytes());
        }
        (starts, end)
    }

    /// Name of a step's file.
    pub(crate) fn step_file(step: usize) -> String {
        format!("step-{step:03}.bin")
    }
}
