//! Sparse convolution against `where(active, fresh, recorded)` and a dense convolution in f64.

use fisec_kernels::cpu::{Conv, ConvGeometry, ConvTable, Map, RecordedRows, conv, sum_weights_by_parity};
use fisec_tensor::{ActiveSet, Mask, TileSize, tile_pixels};
use half::f16;
use proptest::prelude::*;

use crate::data::{Numbers, mask, merged, pack, worst};

#[derive(Clone, Debug)]
struct Case {
    output_mask: Mask,
    input_mask: Mask,
    geometry: ConvGeometry,
    tile: TileSize,
    images: usize,
    channels: Vec<usize>,
    columns: usize,
    packed: bool,
    half: bool,
    norm: bool,
    silu: bool,
    vector: bool,
    residual: Option<bool>,
    seed: u64,
}

fn geometry() -> impl Strategy<Value = ConvGeometry> {
    let size = (1usize..10, 1usize..10);
    (size, 0..5).prop_map(|((height, width), kind)| {
        let input = [height, width];
        let base = ConvGeometry {
            input,
            upsample: None,
            output: input,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            by_parity: false,
        };
        match kind {
            0 => base,
            1 => ConvGeometry {
                kernel: [1, 1],
                padding: [0, 0],
                ..base
            },
            2 => ConvGeometry {
                stride: [2, 2],
                output: [height.div_ceil(2), width.div_ceil(2)],
                ..base
            },
            // an odd size: the last pixel of the coarse level is used once
            _ => {
                let finer = [2 * height - usize::from(kind == 3) * (height % 2), 2 * width];
                ConvGeometry {
                    upsample: Some(finer),
                    output: finer,
                    by_parity: kind == 4,
                    ..base
                }
            }
        }
    })
}

fn case() -> impl Strategy<Value = Case> {
    let masks = geometry().prop_flat_map(|geometry| {
        let finest = if geometry.upsample.is_some() {
            geometry.output
        } else {
            geometry.input
        };
        (Just(geometry), mask(finest[0], finest[1]))
    });
    let sizes = (1usize..3, prop::collection::vec(1usize..5, 1..3), 1usize..20);
    let flags = (
        any::<[bool; 5]>(),
        any::<Option<bool>>(),
        1usize..5,
        1usize..5,
        any::<u64>(),
    );
    (masks, sizes, flags).prop_map(
        |((geometry, finest), (images, channels, columns), (flags, residual, h, w, seed))| {
            let (input_mask, output_mask) = match (geometry.upsample, geometry.stride) {
                (Some(_), _) => (finest.pooled(), finest),
                (None, [2, _]) => (finest.clone(), finest.pooled()),
                _ => (finest.clone(), finest),
            };
            Case {
                input_mask,
                output_mask,
                geometry,
                tile: TileSize::new(h, w),
                images,
                channels,
                columns,
                packed: flags[0],
                half: flags[1],
                norm: flags[2],
                silu: flags[3],
                vector: flags[4],
                residual,
                seed,
            }
        },
    )
}

/// The dense convolution, literally: every output, every tap, every channel.
#[allow(clippy::too_many_arguments)]
fn dense(
    geometry: &ConvGeometry,
    images: usize,
    input: &[f32],
    channels: usize,
    weight: &[f32],
    columns: usize,
    activate: &dyn Fn(usize, usize, f32) -> f64,
    addend: &dyn Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let size = geometry.upsample.unwrap_or(geometry.input);
    let [height, width] = geometry.output;
    let mut output = Vec::new();
    for image in 0..images {
        for pixel in 0..height * width {
            for column in 0..columns {
                let mut sum = addend(image, pixel, column);
                for ky in 0..geometry.kernel[0] {
                    for kx in 0..geometry.kernel[1] {
                        let y = (pixel / width * geometry.stride[0] + ky) as isize - geometry.padding[0] as isize;
                        let x = (pixel % width * geometry.stride[1] + kx) as isize - geometry.padding[1] as isize;
                        if y < 0 || x < 0 || y >= size[0] as isize || x >= size[1] as isize {
                            continue;
                        }
                        let y = y as usize * geometry.input[0] / size[0];
                        let x = x as usize * geometry.input[1] / size[1];
                        let at = (image * geometry.input[0] + y) * geometry.input[1] + x;
                        for channel in 0..channels {
                            let value = activate(image, channel, input[at * channels + channel]);
                            let tap = (ky * geometry.kernel[1] + kx) * channels + channel;
                            sum += value * f64::from(weight[tap * columns + column]);
                        }
                    }
                }
                output.push(sum);
            }
        }
    }
    output
}

