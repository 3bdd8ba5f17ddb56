//! Recorded slots of one step as one block of device memory, and f16 rows for host tensors.

use std::borrow::Cow;
use std::ops::Range;

use fisec_plan::cuda::padded;
use fisec_plan::{Plan, Slot, SlotId, SlotKind};
use fisec_tensor::{ActiveSet, DType, HostTensor, Shape};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::RuntimeError;

/// Slots begin at multiples of this.
const ALIGNMENT: usize = 256;

/// Where each slot lies in a step's block: cross-attention maps behind all others, because most steps have none.
pub(super) struct SlotBlock {
    offsets: Vec<usize>,
    bytes: usize,
    bytes_without_maps: usize,
}

impl SlotBlock {
    pub(super) fn new(plan: &Plan) -> Self {
        let is_map = |slot: &Slot| matches!(slot.kind, SlotKind::Maps { .. });
        let mut block = SlotBlock {
            offsets: vec![0; plan.slots.len()],
            bytes: 0,
            bytes_without_maps: 0,
        };
        block.append(plan, |slot| !is_map(slot));
        block.bytes_without_maps = block.bytes;
        block.append(plan, is_map);
        block
    }

    fn append(&mut self, plan: &Plan, belongs: impl Fn(&Slot) -> bool) {
        for (index, slot) in plan.slots.iter().enumerate().filter(|(_, slot)| belongs(slot)) {
            self.offsets[index] = self.bytes;
            self.bytes = (self.bytes + stored_bytes(slot)).next_multiple_of(ALIGNMENT);
        }
    }

    /// Bytes of a step's block, with or without maps.
    pub(super) fn bytes(&self, maps: bool) -> usize {
        if maps { self.bytes } else { self.bytes_without_maps }
    }

    /// The part of a block that holds all of these slots.
    pub(super) fn range(&self, plan: &Plan, slots: &[SlotId]) -> Range<usize> {
        let end = |slot: &SlotId| self.offsets[slot.index()] + stored_bytes(&plan.slots[slot.index()]);
        let first = slots.iter().map(|slot| self.offsets[slot.index()]).min();
        first.unwrap_or(0)..slots.iter().map(end).max().unwrap_or(0)
    }

    /// Where a slot begins.
    pub(super) fn offset(&self, slot: SlotId) -> u64 {
        self.offsets[slot.index()] as u64
    }

    /// Puts a slot's value into a block on the host.
    pub(super) fn put(&self, plan: &Plan, slot: SlotId, value: &HostTensor, block: &mut [u8]) {
        let at = self.offsets[slot.index()];
        let bytes = stored(&plan.slots[slot.index()], value);
        block[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    /// The parts of a block that hold what an edit reads of a slot: of every image the rows of the map around the active
    /// ones, or all of it. Parts are in order and do not touch each other.
    pub(super) fn parts_read(&self, plan: &Plan, slot: SlotId, levels: &[ActiveSet]) -> Vec<Range<usize>> {
        self.rows_read(plan, slot, levels)
            .unwrap_or_else(|| [self.range(plan, &[slot])].into())
    }

    /// `None`: all of it.
    fn rows_read(&self, plan: &Plan, slot: SlotId, levels: &[ActiveSet]) -> Option<Vec<Range<usize>>> {
        let (offset, slot) = (self.offsets[slot.index()], &plan.slots[slot.index()]);
        let SlotKind::Halo { level, radius } = slot.kind else {
            return None;
        };
        let mask = levels[level as usize].mask();
        let (height, width, images) = (mask.height(), mask.width(), slot.shape[0]);
        let is_active = |row: &usize| (0..width).any(|column| mask.get(*row, column));
        let mut active = (0..height).filter(is_active);
        let first = active.next()?;
        let last = active.next_back().unwrap_or(first);
        let (top, bottom) = (first.saturating_sub(radius), (last + radius + 1).min(height));
        if bottom - top == height || rows(&slot.shape) != images * height * width {
            return None;
        }
        let row_bytes = width * padded(channels(&slot.shape)) * size_of::<f16>();
        let part = |image: usize| {
            let start = offset + image * height * row_bytes;
            start + top * row_bytes..start + bottom * row_bytes
        };
        Some((0..images).map(part).collect())
    }

    /// A slot's value out of the part of a block that begins at `first`, on the host, in the slot's own type.
    pub(super) fn take(
        &self,
        plan: &Plan,
        slot: SlotId,
        block: &[u8],
        first: usize,
    ) -> Result<HostTensor, RuntimeError> {
        let layout = &plan.slots[slot.index()];
        let block = &block[self.offsets[slot.index()] - first..];
        let value = match layout.kind {
            SlotKind::Stats => {
                let bytes = layout.shape.elements() * size_of::<f32>();
                HostTensor::new(DType::F32, layout.shape.clone(), block[..bytes].to_vec().into())?
            }
            _ => from_half_rows(block, &layout.shape)?,
        };
        Ok(value.cast(layout.dtype))
    }
}

/// A slot's value as a block holds it.
pub(super) fn stored<'a>(slot: &Slot, value: &'a HostTensor) -> Cow<'a, [u8]> {
    let is_exact = value.dtype() == DType::F32;
    match slot.kind {
        SlotKind::Stats if is_exact => Cow::Borrowed(value.data()),
        SlotKind::Stats => Cow::Owned(bytemuck::cast_slice(&value.to_f32_vec()).to_vec()),
        _ if value.dtype() == DType::F16 && channels(&slot.shape) == padded(channels(&slot.shape)) => {
            Cow::Borrowed(value.data())
        }
        _ => Cow::Owned(half_rows(value)),
    }
}

