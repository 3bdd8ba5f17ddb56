//! Measures what the CPU kernels cost, and fits coefficients of the compiler's cost table to measurements.

use std::time::{Duration, Instant};

use fisec_kernels::cpu::{self as kernel, Attention, Conv, ConvGeometry, ConvTable, Linear, Map};
use fisec_plan::TileCost;
use fisec_tensor::{ActiveSet, Mask, TileSize, active_tiles, tile_pixels};
use serde::Serialize;

use crate::RuntimeError;

/// Images per step: guidance computes two.
const IMAGES: usize = 2;
/// Side of the map, input and output channels: the layers of small and of large U-Nets.
const CONVS: [(usize, usize, usize); 8] = [
    (64, 64, 64),
    (64, 192, 64),
    (32, 128, 128),
    (32, 256, 128),
    (16, 192, 192),
    (16, 384, 192),
    (32, 320, 320),
    (16, 640, 640),
];
/// Side of the map, channels in and out of a linear layer.
const LINEARS: [(usize, usize, usize); 5] = [
    (64, 64, 64),
    (64, 64, 512),
    (32, 128, 1024),
    (16, 192, 192),
    (32, 512, 128),
];
/// Side of the map and channels of self-attention with heads of 64.
const ATTENTIONS: [(usize, usize); 3] = [(64, 64), (32, 128), (16, 192)];
/// Active shares.
const SHARES: [f64; 4] = [0.05, 0.15, 0.3, 1.0];

/// One measured kernel call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// kernel and sizes
    pub what: String,
    /// active share of the map's pixels
    pub share: f64,
    /// tile of a convolution
    pub tile: Option<TileSize>,
    /// bytes gathered, as the plan counts them
    pub bytes: f64,
    /// multiply-accumulates
    pub macs: f64,
    /// fastest time, ns
    pub ns: f64,
}

/// Coefficients fitted to measurements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// convolutions over a pixel list
    pub pixels: TileCost,
    /// convolutions over larger tiles
    pub tiles: TileCost,
    /// linear layers and attention over packed rows
    pub rows: TileCost,
    /// what they were fitted to
    pub measurements: Vec<Measurement>,
}

/// Measures kernels on `threads` threads, `budget` long each.
pub fn calibrate(threads: usize, budget: Duration) -> Result<Calibration, RuntimeError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| RuntimeError::Threads(error.to_string()))?;
    let mut measurements = Vec::new();
    pool.install(|| {
        for share in SHARES {
            for tile in [TileSize::PIXEL, TileSize::new(4, 4), TileSize::new(8, 8)] {
                measurements.extend(CONVS.map(|layer| conv(layer, share, tile, budget)));
            }
            measurements.extend(LINEARS.map(|layer| linear(layer, share, budget)));
            measurements.extend(ATTENTIONS.map(|layer| attention(layer, share, budget)));
        }
    });
    let select = |wanted: &dyn Fn(&Measurement) -> bool| fit(measurements.iter().filter(|m| wanted(m)));
    Ok(Calibration {
        pixels: select(&|m| m.tile == Some(TileSize::PIXEL)),
        tiles: select(&|m| m.tile.is_some_and(|tile| tile != TileSize::PIXEL)),
        rows: select(&|m| m.tile.is_none()),
        measurements,
    })
}

/// A square in the middle of the map, as edits have them.
fn square(side: usize, share: f64) -> ActiveSet {
    let edge = (side as f64 * share.sqrt()).round().max(1.0) as usize;
    let start = (side - edge) / 2;
    let inside = move |at: usize| (start..start + edge).contains(&at);
    ActiveSet::new(Mask::from_fn(side, side, |y, x| inside(y) && inside(x)))
}

fn ramp(length: usize) -> Vec<f32> {
    (0..length).map(|index| (index % 97) as f32 / 97.0 - 0.5).collect()
}

fn conv((side, channels, columns): (usize, usize, usize), share: f64, tile: TileSize, budget: Duration) -> Measurement {
    let active = square(side, share);
    let geometry = ConvGeometry {
        input: [side, side],
        upsample: None,
        output: [side, side],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        by_parity: false,
    };
    let covered = ActiveSet::new(tile_pixels(active.mask(), tile));
    let kept = active
        .pixels()
        .iter()
        .map(|&pixel| covered.ranks()[pixel as usize] as u32)
        .collect();
    let kept = (covered.len() != active.len()).then_some(kept);
    let table = ConvTable::new(&geometry, covered.pixels().to_vec(), kept);
    let input = ramp(IMAGES * side * side * channels);
    let (weight, coefficients) = (ramp(9 * channels * columns), ramp(IMAGES * 2 * channels));
    let call = Conv {
        images: IMAGES,
        sources: &[Map::full(&input, side * side, channels)],
        table: &table,
        weight: &weight,
        bias: Some(&weight[..columns]),
        coefficients: Some(&coefficients),
        silu: true,
        vector: None,
        residual: None,
    };
    let mut output = vec![0.0; IMAGES * active.len() * columns];
    let tiles = active_tiles(active.mask(), tile).len() as f64;
    let gathered = ((tile.height + 2) * (tile.width + 2) * channels * IMAGES * size_of::<f32>()) as f64;
    let macs = (tile.height * tile.width * 9 * channels * columns * IMAGES) as f64;
    Measurement {
        what: format!("conv 3x3, {side}x{side}, {channels} to {columns}"),
        share,
        tile: Some(tile),
        bytes: tiles * gathered,
        macs: tiles * macs,
        ns: fastest_ns(budget, || kernel::conv(&call, &mut output)),
    }
}

