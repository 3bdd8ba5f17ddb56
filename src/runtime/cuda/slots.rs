//! Recorded slots of one step as one block of device memory, and f16 rows for host tensors.

use fisec_plan::cuda::padded;
use fisec_plan::{Plan, SlotId, SlotKind};
use fisec_tensor::{DType, HostTensor, Shape};
use half::f16;

use crate::RuntimeError;

/// Slots begin at multiples of this.
const ALIGNMENT: usize = 256;

/// Where each slot lies in a step's block.
pub(super) struct SlotBlock {
    offsets: Vec<usize>,
    bytes: usize,
}

impl SlotBlock {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut bytes = 0;
        let mut offsets = Vec::with_capacity(plan.slots.len());
        for slot in &plan.slots {
            offsets.push(bytes);
            let size = match slot.kind {
                SlotKind::Stats => slot.shape.elements() * size_of::<f32>(),
                _ => rows(&slot.shape) * padded(channels(&slot.shape)) * size_of::<f16>(),
            };
            bytes = (bytes + size).next_multiple_of(ALIGNMENT);
        }
        SlotBlock { offsets, bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn offset(&self, slot: SlotId) -> u64 {
        self.offsets[slot.index()] as u64
    }

    /// Puts a slot's value into a block on the host.
    pub(super) fn put(&self, plan: &Plan, slot: SlotId, value: &HostTensor, block: &mut [u8]) {
        let at = self.offsets[slot.index()];
        let bytes = match plan.slots[slot.index()].kind {
            SlotKind::Stats => bytemuck::cast_slice(&value.to_f32_vec()).to_vec(),
            _ => half_rows(value),
        };
        block[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    /// A slot's value out of a block on the host, in the slot's own type.
    pub(super) fn take(&self, plan: &Plan, slot: SlotId, block: &[u8]) -> Result<HostTensor, RuntimeError> {
        let layout = &plan.slots[slot.index()];
        let block = &block[self.offsets[slot.index()]..];
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
