//! A 3×3 convolution behind a nearest doubling, by the parity of its output pixels.
//!
//! Along an axis an output reads three doubled pixels, two of which are one source pixel: outputs `2k` read `k - 1, k, k`,
//! outputs `2k + 1` read `k, k, k + 1`. With the weights of equal pixels summed two taps are left, other ones for each
//! parity: over both axes 4 products instead of 9.

use std::ops::Range;

/// Parities of a pixel.
pub const PARITIES: usize = 4;

/// Taps of an output: rows × columns.
pub const PARITY_TAPS: usize = 4;

/// Parity of the pixel at (row, column): 2 for an odd row, 1 for an odd column.
pub fn parity(row: usize, column: usize) -> usize {
    row % 2 * 2 + column % 2
}

/// Along an axis, the first of the two source pixels that an output reads; -1 lies outside.
pub fn first_source(output: usize) -> isize {
    output.div_ceil(2) as isize - 1
}

/// Along an axis, the kernel's taps that fall on source tap `tap` of outputs of one parity.
fn merged(odd: usize, tap: usize) -> Range<usize> {
    match (odd, tap) {
        (0, 0) => 0..1,
        (0, _) => 1..3,
        (_, 0) => 0..2,
        _ => 2..3,
    }
}

/// One of the 2×2 weights of a parity, from the 3×3 weights of one input and one output channel.
pub fn tap_of_parity(kernel: [f32; 9], parity: usize, tap: usize) -> f32 {
    let rows = merged(parity / 2, tap / 2);
    let columns = merged(parity % 2, tap % 2);
    rows.map(|row| columns.clone().map(|column| kernel[row * 3 + column]).sum::<f32>())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_fall_on_the_pixels_that_the_doubled_map_has_there() {
        for output in 0..7 {
            for tap in 0..2 {
                let source = first_source(output) + tap as isize;
                let doubled = merged(output % 2, tap).map(|tap| (output + tap) as isize - 1);
                assert!(doubled.clone().count() > 0);
                assert!(doubled.map(|pixel| pixel.div_euclid(2)).all(|pixel| pixel == source));
            }
        }
    }

    #[test]
    fn every_weight_is_in_one_sum_of_each_parity() {
        let kernel = std::array::from_fn(|tap| (1 << tap) as f32);
        let sums = |parity| [0, 1, 2, 3].map(|tap| tap_of_parity(kernel, parity, tap));
        assert_eq!(sums(0), [1.0, 6.0, 72.0, 432.0]);
        assert_eq!(sums(3), [27.0, 36.0, 192.0, 256.0]);
        for parity in 0..PARITIES {
            assert_eq!(sums(parity).iter().sum::<f32>(), 511.0);
        }
    }
}
