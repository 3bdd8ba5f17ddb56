//! The cost of computing a layer tile by tile.

use fisec_tensor::TileSize;
use serde::{Deserialize, Serialize};

/// What one layer costs with one tile size: `t0 + tiles * (bytes * beta + macs / theta)`, in nanoseconds.
///
/// `bytes` and `macs` are per tile and follow from the layer's shape; `t0`, `beta` and `theta` are measured on the
/// device (`fisec bench --calibrate`). The published objective of FISEdit's adaptive pixel-wise sparse convolution
/// counts output pixels only, for which the smallest tile always wins: every larger tile is a union of smaller ones.
/// The terms for launching and for gathered bytes are what makes a choice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TileCost {
    /// fixed time per layer, ns
    pub t0: f64,
    /// time per byte gathered, ns
    pub beta: f64,
    /// multiply-accumulates per ns
    pub theta: f64,
}

impl TileCost {
    /// Predicted time in ns of `tiles` tiles that gather `bytes` and compute `macs` each.
    pub fn predict(&self, tiles: usize, bytes: f64, macs: f64) -> f64 {
        self.t0 + tiles as f64 * (bytes * self.beta + macs / self.theta)
    }
}

/// A tile size that a layer may use at edit time, with what a tile of it gathers and computes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TileCandidate {
    /// output pixels of a tile; 1×1 is the pixel list, the whole map is dense
    pub tile: TileSize,
    /// bytes gathered per tile, all images
    pub bytes: f64,
    /// multiply-accumulates per tile, all images
    pub macs: f64,
    /// measured coefficients for this layer shape and tile size
    pub cost: TileCost,
}

impl TileCandidate {
    /// Predicted time in ns when `tiles` tiles are active.
    pub fn predict(&self, tiles: usize) -> f64 {
        self.cost.predict(tiles, self.bytes, self.macs)
    }
}
