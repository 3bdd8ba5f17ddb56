//! Pictures of any size brought to the size that a plan makes.

use crate::Image;

/// What fitting took away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// columns and rows that were kept of the picture
    pub kept: (usize, usize),
    /// columns and rows of the picture
    pub of: (usize, usize),
}

impl Image {
    /// The middle of the image at this aspect ratio, resized. `None` beside it when it already had the size.
    pub fn fitted(&self, width: usize, height: usize) -> (Image, Option<Fitted>) {
        if (self.width, self.height) == (width, height) {
            return (self.clone(), None);
        }
        let wide = self.width * height > self.height * width;
        let kept = match wide {
            true => ((self.height * width).div_ceil(height).min(self.width), self.height),
            false => (self.width, (self.width * height).div_ceil(width).min(self.height)),
        };
        let cut = self.cut((self.width - kept.0) / 2, (self.height - kept.1) / 2, kept);
        let of = (self.width, self.height);
        (cut.resized(width, height), Some(Fitted { kept, of }))
    }

    fn cut(&self, left: usize, top: usize, (width, height): (usize, usize)) -> Image {
        let rows = self.rgb.chunks_exact(self.width * 3).skip(top).take(height);
        let rgb = rows
            .flat_map(|row| &row[left * 3..(left + width) * 3])
            .copied()
            .collect();
        Image { width, height, rgb }
    }

    /// Linear interpolation that widens where the image shrinks, so that every pixel counts; rows, then columns.
    fn resized(&self, width: usize, height: usize) -> Image {
        let values: Vec<f32> = self.rgb.iter().map(|&value| f32::from(value)).collect();
        let across = taps(self.width, width);
        let down = taps(self.height, height);
        let mut narrow = vec![0.0f32; width * self.height * 3];
        for (index, value) in narrow.iter_mut().enumerate() {
            let (row, column, channel) = (index / (width * 3), index / 3 % width, index % 3);
            let at = |pixel: usize| values[(row * self.width + pixel) * 3 + channel];
            *value = across[column].iter().map(|&(pixel, share)| share * at(pixel)).sum();
        }
        let byte = |index: usize| {
            let (row, rest) = (index / (width * 3), index % (width * 3));
            let at = |pixel: usize| narrow[pixel * width * 3 + rest];
            let value: f32 = down[row].iter().map(|&(pixel, share)| share * at(pixel)).sum();
            value.round().clamp(0.0, 255.0) as u8
        };
        let rgb = (0..width * height * 3).map(byte).collect();
        Image { width, height, rgb }
    }
}

/// For each of `to` pixels those of `from` that make it, with shares that add up to one.
fn taps(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = from as f32 / to as f32;
    let reach = scale.max(1.0);
    let taps = |pixel: usize| {
        let centre = (pixel as f32 + 0.5) * scale - 0.5;
        let first = (centre - reach).ceil().max(0.0) as usize;
        let last = ((centre + reach).floor() as usize).min(from - 1);
        let share = |at: usize| (1.0 - (at as f32 - centre).abs() / reach).max(0.0);
        let total: f32 = (first..=last).map(share).sum();
        (first..=last).map(|at| (at, share(at) / total)).collect()
    };
    (0..to).map(taps).collect()
}
