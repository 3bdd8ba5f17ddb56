//! Random data, masks and comparison.

use fisec_tensor::{ActiveSet, Mask};
use proptest::prelude::*;

/// Reproducible numbers in [-1, 1): a multiplicative congruential generator.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn vector(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.next()).collect()
    }
}

/// Masks that edits have and masks that break things: none, all, one pixel, corners, a border, a box, noise.
pub fn mask(height: usize, width: usize) -> impl Strategy<Value = Mask> {
    let pixel = (0..height, 0..width);
    prop_oneof![
        Just(Mask::filled(height, width, false)),
        Just(Mask::filled(height, width, true)),
        pixel
            .clone()
            .prop_map(move |at| Mask::from_fn(height, width, |y, x| (y, x) == at)),
        Just(Mask::from_fn(height, width, |y, x| (y == 0 || y == height - 1)
            && (x == 0 || x == width - 1))),
        Just(Mask::from_fn(height, width, |y, x| y == 0
            || x == 0
            || y == height - 1
            || x == width - 1)),
        (pixel.clone(), pixel).prop_map(move |(a, b)| Mask::from_fn(height, width, |y, x| {
            (a.0.min(b.0)..=a.0.max(b.0)).contains(&y) && (a.1.min(b.1)..=a.1.max(b.1)).contains(&x)
        })),
        prop::collection::vec(prop::bool::weighted(0.3), height * width)
            .prop_map(move |bits| Mask::new(height, width, bits)),
    ]
}

/// Packs the active rows of a full map.
pub fn pack(map: &[f32], images: usize, channels: usize, active: &ActiveSet) -> Vec<f32> {
    let per_image = map.len() / images;
    let mut rows = Vec::new();
    for image in 0..images {
        for &pixel in active.pixels() {
            rows.extend_from_slice(&map[image * per_image + pixel as usize * channels..][..channels]);
        }
    }
    rows
}

/// `where(active, fresh, recorded)`.
pub fn merged(fresh: &[f32], recorded: &[f32], images: usize, channels: usize, mask: &Mask) -> Vec<f32> {
    let pixels = mask.bits().len();
    (0..images * pixels * channels)
        .map(|index| {
            if mask.bits()[index / channels % pixels] {
                fresh[index]
            } else {
                recorded[index]
            }
        })
        .collect()
}

/// Largest difference, relative to the magnitude of the expected value where that exceeds one.
pub fn worst(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter()
        .zip(expected)
        .map(|(&got, &expected)| {
            let difference = (f64::from(got) - expected).abs() / expected.abs().max(1.0);
            if difference.is_nan() { f64::INFINITY } else { difference }
        })
        .fold(0.0, f64::max)
}
