//! Weights as the CUDA kernels read them: `kernels/cuda/sparse_conv/README.md`.
//!
//! f16 `[k_tiles][cout][64]`: per source, per 64 of its channels (zero padded), per tap. A line holds one output
//! channel's 64 weights; its chunk `j` of eight stands at `j ^ (line % 8)`. Output channels are padded to multiples of 8.

use fisec_plan::cuda::{CHANNELS, TILE_CHANNELS, packed_shape};
use fisec_tensor::{Constant, DType, HostTensor, PARITIES, PARITY_TAPS, Transform, tap_of_parity};
use half::f16;

use super::weights::WeightLayout;

/// A weight in f16 in kernel layout.
pub(super) fn pack(data: &Constant, layout: &WeightLayout) -> HostTensor {
    if let WeightLayout::ByParity(sources) = layout {
        return by_parity(data, sources);
    }
    let tensor = data.transformed(Transform::Cast(DType::F16)).materialize();
    let values = tensor.as_pod::<f16>(DType::F16).expect("just cast");
    match layout {
        WeightLayout::Vector => vector(&values, |column| column),
        WeightLayout::GatedVector => vector(&values, gated(values.len())),
        WeightLayout::Rows => rows(&tensor),
        WeightLayout::LinearRows { geglu } => {
            let [depth, columns] = tensor.shape()[..] else {
                unreachable!("verified: a product's weight is a matrix")
            };
            let column_of: Box<dyn Fn(usize) -> usize> = match geglu {
                true => Box::new(gated(columns)),
                false => Box::new(|column| column),
            };
            tiles(&[depth], 1, columns, |channel, _, column| {
                values[channel * columns + column_of(column)]
            })
        }
        WeightLayout::ByParity(_) => unreachable!("summed before it is rounded"),
        WeightLayout::ConvRows(sources) => {
            let [columns, depth, height, width] = tensor.shape()[..] else {
                unreachable!("verified: a convolution's weight has four axes")
            };
            let taps = height * width;
            tiles(sources, taps, columns, |channel, tap, column| {
                values[(column * depth + channel) * taps + tap]
            })
        }
    }
}

/// A 3×3 convolution's weights summed by parity, rounded once: four convolutions of 2×2 taps one behind the other.
fn by_parity(data: &Constant, sources: &[usize]) -> HostTensor {
    let [columns, depth, _, _] = data.shape()[..] else {
        unreachable!("verified: a convolution's weight has four axes")
    };
    let values = data.unwidened().unwrap_or(data.clone()).materialize().to_f32_vec();
    let kernels = values.as_chunks::<9>().0;
    let block = |parity: usize| {
        tiles(sources, PARITY_TAPS, columns, |channel, tap, column| {
            f16::from_f32(tap_of_parity(kernels[column * depth + channel], parity, tap))
        })
    };
    let bytes: Vec<u8> = (0..PARITIES).flat_map(|parity| block(parity).data().to_vec()).collect();
    let shape = packed_shape(PARITY_TAPS * PARITIES, sources, columns);
    HostTensor::new(DType::F16, shape, bytes.into()).expect("four blocks")
}

/// Columns `[a | g]` as 8 values, 8 gates, 8 values, …: which column of the original stands at a place.
fn gated(columns: usize) -> impl Fn(usize) -> usize {
    move |place| {
        let (block, within) = (place / (2 * CHANNELS), place % (2 * CHANNELS));
        let half = if within < CHANNELS { 0 } else { columns / 2 };
        half + block * CHANNELS + within % CHANNELS
    }
}

/// `[1, L, C]` and `[L, C]` as `[L, C]`.
fn rows(tensor: &HostTensor) -> HostTensor {
    let columns = tensor.shape().last().copied().unwrap_or(1);
    let rows = tensor.shape().elements() / columns.max(1);
    tensor.reshaped([rows, columns]).expect("as many elements")
}

fn vector(values: &[f16], column_of: impl Fn(usize) -> usize) -> HostTensor {
    let mut padded = vec![f16::ZERO; values.len().next_multiple_of(CHANNELS)];
    for (place, value) in padded.iter_mut().enumerate().take(values.len()) {
        *value = values[column_of(place)];
    }
    HostTensor::from_pod(DType::F16, [padded.len()], padded)
}

/// `weight(channel, tap, column)` in tiles; channels count through all sources.
fn tiles(sources: &[usize], taps: usize, columns: usize, weight: impl Fn(usize, usize, usize) -> f16) -> HostTensor {
    let shape = packed_shape(taps, sources, columns);
    let lines = shape[1];
    let mut packed = vec![f16::ZERO; shape.iter().product()];
    let mut first = 0;
    let mut first_tile = 0;
    for &channels in sources {
        for column in 0..columns {
            for channel in 0..channels {
                let (tile, within) = (channel / TILE_CHANNELS, channel % TILE_CHANNELS);
                let chunk = (within / CHANNELS) ^ (column % CHANNELS);
                let place = chunk * CHANNELS + within % CHANNELS;
                for tap in 0..taps {
                    let line = (first_tile + tile * taps + tap) * lines + column;
                    packed[line * TILE_CHANNELS + place] = weight(first + channel, tap, column);
                }
            }
        }
        first += channels;
        first_tile += channels.div_ceil(TILE_CHANNELS) * taps;
    }
    HostTensor::from_pod(DType::F16, shape, packed)
}

