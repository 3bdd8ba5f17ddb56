//! Tiles: a regular grid of output rectangles, of which only those that touch the mask are computed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Mask;

/// Height and width of a tile, in output pixels. The grid starts at the top left; tiles at the far edges are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TileSize {
    /// rows
    pub height: usize,
    /// columns
    pub width: usize,
}

impl TileSize {
    /// One pixel: the active pixels themselves, exact masked work.
    pub const PIXEL: TileSize = TileSize { height: 1, width: 1 };

    /// A tile of `height × width` output pixels.
    pub const fn new(height: usize, width: usize) -> Self {
        TileSize { height, width }
    }
}

impl fmt::Display for TileSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// Indices (row-major over the tile grid) of the tiles that hold at least one active pixel.
pub fn active_tiles(mask: &Mask, tile: TileSize) -> Vec<usize> {
    let columns = mask.width().div_ceil(tile.width);
    let rows = mask.height().div_ceil(tile.height);
    let mut hit = vec![false; rows * columns];
    for (pixel, _) in mask.bits().iter().enumerate().filter(|(_, bit)| **bit) {
        hit[pixel / mask.width() / tile.height * columns + pixel % mask.width() / tile.width] = true;
    }
    hit.iter()
        .enumerate()
        .filter(|(_, hit)| **hit)
        .map(|(index, _)| index)
        .collect()
}

/// The pixels that the active tiles of `mask` cover, as a mask.
pub fn tile_pixels(mask: &Mask, tile: TileSize) -> Mask {
    let columns = mask.width().div_ceil(tile.width);
    let mut covered = vec![false; mask.bits().len()];
    for index in active_tiles(mask, tile) {
        let (top, left) = (index / columns * tile.height, index % columns * tile.width);
        for row in top..(top + tile.height).min(mask.height()) {
            let right = (left + tile.width).min(mask.width());
            covered[row * mask.width() + left..row * mask.width() + right].fill(true);
        }
    }
    Mask::new(mask.height(), mask.width(), covered)
}
