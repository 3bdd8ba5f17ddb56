//! The active set of one level: which pixels are computed, and where they stand in packed rows.

use crate::Mask;

/// The active pixels of a level in row-major order, with the map from pixel to packed row.
///
/// Packed values hold one row per active pixel and image: row `image * len() + rank`, `rank` counting active pixels in
/// row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveSet {
    mask: Mask,
    pixels: Vec<u32>,
    ranks: Vec<i32>,
}

impl ActiveSet {
    /// Rank of a pixel that is not active.
    pub const INACTIVE: i32 = -1;

    /// The active set of `mask`.
    pub fn new(mask: Mask) -> Self {
        let mut pixels = Vec::with_capacity(mask.count());
        let mut ranks = vec![Self::INACTIVE; mask.bits().len()];
        for (pixel, _) in mask.bits().iter().enumerate().filter(|(_, bit)| **bit) {
            ranks[pixel] = pixels.len() as i32;
            pixels.push(pixel as u32);
        }
        ActiveSet { mask, pixels, ranks }
    }

    /// The mask that this set was made of.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Active pixels, row-major pixel index `row * width + column`, ascending.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// For every pixel its rank among the active ones, or [`ActiveSet::INACTIVE`].
    pub fn ranks(&self) -> &[i32] {
        &self.ranks
    }

    /// Number of active pixels.
    pub fn len(&self) -> usize {
        self.pixels.len()
    }

    /// Whether no pixel is active.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }
}