/// Bytes of a slot on the device: f16 rows of padded channels, statistics as they are.
fn stored_bytes(slot: &Slot) -> usize {
    match slot.kind {
        SlotKind::Stats => slot.shape.elements() * size_of::<f32>(),
        _ => half_rows_bytes(&slot.shape),
    }
}

fn channels(shape: &Shape) -> usize {
    shape.last().copied().unwrap_or(1)
}

fn rows(shape: &Shape) -> usize {
    shape.iter().rev().skip(1).product()
}

/// Bytes of a value as f16 rows of padded channels.
pub(super) fn half_rows_bytes(shape: &Shape) -> usize {
    rows(shape) * padded(channels(shape)) * size_of::<f16>()
}

/// A host tensor as f16 rows of padded channels.
pub(super) fn half_rows(value: &HostTensor) -> Vec<u8> {
    let halves = value.cast(DType::F16);
    let (width, stride) = (channels(value.shape()) * 2, padded(channels(value.shape())) * 2);
    if width == stride {
        return halves.data().to_vec();
    }
    let mut bytes = vec![0u8; half_rows_bytes(value.shape())];
    for (row, from) in bytes
        .chunks_exact_mut(stride)
        .zip(halves.data().chunks_exact(width.max(1)))
    {
        row[..width].copy_from_slice(from);
    }
    bytes
}

/// [`half_rows`] of what an island computed on the host.
///
/// # Errors
/// Fails on integers that f16 does not hold exactly, such as large indices.
pub(super) fn island_rows(value: &HostTensor) -> Result<Vec<u8>, RuntimeError> {
    let is_exact = value.dtype().is_float() || value.cast(DType::F16).cast(value.dtype()) == *value;
    match is_exact {
        true => Ok(half_rows(value)),
        false => Err(RuntimeError::LargeIntegers),
    }
}

/// Planes `[images, channels, pixels]` as f16 rows of padded channels.
pub(super) fn rows_of_planes(planes: &[f32], [images, channels, pixels]: [usize; 3]) -> Vec<u8> {
    let stride = padded(channels);
    let mut rows = vec![f16::ZERO; images * pixels * stride];
    let mut halves = vec![f16::ZERO; pixels];
    for (index, plane) in planes.chunks_exact(pixels.max(1)).enumerate() {
        let (image, channel) = (index / channels, index % channels);
        halves.convert_from_f32_slice(plane);
        let own = &mut rows[image * pixels * stride..];
        for (row, &value) in own.chunks_exact_mut(stride).zip(&halves) {
            row[channel] = value;
        }
    }
    bytemuck::cast_slice(&rows).to_vec()
}

/// The host tensor that f16 rows of padded channels hold.
pub(super) fn from_half_rows(bytes: &[u8], shape: &Shape) -> Result<HostTensor, RuntimeError> {
    let (width, stride) = (channels(shape) * 2, padded(channels(shape)) * 2);
    let bytes = &bytes[..half_rows_bytes(shape)];
    let data: Vec<u8> = match width == stride {
        true => bytes.to_vec(),
        false => bytes
            .chunks_exact(stride)
            .flat_map(|row| row[..width].to_vec())
            .collect(),
    };
    Ok(HostTensor::new(DType::F16, shape.clone(), data.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_and_come_back() {
        let value = HostTensor::from_f32([2, 3, 5], (0..30).map(|x| x as f32).collect());
        let bytes = half_rows(&value);
        assert_eq!(bytes.len(), 2 * 3 * 8 * 2);
        assert_eq!(
            from_half_rows(&bytes, value.shape()).unwrap().to_f32_vec(),
            value.to_f32_vec()
        );
        assert_eq!(&bytes[10..16], &[0; 6]);
    }
}
