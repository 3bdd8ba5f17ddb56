//! Pictures of any size brought to the size that a plan makes.

use std::io::{BufRead, Seek};

use crate::image::push_rgb;
use crate::png_rows::Rows;
use crate::{DiffusionError, Image};

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
        let mut scaler = Scaler::new((self.width, self.height), (width, height));
        for row in self.rgb.chunks_exact(self.width * 3) {
            scaler.push(row);
        }
        (scaler.image(), Some(scaler.fitted))
    }

    /// A PNG of any size and colour type, [fitted](Image::fitted) while it is read: memory is taken for the result and a
    /// few rows.
    ///
    /// # Errors
    /// Fails on what is no PNG, on damaged ones and on ones with more than [`LARGEST_PIXELS`](crate::LARGEST_PIXELS).
    pub fn read_fitted(
        png: impl BufRead + Seek,
        width: usize,
        height: usize,
    ) -> Result<(Image, Option<Fitted>), DiffusionError> {
        let mut rows = Rows::open(png).map_err(DiffusionError::Picture)?;
        let (of, samples) = ((rows.width(), rows.height()), rows.samples());
        let mut scaler = (of != (width, height)).then(|| Scaler::new(of, (width, height)));
        let mut rgb = Vec::new();
        for _ in 0..of.1 {
            let row = rows.next_row().map_err(DiffusionError::Picture)?;
            if scaler.is_some() {
                rgb.clear();
            }
            push_rgb(row, samples, &mut rgb);
            if let Some(scaler) = &mut scaler {
                scaler.push(&rgb);
            }
        }
        Ok(match scaler {
            Some(scaler) => (scaler.image(), Some(scaler.fitted)),
            None => (Image { width, height, rgb }, None),
        })
    }
}

/// Linear interpolation that widens where the image shrinks, so that every pixel counts: along each row, then down the
/// rows as they come.
struct Scaler {
    fitted: Fitted,
    /// first column and row that are kept
    corner: (usize, usize),
    size: (usize, usize),
    across: Vec<Vec<(usize, f32)>>,
    /// for each kept row the rows of the result that it is part of, with its share
    down: Vec<Vec<(usize, f32)>>,
    sums: Vec<f32>,
    narrow: Vec<f32>,
    next: usize,
}

impl Scaler {
    fn new((width, height): (usize, usize), to: (usize, usize)) -> Self {
        let wide = width * to.1 > height * to.0;
        let kept = match wide {
            true => ((height * to.0).div_ceil(to.1).min(width), height),
            false => (width, (width * to.1).div_ceil(to.0).min(height)),
        };
        let mut down = vec![Vec::new(); kept.1];
        for (row, taps) in taps(kept.1, to.1).into_iter().enumerate() {
            taps.into_iter()
                .for_each(|(pixel, share)| down[pixel].push((row, share)));
        }
        Scaler {
            fitted: Fitted {
                kept,
                of: (width, height),
            },
            corner: ((width - kept.0) / 2, (height - kept.1) / 2),
            size: to,
            across: taps(kept.0, to.0),
            down,
            sums: vec![0.0; to.0 * to.1 * 3],
            narrow: vec![0.0; to.0 * 3],
            next: 0,
        }
    }

    /// Takes the next row of the picture, RGB.
    fn push(&mut self, row: &[u8]) {
        let at = self.next.checked_sub(self.corner.1);
        self.next += 1;
        let Some(down) = at.and_then(|at| self.down.get(at)) else {
            return;
        };
        let row = &row[self.corner.0 * 3..];
        for (taps, narrow) in self.across.iter().zip(self.narrow.chunks_exact_mut(3)) {
            narrow.fill(0.0);
            for &(pixel, share) in taps {
                for (sum, &value) in narrow.iter_mut().zip(&row[pixel * 3..pixel * 3 + 3]) {
                    *sum += share * f32::from(value);
                }
            }
        }
        let line = self.narrow.len();
        for &(row, share) in down {
            let sums = &mut self.sums[row * line..(row + 1) * line];
            sums.iter_mut()
                .zip(&self.narrow)
                .for_each(|(sum, value)| *sum += share * value);
        }
    }

    fn image(&self) -> Image {
        let byte = |value: &f32| value.round().clamp(0.0, 255.0) as u8;
        Image {
            width: self.size.0,
            height: self.size.1,
            rgb: self.sums.iter().map(byte).collect(),
        }
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
