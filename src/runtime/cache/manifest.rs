//! What `manifest.json` says of a remembered image.

use std::collections::BTreeMap;

use fisec_plan::{FileHash, Slot, SlotKind};
use fisec_tensor::{DType, Shape};
use serde::{Deserialize, Serialize};

use super::ImageKey;
use crate::finite::bytes_are_finite;

/// Version of the entry format; others count as not remembered.
pub(crate) const FORMAT: u32 = 2;

/// The file of a decoder's norms.
pub(crate) const NORMS: &str = "norms.bin";

/// The file of a trajectory's drift.
pub(crate) const DRIFT: &str = "drift.bin";

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
    /// milliseconds since 1970: edits that follow each other closely keep their order
    pub created: u64,
    /// seconds that making it took
    pub seconds: f64,
    /// slots of every step, in order
    pub slots: Vec<SlotLayout>,
    /// shape of the trajectory `[calls + 1, C, H, W]`
    pub latents: Shape,
    /// one per call of the denoiser
    pub steps: Vec<StepFile>,
    /// cross-attention maps, one file per call of which they are kept, the first ones
    #[serde(default)]
    pub maps: Vec<StepFile>,
    /// every other file
    pub files: BTreeMap<String, FileHash>,
    /// bytes of the folder, when it has been read from one
    #[serde(skip)]
    pub(crate) on_disk: u64,
}

/// Of which calls what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// calls of the whole schedule: of each, all slots but cross-attention maps
    pub calls: usize,
    /// first calls of which cross-attention maps are kept as well
    pub map_calls: usize,
    /// tokens of the prompt, begin and end included: maps of the padding behind them are left out
    pub tokens: usize,
}

impl From<usize> for Kept {
    /// These calls, no maps.
    fn from(calls: usize) -> Self {
        Kept {
            calls,
            map_calls: 0,
            tokens: 0,
        }
    }
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
    /// whether it stands in the files of cross-attention maps
    #[serde(default)]
    pub is_map: bool,
}

/// Which of a call's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Step,
    Maps,
}

/// Where slots stand in the files of a call.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// first byte of each slot in its file
    pub(crate) offsets: Vec<usize>,
    /// length of the step file and of the file of maps
    lengths: [usize; 2],
    /// element types in both files, and where they end
    types: [Vec<(usize, DType)>; 2],
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
            is_map: matches!(slot.kind, SlotKind::Maps { .. }),
        }
    }
}

impl SlotLayout {
    pub(crate) fn part(&self) -> Part {
        if self.is_map { Part::Maps } else { Part::Step }
    }

    /// The layout when maps end after `tokens`.
    pub(crate) fn cut(mut self, tokens: usize) -> Self {
        if let (true, [heads, queries, all]) = (self.is_map, self.shape.dims()) {
            self.shape = [*heads, *queries, tokens.min(*all)].into();
        }
        self
    }

    /// Bytes per step; saturates.
    pub fn bytes(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }
}

impl Manifest {
    /// Bytes of the whole entry on disk.
    pub fn bytes(&self) -> u64 {
        self.on_disk.max(self.bytes_of_files())
    }

    /// Bytes of the files that the manifest names.
    pub(crate) fn bytes_of_files(&self) -> u64 {
        let steps: u64 = self.steps.iter().chain(&self.maps).map(|step| step.bytes).sum();
        steps + self.files.values().map(|file| file.bytes).sum::<u64>()
    }

    /// Name of a call's file.
    pub(crate) fn file_name(part: Part, call: usize) -> String {
        match part {
            Part::Step => format!("step-{call:03}.bin"),
            Part::Maps => format!("maps-{call:03}.bin"),
        }
    }
}

impl Layout {
    /// Slots of one kind stand back to back in the order of the plan.
    pub(crate) fn of(slots: &[SlotLayout]) -> Self {
        let mut lengths = [0usize; 2];
        let mut types = [Vec::<(usize, DType)>::new(), Vec::new()];
        let mut offsets = Vec::with_capacity(slots.len());
        for slot in slots {
            let end = &mut lengths[slot.part() as usize];
            offsets.push(*end);
            *end = end.saturating_add(slot.bytes());
            let types = &mut types[slot.part() as usize];
            types.pop_if(|(_, dtype)| *dtype == slot.dtype);
            types.push((*end, slot.dtype));
        }
        Layout {
            offsets,
            lengths,
            types,
        }
    }

    /// Whether all values of a file are finite.
    pub(crate) fn is_finite(&self, part: Part, bytes: &[u8]) -> bool {
        let mut start = 0;
        self.types[part as usize].iter().all(|&(end, dtype)| {
            let run = bytes.get(start..end).unwrap_or_default();
            start = end;
            bytes_are_finite(dtype, run)
        })
    }

    /// Bytes of a file.
    pub(crate) fn length(&self, part: Part) -> usize {
        self.lengths[part as usize]
    }
}
