//! Moving rows: packing, unpacking, concatenation, layouts.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::map::Map;

/// Elements that one thread moves at a time.
const BLOCK: usize = 16 * 1024;

/// Packs rows: `output[n, i] = input[n, pixels[i]]`.
pub fn gather(input: &[f32], images: usize, channels: usize, pixels: &[u32], output: &mut [f32]) {
    let per_image = input.len() / images;
    if pixels.is_empty() {
        return;
    }
    for (image, output) in output.chunks_exact_mut(pixels.len() * channels).enumerate() {
        let input = &input[image * per_image..(image + 1) * per_image];
        for (into, &pixel) in output.chunks_exact_mut(channels).zip(pixels) {
            into.copy_from_slice(&input[pixel as usize * channels..][..channels]);
        }
    }
}

/// The whole map: every row that [`Map::read_row`] gives, zero where there is none.
pub fn fill_map(map: &Map<'_>, images: usize, output: &mut [f32]) {
    output
        .par_chunks_exact_mut(map.channels)
        .with_min_len(BLOCK.div_ceil(map.channels))
        .enumerate()
        .for_each(|(row, into)| map.read_row(images, row / map.pixels, row % map.pixels, into));
}

/// Concatenates rows along channels. Every input is rows of its number of channels.
pub fn concat(inputs: &[(&[f32], usize)], output: &mut [f32]) {
    let channels: usize = inputs.iter().map(|(_, channels)| channels).sum();
    for (row, into) in output.chunks_exact_mut(channels).enumerate() {
        let mut start = 0;
        for (values, width) in inputs {
            into[start..start + width].copy_from_slice(&values[row * width..(row + 1) * width]);
            start += width;
        }
    }
}

/// `[N, C, H * W]` to `[N, H * W, C]`.
pub fn nchw_to_nhwc(input: &[f32], images: usize, channels: usize, output: &mut [f32]) {
    let pixels = input.len() / (images * channels).max(1);
    for image in 0..images {
        for pixel in 0..pixels {
            for channel in 0..channels {
                output[(image * pixels + pixel) * channels + channel] =
                    input[(image * channels + channel) * pixels + pixel];
            }
        }
    }
}

/// `[N, H * W, C]` to `[N, C, H * W]`.
pub fn nhwc_to_nchw(input: &[f32], images: usize, channels: usize, output: &mut [f32]) {
    let pixels = input.len() / (images * channels).max(1);
    for image in 0..images {
        for pixel in 0..pixels {
            for channel in 0..channels {
                output[(image * channels + channel) * pixels + pixel] =
                    input[(image * pixels + pixel) * channels + channel];
            }
        }
    }
}

/// Replaces the active rows of a recorded map, given as the bytes of `f32` or, with `is_half`, `f16` elements.
pub fn scatter_into_recorded(
    rows: &[f32],
    pixels: &[u32],
    channels: usize,
    images: usize,
    is_half: bool,
    map: &mut [u8],
) {
    if pixels.is_empty() {
        return;
    }
    let element = if is_half { 2 } else { 4 };
    let per_image = map.len() / images;
    let mut halves = vec![f16::ZERO; if is_half { channels } else { 0 }];
    for (index, row) in rows.chunks_exact(channels).enumerate() {
        let (image, pixel) = (index / pixels.len(), pixels[index % pixels.len()] as usize);
        let into = &mut map[image * per_image + pixel * channels * element..][..channels * element];
        if is_half {
            halves.convert_from_f32_slice(row);
            into.copy_from_slice(bytemuck::cast_slice(&halves));
        } else {
            into.copy_from_slice(bytemuck::cast_slice(row));
        }
    }
}