fn linear((side, channels, columns): (usize, usize, usize), share: f64, budget: Duration) -> Measurement {
    let rows = IMAGES * square(side, share).len();
    let (input, weight) = (ramp(rows * channels), ramp(channels * columns));
    let call = Linear {
        input: &input,
        images: IMAGES,
        layer_norm: None,
        weight: &weight,
        columns,
        bias: None,
        geglu: false,
        residual: None,
    };
    let mut output = vec![0.0; rows * columns];
    Measurement {
        what: format!("linear, {side}x{side}, {channels} to {columns}"),
        share,
        tile: None,
        bytes: (rows * columns * size_of::<f32>()) as f64,
        macs: (rows * channels * columns) as f64,
        ns: fastest_ns(budget, || kernel::linear(&call, &mut output)),
    }
}

fn attention((side, channels): (usize, usize), share: f64, budget: Duration) -> Measurement {
    let queries = square(side, share).len();
    let (keys, width) = (side * side, IMAGES * channels);
    let (q, k, v) = (ramp(queries * width), ramp(keys * width), ramp(keys * width));
    let call = Attention {
        images: IMAGES,
        heads: channels / 64,
        channels,
        q: &q,
        k: &k,
        v: &v,
        scale: 0.125,
    };
    let mut output = vec![0.0; q.len()];
    Measurement {
        what: format!("attention, {side}x{side}, {channels} channels"),
        share,
        tile: None,
        bytes: (queries * width * size_of::<f32>()) as f64,
        macs: (2 * queries * keys * width) as f64,
        ns: fastest_ns(budget, || kernel::attention(&call, &mut output)),
    }
}

/// Fastest time of a call: other load on the machine only ever adds.
fn fastest_ns(budget: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let start = Instant::now();
    let mut fastest = f64::INFINITY;
    let mut calls = 0;
    while calls < 5 || start.elapsed() < budget {
        let begin = Instant::now();
        call();
        fastest = fastest.min(begin.elapsed().as_nanos() as f64);
        calls += 1;
    }
    fastest
}

/// Non-negative least squares of relative errors: `ns = t0 + bytes * beta + macs / theta`. Measurements without a time
/// say nothing.
pub fn fit<'a>(measurements: impl IntoIterator<Item = &'a Measurement>) -> TileCost {
    // Coordinate descent: three coefficients, each with a closed form when the others stand.
    let scales = [1e4, 1e-1, 1e-2];
    let rows: Vec<[f64; 3]> = measurements
        .into_iter()
        .filter(|m| m.ns > 0.0)
        .map(|m| [scales[0] / m.ns, m.bytes * scales[1] / m.ns, m.macs * scales[2] / m.ns])
        .collect();
    let mut coefficients = [1.0f64; 3];
    for _ in 0..2000 {
        for index in 0..3 {
            let (mut over, mut under) = (0.0, 0.0);
            for row in &rows {
                let others: f64 = (0..3)
                    .filter(|&other| other != index)
                    .map(|other| row[other] * coefficients[other])
                    .sum();
                over += row[index] * (1.0 - others);
                under += row[index] * row[index];
            }
            coefficients[index] = if under > 0.0 { (over / under).max(0.0) } else { 0.0 };
        }
    }
    TileCost {
        t0: coefficients[0] * scales[0],
        beta: coefficients[1] * scales[1],
        theta: 1.0 / (coefficients[2] * scales[2]).max(1e-9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_recovers_known_coefficients() {
        let measurements: Vec<Measurement> = (1..20)
            .map(|index| {
                let (bytes, macs) = (
                    f64::from(index * 7919 % 13) * 1e5,
                    f64::from(index * 104_729 % 17) * 1e7,
                );
                Measurement {
                    what: String::new(),
                    share: 1.0,
                    tile: None,
                    bytes,
                    macs,
                    ns: 20_000.0 + bytes * 0.1 + macs / 80.0,
                }
            })
            .collect();
        let cost = fit(&measurements);
        assert!((cost.t0 / 20_000.0 - 1.0).abs() < 1e-3, "{cost:?}");
        assert!(
            (cost.beta / 0.1 - 1.0).abs() < 1e-3 && (cost.theta / 80.0 - 1.0).abs() < 1e-3,
            "{cost:?}"
        );
    }
}
