//! Masks from PNGs: at their own size, or at the latents' while they are read.

use std::io::{BufRead, Cursor, Seek};
use std::ops::Range;

use fisec_tensor::Mask;

use super::{check_aspect, spans};
use crate::DiffusionError;
use crate::png_rows::Rows;

/// A mask from a PNG: active where a pixel is brighter than half and at least half opaque.
pub fn mask_from_png(png: &[u8]) -> Result<Mask, DiffusionError> {
    let mut rows = Rows::open(Cursor::new(png)).map_err(DiffusionError::MaskImage)?;
    let (width, height, samples) = (rows.width(), rows.height(), rows.samples());
    let mut bits = Vec::new();
    bits.try_reserve_exact(width * height)
        .map_err(|error| DiffusionError::Image(error.to_string()))?;
    for _ in 0..height {
        let row = rows.next_row().map_err(DiffusionError::MaskImage)?;
        bits.extend(row.chunks_exact(samples).map(is_active));
    }
    Ok(Mask::new(height, width, bits))
}

/// A user's mask at the latents' size, as [`fit_user_mask`](super::fit_user_mask) makes it of [`mask_from_png`], read row
/// by row: memory is taken for the result and one row.
///
/// `latent` and `image` are (height, width).
///
/// # Errors
/// Fails on what is no PNG, on damaged ones, on ones with more than [`LARGEST_PIXELS`](crate::LARGEST_PIXELS), on another
/// aspect ratio than the image's, and on masks with no active pixel.
pub fn read_user_mask(
    png: impl BufRead + Seek,
    latent: (usize, usize),
    image: (usize, usize),
) -> Result<Mask, DiffusionError> {
    let mut rows = Rows::open(png).map_err(DiffusionError::MaskImage)?;
    let (width, height, samples) = (rows.width(), rows.height(), rows.samples());
    check_aspect((height, width), image)?;
    let (across, down) = (spans(width, latent.1), spans(height, latent.0));
    let mut bits = vec![false; latent.0 * latent.1];
    let mut first = 0;
    for y in 0..height {
        let row = rows.next_row().map_err(DiffusionError::MaskImage)?;
        while down[first].end <= y {
            first += 1;
        }
        let touched = down[first..].iter().take_while(|span| span.start <= y).count();
        for (column, span) in across.iter().enumerate() {
            if touches(row, samples, span) {
                (first..first + touched).for_each(|row| bits[row * latent.1 + column] = true);
            }
        }
    }
    match bits.contains(&true) {
        true => Ok(Mask::new(latent.0, latent.1, bits)),
        false => Err(DiffusionError::MaskEmpty),
    }
}

fn touches(row: &[u8], samples: usize, columns: &Range<usize>) -> bool {
    let pixels = &row[columns.start * samples..columns.end * samples];
    pixels.chunks_exact(samples).any(is_active)
}

fn is_active(pixel: &[u8]) -> bool {
    let grey = match pixel {
        [grey] | [grey, _] => u32::from(*grey) * 1000,
        [red, green, blue, ..] => u32::from(*red) * 299 + u32::from(*green) * 587 + u32::from(*blue) * 114,
        [] => 0,
    };
    let is_opaque = pixel.len() % 2 == 1 || pixel.last().is_some_and(|&alpha| alpha > 127);
    grey > 127_500 && is_opaque
}
