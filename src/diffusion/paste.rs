//! An edited region in the base's pixels.
//!
//! A VAE decoder sees the whole image: its norms and its attention shift the tone everywhere when a part changes, though
//! latents outside the mask are the same. So the edited decode is pasted into the base image. Outside the mask every byte
//! is the base's. Inside, the drift of tone is taken out first: it is known where nothing changed, and continued into the
//! region as smoothly as can be (each cell the mean of its neighbours, as in seamless cloning). Over the first pixels
//! inside, the weight of the edit rises from nothing to one.

use fisec_tensor::{Area, Mask};

use crate::Image;

/// Latents around the mask that the decoder mixes with it: no measure of drift.
const FOOTPRINT: usize = 2;

/// Latents around the mask that a part of an edit shows: the last of them are where its drift is measured.
const MARGIN: usize = FOOTPRINT + 1;

/// Pieces that are decoded one by one: each takes what is computed whole anew, a tenth of a decode.
const MOST_PIECES: usize = 3;

/// Pieces are worth it up to one part in so many of the image.
const PIECES_SHARE: usize = 4;

/// Relaxation of the drift stops when no cell moves by more, in levels of 255.
const STILL: f32 = 0.002;

/// `edited` inside `mask` (at the latents' size, of which the image is a multiple), `base` outside; the weight of
/// `edited` rises over `feather` pixels inside the edge.
pub fn paste(base: &Image, edited: &Image, mask: &Mask, feather: usize) -> Image {
    if mask.count() == mask.bits().len() {
        return edited.clone();
    }
    let cells = Cells {
        rows: mask.height(),
        columns: mask.width(),
        scale: base.width / mask.width(),
    };
    let drift = cells.drift(base, edited, mask);
    let weights = cells.weights(mask, feather);
    let mut image = base.clone();
    for (pixel, weight) in weights.into_iter().enumerate().filter(|(_, weight)| *weight > 0.0) {
        let tone = cells.interpolate(&drift, pixel / base.width, pixel % base.width);
        for (channel, tone) in tone.into_iter().enumerate() {
            let byte = &mut image.rgb[pixel * 3 + channel];
            let ours = f32::from(edited.rgb[pixel * 3 + channel]) - tone;
            let mixed = f32::from(*byte) + weight * (ours - f32::from(*byte));
            *byte = mixed.clamp(0.0, 255.0).round() as u8;
        }
    }
    image
}

/// The areas of latents in which the pieces of a mask are pasted, none of which meets another. One for the whole mask
/// where pieces are many or large.
pub fn pieces(mask: &Mask) -> Vec<Area> {
    let size = [mask.height(), mask.width()];
    let whole = || mask.area().map(|area| with_margin(&area, size)).into_iter().collect();
    let mut pieces: Vec<Area> = runs(mask).iter().map(|run| with_margin(run, size)).collect();
    while let Some((first, second)) = meeting(&pieces) {
        let merged = pieces[first].around(&pieces[second]);
        pieces.swap_remove(second);
        pieces[first] = merged;
    }
    let pixels: usize = pieces.iter().map(|area| area.height * area.width).sum();
    match pieces.len() <= MOST_PIECES && pixels * PIECES_SHARE <= mask.bits().len() {
        true => pieces,
        false => whole(),
    }
}

/// Active pixels side by side.
fn runs(mask: &Mask) -> Vec<Area> {
    let mut runs: Vec<Area> = Vec::new();
    for row in 0..mask.height() {
        for column in (0..mask.width()).filter(|&column| mask.get(row, column)) {
            match runs.last_mut() {
                Some(run) if run.top == row && run.left + run.width == column => run.width += 1,
                _ => runs.push(Area {
                    top: row,
                    left: column,
                    height: 1,
                    width: 1,
                }),
            }
        }
    }
    runs
}

