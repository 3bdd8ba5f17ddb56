//! Adaptive pixel-wise sparse convolution: the tile sizes that a layer may use.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use fisec_ir::{Conv, ValueType};
use fisec_plan::TileCandidate;
use fisec_tensor::{Mask, TileSize, active_tiles};

use super::CostTable;
use crate::analysis::{multiplied_taps, representative_mask};

/// Sides of a tile that the paper searches, per axis.
pub const TILE_SIDES: [usize; 5] = [2, 4, 8, 16, 32];

/// Shares of active pixels for which the best candidate is kept.
const SHARES: [f64; 7] = [0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0];

/// The objective as the paper prints it, `(h - h_k + 1)(w - w_k + 1) N` for an *input* tile of `h × w`: output pixels
/// computed. Shown for comparison; it is zero for tiles smaller than the kernel and otherwise always smallest for the
/// smallest tile, so it cannot choose.
pub fn paper_objective(tile: TileSize, kernel: [usize; 2], mask: &Mask) -> usize {
    let rows = (tile.height + 1).saturating_sub(kernel[0]);
    let columns = (tile.width + 1).saturating_sub(kernel[1]);
    if rows == 0 || columns == 0 {
        return 0;
    }
    rows * columns * active_tiles(mask, TileSize::new(rows, columns)).len()
}

/// The tile sizes worth keeping for a convolution: for some share of active pixels each is predicted to be the fastest.
/// The pixel list and the whole map are always among them.
pub fn candidates(conv: &Conv, input: &ValueType, output: &ValueType, table: &CostTable) -> Vec<TileCandidate> {
    let [_, _, height, width] = output.shape[..] else {
        return Vec::new();
    };
    let every: Vec<TileCandidate> = sizes(height, width)
        .into_iter()
        .map(|tile| candidate(conv, input, output, tile, table))
        .collect();
    let mut kept = vec![TileSize::PIXEL, TileSize::new(height, width)];
    for counts in counts_by_share(height, width).iter() {
        let time = |index: usize| every[index].predict(counts[index]);
        kept.extend(
            (0..every.len())
                .min_by(|&a, &b| time(a).total_cmp(&time(b)))
                .map(|best| every[best].tile),
        );
    }
    every
        .into_iter()
        .filter(|candidate| kept.contains(&candidate.tile))
        .collect()
}

/// Active tiles of every size, for a mask of each share. Most layers of a model have one of a few sizes.
fn counts_by_share(height: usize, width: usize) -> Arc<Vec<Vec<usize>>> {
    type Known = HashMap<(usize, usize), Arc<Vec<Vec<usize>>>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = known.entry((height, width)).or_insert_with(|| {
        let sizes = sizes(height, width);
        let masks = SHARES.map(|share| representative_mask(height, width, share));
        let count = |mask: &Mask| sizes.iter().map(|&tile| active_tiles(mask, tile).len()).collect();
        Arc::new(masks.iter().map(count).collect())
    });
    Arc::clone(counts)
}

fn sizes(height: usize, width: usize) -> Vec<TileSize> {
    let mut sizes = vec![TileSize::PIXEL];
    for rows in TILE_SIDES.into_iter().filter(|&rows| rows < height) {
        sizes.extend(
            TILE_SIDES
                .into_iter()
                .filter(|&side| side < width)
                .map(|side| TileSize::new(rows, side)),
        );
    }
    sizes.push(TileSize::new(height, width));
    sizes.dedup();
    sizes
}

fn candidate(conv: &Conv, input: &ValueType, output: &ValueType, tile: TileSize, table: &CostTable) -> TileCandidate {
    let (batch, channels_in, channels_out) = (output.shape[0], input.shape[1], output.shape[1]);
    let span = |side: usize, axis: usize| {
        let reach = (side - 1) * conv.stride[axis] + conv.kernel[axis];
        if conv.upsample.is_some() {
            reach.div_ceil(2) + 1
        } else {
            reach
        }
    };
    let gathered = batch * span(tile.height, 0) * span(tile.width, 1) * channels_in * input.dtype.size();
    let taps = multiplied_taps(conv, [input.shape[2], input.shape[3]]);
    let macs = batch * tile.height * tile.width * taps * channels_in * channels_out;
    let cost = if tile == TileSize::PIXEL {
        table.pixels
    } else {
        table.tiles
    };
    TileCandidate {
        tile,
        bytes: gathered as f64,
        macs: macs as f64,
        cost,
    }
}
