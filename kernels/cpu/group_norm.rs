//! Group norm: statistics of full maps, their correction after an edit, and the scale and shift they give.

use rayon::prelude::*;

use super::map::{Map, RecordedRows};
use super::simd::vectorised;

/// Sums and sums of squares per channel.
struct Sums {
    sums: Vec<f64>,
    squares: Vec<f64>,
}

vectorised! {
    fn add_row(row: &[f32], sums: &mut [f64], squares: &mut [f64]) {
        for ((value, sum), square) in row.iter().zip(sums).zip(squares) {
            let value = f64::from(*value);
            *sum += value;
            *square += value * value;
        }
    }
}

impl Sums {
    fn new(channels: usize) -> Self {
        Sums {
            sums: vec![0.0; channels],
            squares: vec![0.0; channels],
        }
    }

    fn add(&mut self, row: &[f32]) {
        add_row(row, &mut self.sums, &mut self.squares);
    }

    fn merge(mut self, other: Sums) -> Sums {
        for (sum, value) in self.sums.iter_mut().zip(other.sums) {
            *sum += value;
        }
        for (square, value) in self.squares.iter_mut().zip(other.squares) {
            *square += value;
        }
        self
    }

    /// Sum and sum of squares of every group.
    fn groups(&self, groups: usize) -> impl Iterator<Item = (f64, f64)> {
        let width = self.sums.len() / groups;
        (0..groups).map(move |group| {
            let channels = group * width..(group + 1) * width;
            (
                self.sums[channels.clone()].iter().sum(),
                self.squares[channels].iter().sum(),
            )
        })
    }
}

/// Sums over the rows of one image that `read(row, into)` gives.
fn sum_rows(rows: usize, channels: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Sums {
    const ROWS: usize = 128;
    let blocks = rows.div_ceil(ROWS);
    (0..blocks)
        .into_par_iter()
        .map(|block| {
            let mut sums = Sums::new(channels);
            let mut values = vec![0.0; channels];
            for row in block * ROWS..((block + 1) * ROWS).min(rows) {
                read(row, &mut values);
                sums.add(&values);
            }
            sums
        })
        .reduce(|| Sums::new(channels), Sums::merge)
}

/// Mean and biased variance per image and group of a whole map: `[N, groups, 2]`.
pub fn group_norm_stats(input: &Map<'_>, images: usize, groups: usize, output: &mut [f32]) {
    let count = (input.pixels * input.channels / groups) as f64;
    for (image, stats) in output.chunks_exact_mut(2 * groups).enumerate() {
        let sums = sum_rows(input.pixels, input.channels, |pixel, into| {
            input.read_row(images, image, pixel, into);
        });
        for ((sum, square), into) in sums.groups(groups).zip(stats.chunks_exact_mut(2)) {
            write_stats(sum, square, count, into);
        }
    }
}

fn write_stats(sum: f64, square: f64, count: f64, into: &mut [f32]) {
    let mean = sum / count;
    into[0] = mean as f32;
    into[1] = (square / count - mean * mean).max(0.0) as f32;
}

/// What changed inside the active set.
#[derive(Clone, Copy)]
pub struct GroupNormUpdate<'a> {
    /// N
    pub images: usize,
    /// number of groups
    pub groups: usize,
    /// channels of a row
    pub channels: usize,
    /// pixels of the whole map
    pub pixels: usize,
    /// fresh rows `[N, active, C]`
    pub fresh: &'a [f32],
    /// active pixels
    pub active: &'a [u32],
    /// the recorded map
    pub recorded: RecordedRows<'a>,
    /// its statistics `[N, groups, 2]`
    pub recorded_stats: &'a [f32],
}

/// Statistics after the active rows were replaced: recorded sums minus the old rows plus the new ones.
pub fn update_group_norm_stats(update: &GroupNormUpdate<'_>, output: &mut [f32]) {
    let GroupNormUpdate {
        groups,
        channels,
        active,
        ..
    } = *update;
    let count = (update.pixels * channels / groups) as f64;
    for image in 0..update.images {
        let new = sum_rows(active.len(), channels, |row, into| {
            let start = (image * active.len() + row) * channels;
            into.copy_from_slice(&update.fresh[start..start + channels]);
        });
        let old = sum_rows(active.len(), channels, |row, into| {
            let pixel = image * update.pixels + active[row] as usize;
            update.recorded.read(pixel * channels, into);
        });
        let range = image * 2 * groups..(image + 1) * 2 * groups;
        let recorded = update.recorded_stats[range.clone()].chunks_exact(2);
        let changes = new.groups(groups).zip(old.groups(groups));
        for ((into, recorded), (new, old)) in output[range].chunks_exact_mut(2).zip(recorded).zip(changes) {
            let (mean, variance) = (f64::from(recorded[0]), f64::from(recorded[1]));
            let sum = mean * count + new.0 - old.0;
            let square = (variance + mean * mean) * count + new.1 - old.1;
            write_stats(sum, square, count, into);
        }
    }
}

/// `[N, 2, C]` scale and shift of statistics `[N, groups, 2]`.
pub fn norm_coefficients(stats: &[f32], gamma: &[f32], beta: &[f32], groups: usize, epsilon: f64, output: &mut [f32]) {
    let channels = gamma.len();
    for (stats, output) in stats
        .chunks_exact(2 * groups)
        .zip(output.chunks_exact_mut(2 * channels))
    {
        let (scales, shifts) = output.split_at_mut(channels);
        for channel in 0..channels {
            let group = channel * groups / channels;
            let (mean, variance) = (f64::from(stats[2 * group]), f64::from(stats[2 * group + 1]));
            let scale = f64::from(gamma[channel]) / (variance + epsilon).sqrt();
            scales[channel] = scale as f32;
            shifts[channel] = (f64::from(beta[channel]) - mean * scale) as f32;
        }
    }
}