/// Two areas with a pixel in common, the first before the second.
fn meeting(areas: &[Area]) -> Option<(usize, usize)> {
    let mut pairs = (0..areas.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    pairs.find(|&(first, second)| areas[first].meets(&areas[second]))
}

fn with_margin(area: &Area, latents: [usize; 2]) -> Area {
    let span = |start: usize, length: usize, most: usize| {
        let first = start.saturating_sub(MARGIN);
        (first, (start + length + MARGIN).min(most) - first)
    };
    let (top, height) = span(area.top, area.height, latents[0]);
    let (left, width) = span(area.left, area.width, latents[1]);
    Area {
        top,
        left,
        height,
        width,
    }
}

/// [`paste`] of an edit of which only an area of latents is there: the same, because drift comes from the latents around the
/// mask and pixels outside are the base's.
pub fn paste_part(base: &Image, part: &Image, area: &Area, mask: &Mask, feather: usize) -> Image {
    let pixels = area.scaled(base.width / mask.width());
    let mut image = base.clone();
    let pasted = paste(&base.cropped(&pixels), part, &mask.cropped(area), feather);
    image.replace(&pixels, &pasted);
    image
}

/// An image cut into squares, one per latent.
#[derive(Clone, Copy)]
struct Cells {
    rows: usize,
    columns: usize,
    scale: usize,
}

impl Cells {
    /// Mean of edited minus base, RGB, per cell: measured where nothing changed, harmonic elsewhere. Zero when
    /// everything changed.
    fn drift(&self, base: &Image, edited: &Image, mask: &Mask) -> Vec<[f32; 3]> {
        let unknown = mask.dilated(FOOTPRINT);
        let known = unknown.bits().len() - unknown.count();
        let mut drift = self.differences(base, edited);
        let mut mean = [0.0f32; 3];
        for (cell, _) in unknown.bits().iter().enumerate().filter(|(_, unknown)| !**unknown) {
            (0..3).for_each(|channel| mean[channel] += drift[cell][channel] / known as f32);
        }
        for (cell, _) in unknown.bits().iter().enumerate().filter(|(_, unknown)| **unknown) {
            drift[cell] = mean;
        }
        let most = if known == 0 {
            0
        } else {
            20 * self.rows.max(self.columns)
        };
        for _ in 0..most {
            if self.relax(&mut drift, &unknown) < STILL {
                break;
            }
        }
        drift
    }

    /// One sweep of successive over-relaxation; the largest change.
    fn relax(&self, drift: &mut [[f32; 3]], unknown: &Mask) -> f32 {
        const FACTOR: f32 = 1.8;
        let mut largest = 0.0f32;
        for cell in (0..drift.len()).filter(|&cell| unknown.bits()[cell]) {
            let (row, column) = (cell / self.columns, cell % self.columns);
            let above = if row > 0 { cell - self.columns } else { cell };
            let below = if row + 1 < self.rows { cell + self.columns } else { cell };
            let left = if column > 0 { cell - 1 } else { cell };
            let right = if column + 1 < self.columns { cell + 1 } else { cell };
            let around = [above, below, left, right].map(|neighbour| drift[neighbour]);
            for (channel, value) in drift[cell].iter_mut().enumerate() {
                let mean = around.iter().map(|neighbour| neighbour[channel]).sum::<f32>() / 4.0;
                let change = FACTOR * (mean - *value);
                *value += change;
                largest = largest.max(change.abs());
            }
        }
        largest
    }

    fn differences(&self, base: &Image, edited: &Image) -> Vec<[f32; 3]> {
        let mut sums = vec![[0.0f32; 3]; self.rows * self.columns];
        let share = 1.0 / (self.scale * self.scale) as f32;
        let line = 3 * self.columns * self.scale;
        let lines = edited.rgb.chunks_exact(line).zip(base.rgb.chunks_exact(line));
        for (row, (ours, theirs)) in lines.enumerate() {
            let cells = &mut sums[row / self.scale * self.columns..];
            let squares = ours
                .chunks_exact(3 * self.scale)
                .zip(theirs.chunks_exact(3 * self.scale));
            for (cell, (ours, theirs)) in cells.iter_mut().zip(squares) {
                for (ours, theirs) in ours.chunks_exact(3).zip(theirs.chunks_exact(3)) {
                    (0..3).for_each(|channel| {
                        cell[channel] += (f32::from(ours[channel]) - f32::from(theirs[channel])) * share;
                    });
                }
            }
        }
        sums
    }

    /// The drift at a pixel, bilinear between the cells' centres.
    fn interpolate(&self, drift: &[[f32; 3]], row: usize, column: usize) -> [f32; 3] {
        let place = |pixel: usize, cells: usize| {
            let at = ((pixel as f32 + 0.5) / self.scale as f32 - 0.5).clamp(0.0, (cells - 1) as f32);
            let low = at as usize;
            (low, (low + 1).min(cells - 1), at - low as f32)
        };
        let (top, bottom, down) = place(row, self.rows);
        let (left, right, across) = place(column, self.columns);
        let at = |row: usize, column: usize, channel: usize| drift[row * self.columns + column][channel];
        std::array::from_fn(|channel| {
            let upper = at(top, left, channel) * (1.0 - across) + at(top, right, channel) * across;
            let lower = at(bottom, left, channel) * (1.0 - across) + at(bottom, right, channel) * across;
            upper * (1.0 - down) + lower * down
        })
    }

    /// Weight of the edit per pixel: 0 outside the mask and at its edge, 1 from `feather` pixels inside on. The mask's
    /// blur, so that contours are round where the mask is made of squares. An image's border is no edge.
    fn weights(&self, mask: &Mask, feather: usize) -> Vec<f32> {
        let width = self.columns * self.scale;
        let mut weights = Vec::with_capacity(self.rows * self.scale * width);
        for cells in mask.bits().chunks_exact(self.columns) {
            let first = weights.len();
            for &inside in cells {
                weights.extend(std::iter::repeat_n(f32::from(u8::from(inside)), self.scale));
            }
            (1..self.scale).for_each(|_| weights.extend_from_within(first..first + width));
        }
        let inside = weights.clone();
        // wider than the image nothing changes any more
        let feather = feather.min(2 * width.max(self.rows * self.scale));
        blur_lines(&mut weights, width, feather);
        blur_columns(&mut weights, width, feather);
        // nothing outside, from half on inside
        let rise = |(blurred, inside): (f32, f32)| inside * (2.0 * blurred - 1.0).clamp(0.0, 1.0);
        weights.into_iter().zip(inside).map(rise).collect()
    }
}

/// Mean over `radius` pixels to both sides along lines of `width` pixels; ends are repeated.
fn blur_lines(values: &mut [f32], width: usize, radius: usize) {
    let mut source = vec![0.0; width];
    let reach = radius as isize;
    for line in values.chunks_exact_mut(width) {
        source.copy_from_slice(line);
        let at = |index: isize| source[index.clamp(0, width as isize - 1) as usize];
        let mut sum: f32 = (-reach..=reach).map(at).sum();
        for (centre, value) in line.iter_mut().enumerate() {
            *value = sum / (2 * radius + 1) as f32;
            sum += at(centre as isize + reach + 1) - at(centre as isize - reach);
        }
    }
}

/// The same from row to row, all columns at once.
fn blur_columns(values: &mut [f32], width: usize, radius: usize) {
    let source = values.to_vec();
    let (rows, reach) = (source.len() / width, radius as isize);
    let row = |index: isize| {
        let at = index.clamp(0, rows as isize - 1) as usize * width;
        &source[at..at + width]
    };
    let mut sums = vec![0.0f32; width];
    for index in -reach..=reach {
        sums.iter_mut().zip(row(index)).for_each(|(sum, value)| *sum += value);
    }
    for (centre, line) in values.chunks_exact_mut(width).enumerate() {
        let (next, last) = (row(centre as isize + reach + 1), row(centre as isize - reach));
        for (((value, sum), next), last) in line.iter_mut().zip(&mut sums).zip(next).zip(last) {
            *value = *sum / (2 * radius + 1) as f32;
            *sum += next - last;
        }
    }
}