/// Packed weights of the same rows as one: in every tile their lines one behind the other. Columns are whole groups of
/// eight, so a line's swizzle stays what it is.
pub(super) fn beside(parts: &[HostTensor]) -> HostTensor {
    let tiles = parts[0].shape()[0];
    let lines: usize = parts.iter().map(|part| part.shape()[1]).sum();
    let run = |part: &HostTensor| part.data().len() / tiles.max(1);
    let bytes: Vec<u8> = (0..tiles)
        .flat_map(|tile| parts.iter().map(move |part| (tile, part)))
        .flat_map(|(tile, part)| part.data()[tile * run(part)..(tile + 1) * run(part)].to_vec())
        .collect();
    HostTensor::new(DType::F16, [tiles, lines, TILE_CHANNELS], bytes.into()).expect("all lines of all parts")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout as its contract states it, line by line.
    #[test]
    fn every_weight_stands_where_the_contract_says() {
        let (sources, taps, columns) = ([72usize, 8], 3usize, 20usize);
        let value =
            |channel: usize, tap: usize, column: usize| f16::from_f32((channel * 64 + tap * 20 + column) as f32);
        let packed = tiles(&sources, taps, columns, value);
        let shape = packed.shape().to_vec();
        assert_eq!(shape, [3 * 3, 24, 64]);
        let packed = packed.as_pod::<f16>(DType::F16).unwrap();
        // (source, 64 channels of it) in the order of the tiles
        for (block, (first, channels)) in [(0, 64), (64, 8), (72, 8)].into_iter().enumerate() {
            for (tap, line, within) in
                (0..taps).flat_map(|t| (0..24).flat_map(move |l| (0..64).map(move |w| (t, l, w))))
            {
                let stored_chunk = (within / 8) ^ (line % 8);
                let got = packed[((block * taps + tap) * 24 + line) * 64 + stored_chunk * 8 + within % 8];
                let is_real = within < channels && line < columns;
                let expected = if is_real {
                    value(first + within, tap, line)
                } else {
                    f16::ZERO
                };
                assert_eq!(got, expected, "block {block}, tap {tap}, line {line}, channel {within}");
            }
        }
    }

    /// A parity's block is what packing its 2×2 convolution gives.
    #[test]
    fn parities_are_convolutions_one_behind_the_other() {
        let (columns, sources) = (5usize, [9usize, 3]);
        let values: Vec<f32> = (0..columns * 12 * 9)
            .map(|at| ((at * 37) % 101) as f32 / 64.0)
            .collect();
        let weight = Constant::from(HostTensor::from_f32([columns, 12, 3, 3], values.clone()));
        let packed = pack(&weight, &WeightLayout::ByParity(sources.to_vec()));
        let merged = |odd: usize, tap: usize| match (odd, tap) {
            (0, 0) => vec![0],
            (0, _) => vec![1, 2],
            (_, 0) => vec![0, 1],
            _ => vec![2],
        };
        let bytes = packed.data().len() / PARITIES;
        for parity in 0..PARITIES {
            let expected = tiles(&sources, 4, columns, |channel, tap, column| {
                let kernel = &values[(column * 12 + channel) * 9..][..9];
                let rows = merged(parity / 2, tap / 2).into_iter();
                let sum = rows.flat_map(|row| {
                    merged(parity % 2, tap % 2)
                        .into_iter()
                        .map(move |at| kernel[row * 3 + at])
                });
                f16::from_f32(sum.sum())
            });
            assert_eq!(
                packed.data()[parity * bytes..][..bytes],
                expected.data()[..],
                "{parity}"
            );
        }
        assert_eq!(packed.shape()[0], 4 * PARITIES * 2);
    }

    #[test]
    fn gates_follow_their_values() {
        let order: Vec<usize> = (0..32).map(gated(32)).collect();
        let expected: Vec<usize> = (0..8).chain(16..24).chain(8..16).chain(24..32).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn products_beside_each_other_are_one_product() {
        let value = |column: usize| {
            move |channel: usize, _: usize, own: usize| f16::from_f32((channel * 48 + column + own) as f32)
        };
        let parts = [tiles(&[72], 1, 16, value(0)), tiles(&[72], 1, 8, value(16))];
        let whole = tiles(&[72], 1, 24, value(0));
        assert_eq!(beside(&parts).shape(), whole.shape());
        assert_eq!(beside(&parts).data(), whole.data());
    }

    #[test]
    fn vectors_are_padded_with_zeros() {
        let bias = Constant::from(HostTensor::from_f32([4], vec![1.0, 2.0, 3.0, 4.0]));
        let packed = pack(&bias, &WeightLayout::Vector);
        assert_eq!(packed.to_f32_vec(), [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
