//! Slots as kernels read them.

use std::borrow::Cow;

use fisec_kernels::cpu::{ConvTable, Map, RecordedRows};
use fisec_plan::{SlotId, ValueId};
use fisec_tensor::{ActiveSet, DType, HostTensor};

use super::CpuCall;
use super::value::Floats;
use crate::RuntimeError;

/// A slot's value in a type that kernels read.
pub(super) enum Recorded {
    F32(Floats),
    F16(HostTensor),
}

impl Recorded {
    pub(super) fn read(call: &CpuCall<'_>, slot: SlotId) -> Result<Self, RuntimeError> {
        let value = call.slot(slot)?;
        let is_aligned_half =
            value.dtype() == DType::F16 && matches!(value.as_pod::<half::f16>(DType::F16), Ok(Cow::Borrowed(_)));
        if is_aligned_half {
            return Ok(Recorded::F16(value));
        }
        Ok(Recorded::F32(Floats::new(&value)?))
    }

    pub(super) fn optional(call: &CpuCall<'_>, slot: Option<SlotId>) -> Result<Option<Self>, RuntimeError> {
        slot.map(|slot| Self::read(call, slot)).transpose()
    }

    pub(super) fn rows(&self) -> RecordedRows<'_> {
        match self {
            Recorded::F32(floats) => RecordedRows::F32(floats.as_slice()),
            Recorded::F16(tensor) => RecordedRows::F16(bytemuck::cast_slice(tensor.data())),
        }
    }
}

/// A value as a map, with the recorded map outside its active set.
pub(super) fn map_of<'a>(
    call: &CpuCall<'a>,
    value: ValueId,
    outside: Option<&'a Recorded>,
) -> Result<Map<'a>, RuntimeError> {
    let fresh = call.value(value)?.as_slice();
    let channels = call.channels(value);
    Ok(match call.active_of(value)? {
        None => Map::full(fresh, call.pixels(value), channels),
        Some(active) => Map::packed(fresh, active.ranks(), channels, outside.map(Recorded::rows)),
    })
}

/// Bytes of a slot that a convolution reads.
pub(super) fn halo_bytes(map: &Map<'_>, table: &ConvTable) -> u64 {
    let (Some(ranks), Some(outside)) = (map.ranks, &map.outside) else {
        return 0;
    };
    let pixels = table.reads().iter().filter(|&&pixel| ranks[pixel as usize] < 0).count();
    (pixels * map.recorded_images() * map.channels * outside.element_bytes()) as u64
}

/// Bytes of a slot that are read when everything outside the active set is.
pub(super) fn outside_bytes(map: &Map<'_>, images: usize) -> u64 {
    let Some(outside) = &map.outside else { return 0 };
    let active = map.fresh.len() / (images * map.channels);
    ((map.pixels - active) * map.recorded_images() * map.channels * outside.element_bytes()) as u64
}

/// Bytes of the active rows of a slot.
pub(super) fn active_bytes(rows: &RecordedRows<'_>, active: &ActiveSet, images: usize, channels: usize) -> u64 {
    (active.len() * images * channels * rows.element_bytes()) as u64
}
