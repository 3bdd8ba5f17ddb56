//! Whether values are numbers: the check behind everything that a network returns and that is remembered of it.

use fisec_tensor::{DType, HostTensor};

/// Values that are checked before a block of them is looked at: the check of a block has no branch.
const BLOCK: usize = 4096;

/// Whether no element of a tensor is infinite or not a number; `true` for integers.
pub fn is_finite(tensor: &HostTensor) -> bool {
    bytes_are_finite(tensor.dtype(), tensor.data())
}

/// The same of the elements in `bytes`, little-endian and at any alignment.
pub(crate) fn bytes_are_finite(dtype: DType, bytes: &[u8]) -> bool {
    match dtype {
        DType::F16 => halves_are_finite(bytes, 0x7c00),
        DType::BF16 => halves_are_finite(bytes, 0x7f80),
        DType::F32 => blocks_are(bytes, |bytes: [u8; 4]| {
            u32::from_le_bytes(bytes) & 0x7f80_0000 != 0x7f80_0000
        }),
        DType::F64 => blocks_are(bytes, |bytes: [u8; 8]| f64::from_le_bytes(bytes).is_finite()),
        _ => true,
    }
}

/// Infinities, and what is no number, have all bits of the exponent.
fn halves_are_finite(bytes: &[u8], exponent: u16) -> bool {
    blocks_are(bytes, |bytes: [u8; 2]| u16::from_le_bytes(bytes) & exponent != exponent)
}

fn blocks_are<const SIZE: usize>(bytes: &[u8], is_finite: impl Fn([u8; SIZE]) -> bool) -> bool {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    let mut blocks = elements.chunks(BLOCK);
    blocks.all(|block| block.iter().fold(true, |all, &element| all & is_finite(element)))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    const WRONG: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

    /// The values as a tensor of a float type.
    fn tensor(dtype: DType, values: &[f32]) -> HostTensor {
        HostTensor::from_f32([values.len()], values.to_vec()).cast(dtype)
    }

    proptest! {
        #[test]
        fn one_value_that_is_no_number_is_found_anywhere(
            values in prop::collection::vec(-6e4f32..6e4, 1..9000),
            place in any::<prop::sample::Index>(),
            wrong in prop::sample::select(&WRONG[..]),
            dtype in prop::sample::select(&[DType::F16, DType::BF16, DType::F32, DType::F64][..]),
        ) {
            prop_assert!(is_finite(&tensor(dtype, &values)));
            let mut poisoned = values.clone();
            poisoned[place.index(values.len())] = wrong;
            prop_assert!(!is_finite(&tensor(dtype, &poisoned)));
        }

        #[test]
        fn every_half_is_judged_as_its_value_is(bits in any::<u16>()) {
            let bytes = bits.to_le_bytes();
            prop_assert_eq!(bytes_are_finite(DType::F16, &bytes), f16::from_bits(bits).is_finite());
            prop_assert_eq!(bytes_are_finite(DType::BF16, &bytes), bf16::from_bits(bits).is_finite());
        }
    }

    #[test]
    fn integers_are_numbers() {
        assert!(is_finite(&HostTensor::from_i64([2], vec![i64::MAX, -1])));
    }
}
