//! An edited region in the base's pixels.
//!
//! A VAE decoder sees the whole image: its norms and its attention shift the tone everywhere when a part changes, though
//! latents outside the mask are the same. So the edited decode is pasted into the base image. Outside the mask every byte
//! is the base's. Inside, the drift of tone is taken out first: it is known where nothing changed, and continued into the
//! region as smoothly as can be (each cell the mean of its neighbours, as in seamless cloning). Over the first pixels
//! inside, the weight of the edit rises from nothing to one.

use fisec_tensor::Mask;

use crate::Image;

/// Latents around the mask that the decoder mixes with it: no measure of drift.
const FOOTPRINT: usize = 2;

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
        for (index, (ours, theirs)) in edited.rgb.iter().zip(&base.rgb).enumerate() {
            let pixel = index / 3;
            let (row, column) = (pixel / base.width / self.scale, pixel % base.width / self.scale);
            sums[row * self.columns + column][index % 3] += (f32::from(*ours) - f32::from(*theirs)) * share;
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
        let (height, width) = (self.rows * self.scale, self.columns * self.scale);
        let inside = |pixel: usize| mask.get(pixel / width / self.scale, pixel % width / self.scale);
        let mut weights: Vec<f32> = (0..height * width)
            .map(|pixel| f32::from(u8::from(inside(pixel))))
            .collect();
        blur(&mut weights, width, 1, feather);
        blur(&mut weights, height, width, feather);
        let rise = |(pixel, blurred): (usize, f32)| {
            if inside(pixel) {
                (2.0 * blurred - 1.0).clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        weights.into_iter().enumerate().map(rise).collect()
    }
}

/// Mean over `radius` pixels to both sides along lines of `length` pixels that lie `stride` apart; ends are repeated.
fn blur(values: &mut [f32], length: usize, stride: usize, radius: usize) {
    let lines = values.len() / length;
    for line in 0..lines {
        let start = if stride == 1 { line * length } else { line };
        let source: Vec<f32> = (0..length).map(|index| values[start + index * stride]).collect();
        let at = |index: isize| source[index.clamp(0, length as isize - 1) as usize];
        let reach = radius as isize;
        let mut sum: f32 = (-reach..=reach).map(at).sum();
        for index in 0..length {
            values[start + index * stride] = sum / (2 * radius + 1) as f32;
            let centre = index as isize;
            sum += at(centre + reach + 1) - at(centre - reach);
        }
    }
}
