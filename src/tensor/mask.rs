//! Binary masks over a map of pixels or latents.

use serde::{Deserialize, Serialize};

use crate::Area;

/// A binary mask, row-major. `true` marks an active pixel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mask {
    height: usize,
    width: usize,
    bits: Vec<bool>,
}

impl Mask {
    /// A mask from row-major bits. Panics when there are not `height * width` of them.
    pub fn new(height: usize, width: usize, bits: Vec<bool>) -> Self {
        assert_eq!(bits.len(), height * width, "one bit per pixel");
        Mask { height, width, bits }
    }

    /// A mask with every pixel active, or none.
    pub fn filled(height: usize, width: usize, active: bool) -> Self {
        Self::new(height, width, vec![active; height * width])
    }

    /// A mask from a predicate over (row, column).
    pub fn from_fn(height: usize, width: usize, active: impl Fn(usize, usize) -> bool) -> Self {
        let bits = (0..height * width)
            .map(|pixel| active(pixel / width, pixel % width))
            .collect();
        Self::new(height, width, bits)
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row-major bits.
    pub fn bits(&self) -> &[bool] {
        &self.bits
    }

    /// Whether the pixel is active. Panics outside the mask.
    pub fn get(&self, row: usize, column: usize) -> bool {
        self.bits[row * self.width + column]
    }

    /// Number of active pixels.
    pub fn count(&self) -> usize {
        self.bits.iter().filter(|&&bit| bit).count()
    }

    /// Active share of all pixels, 0 to 1.
    pub fn share(&self) -> f64 {
        self.count() as f64 / self.bits.len().max(1) as f64
    }

    /// Whether no pixel is active.
    pub fn is_empty(&self) -> bool {
        !self.bits.contains(&true)
    }

    /// Any-hit pool of 2×2 blocks: the mask of the next coarser level, `ceil(height / 2) × ceil(width / 2)`.
    pub fn pooled(&self) -> Self {
        Self::from_fn(self.height.div_ceil(2), self.width.div_ceil(2), |row, column| {
            let rows = 2 * row..(2 * row + 2).min(self.height);
            rows.into_iter()
                .any(|y| (2 * column..(2 * column + 2).min(self.width)).any(|x| self.get(y, x)))
        })
    }

    /// Every pixel whose Chebyshev distance to an active pixel is at most `radius`.
    pub fn dilated(&self, radius: usize) -> Self {
        let radius = radius.min(self.height.max(self.width));
        let rows = Self::from_fn(self.height, self.width, |row, column| {
            (column.saturating_sub(radius)..(column + radius + 1).min(self.width)).any(|x| self.get(row, x))
        });
        Self::from_fn(self.height, self.width, |row, column| {
            (row.saturating_sub(radius)..(row + radius + 1).min(self.height)).any(|y| rows.get(y, column))
        })
    }

    /// Pixels active in either mask. Panics when the sizes differ.
    pub fn union(&self, other: &Mask) -> Self {
        self.with(other, |ours, theirs| ours || theirs)
    }

    /// Pixels active in both masks. Panics when the sizes differ.
    pub fn intersection(&self, other: &Mask) -> Self {
        self.with(other, |ours, theirs| ours && theirs)
    }

    fn with(&self, other: &Mask, both: impl Fn(bool, bool) -> bool) -> Self {
        let sizes = [self, other].map(|mask| (mask.height, mask.width));
        assert_eq!(sizes[0], sizes[1], "masks of one size");
        Self::from_fn(self.height, self.width, |row, column| {
            both(self.get(row, column), other.get(row, column))
        })
    }

    /// Erosion by a 2×2 square anchored at its top left, then dilation by the same square: removes specks thinner
    /// than two pixels and leaves the rest where it is. Pixels outside the image do not erode.
    pub fn opened(&self) -> Self {
        let inside = |y: usize, x: usize| y >= self.height || x >= self.width || self.get(y, x);
        let eroded = Self::from_fn(self.height, self.width, |y, x| {
            inside(y, x) && inside(y, x + 1) && inside(y + 1, x) && inside(y + 1, x + 1)
        });
        Self::from_fn(self.height, self.width, |y, x| {
            [(0, 0), (0, 1), (1, 0), (1, 1)]
                .into_iter()
                .any(|(dy, dx)| y >= dy && x >= dx && eroded.get(y - dy, x - dx))
        })
    }

    /// The mask at another size: a pixel is active when any source pixel that it overlaps is.
    pub fn resized(&self, height: usize, width: usize) -> Self {
        let span = |index: usize, from: usize, to: usize| index * from / to..((index + 1) * from).div_ceil(to);
        Self::from_fn(height, width, |row, column| {
            span(row, self.height, height).any(|y| span(column, self.width, width).any(|x| self.get(y, x)))
        })
    }

    /// Smallest area that holds every active pixel.
    pub fn area(&self) -> Option<Area> {
        let active = || {
            self.bits
                .iter()
                .enumerate()
                .filter(|(_, bit)| **bit)
                .map(|(pixel, _)| pixel)
        };
        let top = active().next()? / self.width;
        let left = active().map(|pixel| pixel % self.width).min()?;
        Some(Area {
            top,
            left,
            height: active().next_back()? / self.width + 1 - top,
            width: active().map(|pixel| pixel % self.width).max()? + 1 - left,
        })
    }

    /// The part of the mask inside an area. Panics when that reaches beyond it.
    pub fn cropped(&self, area: &Area) -> Self {
        Self::from_fn(area.height, area.width, |row, column| {
            self.get(area.top + row, area.left + column)
        })
    }
}