fn check(case: &Case) -> f64 {
    let Case {
        geometry,
        images,
        columns,
        ..
    } = case;
    let (images, columns) = (*images, *columns);
    let mut numbers = Numbers::new(case.seed);
    let inputs = case.input_mask.bits().len();
    let outputs = case.output_mask.bits().len();
    let active_in = ActiveSet::new(case.input_mask.clone());
    let active_out = ActiveSet::new(case.output_mask.clone());
    let channels: usize = case.channels.iter().sum();

    let mut fresh = Vec::new();
    let mut recorded = Vec::new();
    for &width in &case.channels {
        fresh.push(numbers.vector(images * inputs * width));
        let values: Vec<f16> = numbers
            .vector(images * inputs * width)
            .iter()
            .map(|&x| f16::from_f32(x))
            .collect();
        recorded.push(values);
    }
    let recorded_f32: Vec<Vec<f32>> = recorded
        .iter()
        .map(|values| values.iter().map(|value| value.to_f32()).collect())
        .collect();
    let packed: Vec<Vec<f32>> = (fresh.iter().zip(&case.channels))
        .map(|(values, &width)| pack(values, images, width, &active_in))
        .collect();
    let sources: Vec<Map<'_>> = (0..case.channels.len())
        .map(|source| {
            let outside = if case.half {
                RecordedRows::F16(&recorded[source])
            } else {
                RecordedRows::F32(&recorded_f32[source])
            };
            if case.packed {
                Map::packed(&packed[source], active_in.ranks(), case.channels[source], Some(outside))
            } else {
                Map::full(&fresh[source], inputs, case.channels[source])
            }
        })
        .collect();

    let weight = numbers.vector(geometry.kernel[0] * geometry.kernel[1] * channels * columns);
    let bias = numbers.vector(columns);
    let coefficients = numbers.vector(images * 2 * channels);
    let vector = numbers.vector(images * columns);
    let residual_full = numbers.vector(images * outputs * columns);
    let residual_packed = pack(&residual_full, images, columns, &active_out);

    let covered = tile_pixels(&case.output_mask, case.tile);
    let computed = ActiveSet::new(covered.clone());
    let kept: Vec<u32> = active_out
        .pixels()
        .iter()
        .map(|&pixel| computed.ranks()[pixel as usize] as u32)
        .collect();
    let kept = (computed.len() != active_out.len()).then_some(kept);
    let table = ConvTable::new(geometry, computed.pixels().to_vec(), kept);
    let by_parity = geometry.by_parity.then(|| sum_weights_by_parity(&weight));
    let call = Conv {
        images,
        sources: &sources,
        table: &table,
        weight: by_parity.as_deref().unwrap_or(&weight),
        bias: Some(&bias),
        coefficients: case.norm.then_some(&coefficients),
        silu: case.silu,
        vector: case.vector.then_some(&vector),
        residual: case.residual.map(|packed| {
            if packed {
                Map::packed(&residual_packed, active_out.ranks(), columns, None)
            } else {
                Map::full(&residual_full, outputs, columns)
            }
        }),
    };
    // poisoned: rows that the kernel forgets show up
    let mut output = vec![f32::NAN; images * active_out.len() * columns];
    conv(&call, &mut output);

    let maps: Vec<Vec<f32>> = (0..sources.len())
        .map(|source| {
            if case.packed {
                merged(
                    &fresh[source],
                    &recorded_f32[source],
                    images,
                    case.channels[source],
                    &case.input_mask,
                )
            } else {
                fresh[source].clone()
            }
        })
        .collect();
    let input: Vec<f32> = (0..images * inputs)
        .flat_map(|row| {
            maps.iter()
                .zip(&case.channels)
                .flat_map(move |(map, &width)| map[row * width..(row + 1) * width].to_vec())
        })
        .collect();
    let activate = |image: usize, channel: usize, value: f32| {
        let mut value = f64::from(value);
        if case.norm {
            let scale = coefficients[image * 2 * channels + channel];
            let shift = coefficients[(image * 2 + 1) * channels + channel];
            value = value * f64::from(scale) + f64::from(shift);
        }
        if case.silu {
            value / (1.0 + (-value).exp())
        } else {
            value
        }
    };
    let addend = |image: usize, pixel: usize, column: usize| {
        let mut sum = f64::from(bias[column]);
        if case.vector {
            sum += f64::from(vector[image * columns + column]);
        }
        if case.residual.is_some() {
            sum += f64::from(residual_full[(image * outputs + pixel) * columns + column]);
        }
        sum
    };
    let expected = dense(geometry, images, &input, channels, &weight, columns, &activate, &addend);
    let expected: Vec<f64> = (0..images)
        .flat_map(|image| {
            active_out
                .pixels()
                .iter()
                .map(move |&pixel| image * outputs + pixel as usize)
        })
        .flat_map(|row| expected[row * columns..(row + 1) * columns].to_vec())
        .collect();
    worst(&output, &expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn matches_the_dense_convolution_inside_the_active_set(case in case()) {
        // up to 72 products of numbers below 3 in f32
        prop_assert!(check(&case) < 2e-5);
    }
}

/// Sizes that take the parallel schedules: blocks of rows with small weights, one product with large ones.
#[test]
fn parallel_schedules_agree_with_the_dense_convolution() {
    for (size, channels, columns) in [(48, 16, 24), (24, 160, 190)] {
        let mask = Mask::from_fn(size, size, |y, x| (y / 3 + x / 5) % 3 == 0);
        let case = Case {
            output_mask: mask.clone(),
            input_mask: mask,
            geometry: ConvGeometry {
                input: [size, size],
                upsample: None,
                output: [size, size],
                kernel: [3, 3],
                stride: [1, 1],
                padding: [1, 1],
                by_parity: false,
            },
            tile: TileSize::PIXEL,
            images: 2,
            channels: vec![channels],
            columns,
            packed: true,
            half: true,
            norm: true,
            silu: true,
            vector: true,
            residual: Some(true),
            seed: 7,
        };
        // sums of 1440 products
        assert!(check(&case) < 2e-4, "{size} {channels} {columns}: {}", check(&case));
    }
}

#[test]
fn reads_outside_the_active_set_are_counted() {
    let geometry = ConvGeometry {
        input: [5, 5],
        upsample: None,
        output: [5, 5],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        by_parity: false,
    };
    let table = ConvTable::new(&geometry, vec![12], None);
    assert_eq!(table.reads().len(), 9);
    assert_eq!(table.unknown_reads(|pixel| pixel == 12), 8);
    let corner = ConvTable::new(&geometry, vec![0], None);
    assert_eq!(corner.reads(), [0, 1, 5, 6]);
    assert_eq!(corner.taps(0).iter().filter(|&&tap| tap == ConvTable::ZERO).count(), 5);
}
