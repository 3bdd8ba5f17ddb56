//! Tile and blocks along K of a product on Hopper: the quickest by a model of time.
//!
//! A block takes its tiles of K and its epilogue one after another, blocks that share a multiprocessor take turns, waves
//! follow each other. Parts of K pay for their way through memory, weights for theirs from it. The rates were fitted to
//! every tile and split that was timed on an H100 (`kernels/cuda/h100.md`), then moved by up to two fifths for the least
//! loss: on the products timed there, the choice takes 1 % longer than the best.

use super::{ConvChoice, ConvTile, ConvWork, Gpu, STREAM_64X160, STREAM_128X160, STREAM_192X160, Splits};
use super::{TILE_K, WGMMA_64X160, WGMMA_128X160, WGMMA_192X160};

/// What a tile's blocks take, in microseconds.
struct Rates {
    tile: ConvTile,
    start: f32,
    k_tile: f32,
    epilogue: f32,
    gated_epilogue: f32,
}

const fn rates(tile: ConvTile, [start, k_tile, epilogue, gated_epilogue]: [f32; 4]) -> Rates {
    Rates {
        tile,
        start,
        k_tile,
        epilogue,
        gated_epilogue,
    }
}

const PARTS: [Rates; 3] = [
    rates(WGMMA_64X160, [1.008, 0.411, 2.308, 2.098]),
    rates(WGMMA_128X160, [1.014, 0.478, 3.358, 5.407]),
    rates(WGMMA_192X160, [0.093, 0.676, 5.205, 6.836]),
];
const STREAMS: [Rates; 3] = [
    rates(STREAM_192X160, [0.0, 0.738, 9.271, 6.166]),
    rates(STREAM_128X160, [1.238, 0.644, 4.938, 4.940]),
    rates(STREAM_64X160, [3.243, 0.447, 1.781, 1.429]),
];
/// Adding the parts in the workspace: the second kernel, and every byte of theirs.
const REDUCE: f32 = 0.556;
const REDUCE_BYTE: f32 = 3.998e-07;
/// Weights' bytes from memory.
const WEIGHT_BYTE: f32 = 4.189e-07;
/// Another block's part of a tile: waiting for it, and every byte of it.
const PART: f32 = 0.829;
const PART_BYTE: f32 = 1.499e-05;
/// Parts of K that were tried.
const MOST_PARTS: usize = 16;

/// Tiles of K from which a product without gates is dealt out evenly.
const STREAM_K_TILES: usize = 40;

/// The quickest tile and splits for `work`.
pub fn quickest(gpu: Gpu, work: ConvWork) -> ConvChoice {
    // a tile that is mostly empty is never the quickest
    let fits = |rates: &&Rates| rates.tile.rows < 2 * work.part_rows() || rates.tile.rows <= 64;
    let parts = PARTS.iter().filter(fits).flat_map(|rates| {
        (1..=(work.k_tiles / 3).clamp(1, MOST_PARTS))
            .map(move |parts| (rates, parts_time(gpu, work, rates, parts), parts))
    });
    let parts = parts.map(|(rates, time, parts)| {
        let splits = if parts == 1 {
            Splits::None
        } else {
            Splits::Workspace(parts)
        };
        ConvChoice {
            tile: rates.tile,
            splits,
            time,
        }
    });
    // short products without gates wait for their residuals longer than dealing out evenly saves
    let streams = STREAMS
        .iter()
        .filter(|_| work.gated || work.k_tiles >= STREAM_K_TILES && !work.normed);
    let streams = streams.filter(fits).flat_map(|rates| {
        stream_blocks(gpu, work, rates).map(move |blocks| ConvChoice {
            tile: rates.tile,
            splits: Splits::Stream(blocks),
            time: stream_time(gpu, work, rates, blocks),
        })
    });
    let best = parts.chain(streams).min_by(|a, b| a.time.total_cmp(&b.time));
    best.expect("the smallest tile fits everything")
}

/// As many blocks as run at once, and whole numbers of them for every tile.
fn stream_blocks(gpu: Gpu, work: ConvWork, rates: &Rates) -> impl Iterator<Item = usize> {
    let full = gpu.multiprocessors * rates.tile.per_multiprocessor();
    let tiles = work.tiles(rates.tile);
    let whole = (1..=4).map(move |cuts| tiles * cuts);
    let most = tiles * work.k_tiles;
    let enough = gpu.multiprocessors / 3;
    std::iter::once(full.min(most))
        .chain(whole.filter(move |&blocks| (enough..full).contains(&blocks) && blocks <= most))
}

/// Time of all weights from memory, which bounds products of few rows.
fn weights_time(work: ConvWork) -> f32 {
    (work.blocks * work.k_tiles * TILE_K * work.cout * 2) as f32 * WEIGHT_BYTE
}

fn epilogue(work: ConvWork, rates: &Rates) -> f32 {
    if work.gated {
        rates.gated_epilogue
    } else {
        rates.epilogue
    }
}

/// Blocks that share a multiprocessor, where `blocks` are spread evenly.
fn sharing(gpu: Gpu, tile: ConvTile, blocks: f32) -> f32 {
    (blocks / gpu.multiprocessors as f32).clamp(1.0, tile.per_multiprocessor() as f32)
}

fn parts_time(gpu: Gpu, work: ConvWork, rates: &Rates, parts: usize) -> f32 {
    let blocks = work.tiles(rates.tile) * parts;
    let waves = blocks.div_ceil(gpu.multiprocessors * rates.tile.per_multiprocessor()) as f32;
    let block = work.k_tiles.div_ceil(parts) as f32 * rates.k_tile + epilogue(work, rates);
    let busy = waves * block * sharing(gpu, rates.tile, blocks as f32 / waves);
    let reduce = match parts {
        1 => 0.0,
        parts => REDUCE + REDUCE_BYTE * (work.rows * work.cout * parts * size_of::<f32>()) as f32,
    };
    rates.start + busy.max(weights_time(work)) + reduce
}

fn stream_time(gpu: Gpu, work: ConvWork, rates: &Rates, blocks: usize) -> f32 {
    let tiles = work.tiles(rates.tile);
    let each = tiles as f32 / blocks as f32;
    let block = each * work.k_tiles as f32 * rates.k_tile + each.max(1.0) * epilogue(work, rates);
    let mut busy = block * sharing(gpu, rates.tile, blocks as f32);
    if !tiles.is_multiple_of(blocks) {
        let part = PART + PART_BYTE * (rates.tile.rows * rates.tile.columns * size_of::<f32>()) as f32;
        busy += part * blocks.div_ceil(tiles) as f32;
    }
    rates.start + busy.max(weights_time(work))
}
