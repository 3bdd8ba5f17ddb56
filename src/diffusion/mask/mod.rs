//! The edit mask: which latents an edit may change.

mod attention;
mod convergence;
mod findings;
mod holes;
mod otsu;
mod read;

use std::ops::Range;

use fisec_tensor::Mask;

pub(crate) use attention::Listener;
pub use attention::{Attention, MapSlot};
pub use convergence::{Convergence, overlap};
pub use findings::Findings;
pub use holes::fill_holes;
pub use otsu::otsu;
pub use read::{mask_from_png, read_user_mask};

use crate::DiffusionError;

/// How much latents have moved that belong to a region, as shares of Otsu's threshold. Chosen over the 112 edits of
/// `tools/evaluate`: of all rules tried, least of what the edit changes is left out for as little more area.
struct Shares {
    /// somewhere in the region
    core: f64,
    /// beside it
    beside: f64,
    /// in the rim by which it grows
    rim: f64,
}

const SHARES: Shares = Shares {
    core: 0.7,
    beside: 0.5,
    rim: 0.1,
};

/// Largest hole, in latents, that a region is not left with: it would show as a speck of the base.
const HOLE: usize = 16;

/// How far an edit's latents have moved from the recorded ones, over the guided steps (paper 3.2): the sum over steps
/// and channels of absolute differences.
#[derive(Clone, Debug)]
pub struct Difference {
    height: usize,
    width: usize,
    sums: Vec<f64>,
}

impl Difference {
    /// No difference yet, for latents of this size.
    pub fn new(height: usize, width: usize) -> Self {
        Difference {
            height,
            width,
            sums: vec![0.0; height * width],
        }
    }

    /// Adds one step's latents, `[C, height, width]` each.
    pub fn add(&mut self, edited: &[f32], recorded: &[f32]) {
        let plane = self.sums.len();
        for (index, (edited, recorded)) in edited.iter().zip(recorded).enumerate() {
            self.sums[index % plane] += f64::from((edited - recorded).abs());
        }
    }

    /// The differences scaled to [0, 1] once, after the sum; all zero when they are all equal.
    pub fn normalised(&self) -> Vec<f64> {
        scaled(&self.sums)
    }

    /// Latents at or above Otsu's threshold, opened by a 2×2 square. Empty when nothing moved more than anything else.
    pub fn mask(&self) -> Mask {
        above_otsu(&self.normalised(), self.height, self.width).opened()
    }

    /// The mask made whole: latents at seven tenths of the threshold, opened; with those that they touch, by sides or
    /// corners and through one another, at half of it; grown by `grow` latents wherever those moved at least a tenth of it;
    /// small holes filled. For `grow` 0 [`Difference::mask`] as it is.
    ///
    /// The threshold finds where an object changes most. Its rim, and what it leaves uncovered of the old one, moved
    /// less; cut off, they show.
    pub fn region(&self, grow: usize) -> Mask {
        let mask = self.mask();
        if grow == 0 || mask.is_empty() {
            return mask;
        }
        let values = self.normalised();
        let threshold = otsu(&values);
        let moved = |share: f64| {
            let moved = values.iter().map(|&value| value >= share * threshold);
            Mask::new(self.height, self.width, moved.collect())
        };
        let mut region = moved(SHARES.core).opened();
        let beside = moved(SHARES.beside);
        loop {
            let next = region.union(&region.dilated(1).intersection(&beside));
            if next == region {
                break;
            }
            region = next;
        }
        let rim = moved(SHARES.rim);
        for _ in 0..grow {
            let next = region.union(&region.dilated(1).intersection(&rim));
            if next == region {
                break;
            }
            region = next;
        }
        fill_holes(&region, HOLE)
    }

    /// The share of latents that moved most: exactly `round(share * latents)`, at least one. Among equals the first in
    /// row order. Empty when nothing moved at all. Fails unless `0 < share <= 1`.
    pub fn largest(&self, share: f64) -> Result<Mask, DiffusionError> {
        largest(&self.sums, self.size(), share)
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }
}

/// The share of latents with the largest values; see [`Difference::largest`].
fn largest(values: &[f64], (height, width): (usize, usize), share: f64) -> Result<Mask, DiffusionError> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(DiffusionError::EditSize(share));
    }
    if values.iter().all(|&value| value == 0.0) {
        return Ok(Mask::filled(height, width, false));
    }
    let count = ((share * values.len() as f64).round() as usize).max(1);
    let mut order: Vec<usize> = (0..values.len()).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count, |&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    }
    let mut bits = vec![false; values.len()];
    order.into_iter().take(count).for_each(|pixel| bits[pixel] = true);
    Ok(Mask::new(height, width, bits))
}

/// Values at or above Otsu's threshold; none when all are zero.
fn above_otsu(values: &[f64], height: usize, width: usize) -> Mask {
    if values.iter().all(|&value| value == 0.0) {
        return Mask::filled(height, width, false);
    }
    let threshold = otsu(values);
    let above = values.iter().map(|&value| value >= threshold).collect();
    Mask::new(height, width, above)
}

/// Values from 0, the least, to 1, the greatest; all zero when they are all equal.
fn scaled(values: &[f64]) -> Vec<f64> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let range = values.iter().copied().fold(0.0, f64::max) - least;
    let scale = |value: &f64| if range > 0.0 { (value - least) / range } else { 0.0 };
    values.iter().map(scale).collect()
}

/// A user's mask at the latents' size: a latent is active when any pixel of it is. The mask may have any size of the
/// image's aspect ratio (to within 2 %).
///
/// `latent` and `image` are (height, width).
pub fn fit_user_mask(mask: &Mask, latent: (usize, usize), image: (usize, usize)) -> Result<Mask, DiffusionError> {
    check_aspect((mask.height(), mask.width()), image)?;
    if mask.is_empty() {
        return Err(DiffusionError::MaskEmpty);
    }
    Ok(mask.resized(latent.0, latent.1))
}

/// Fails unless a mask has the image's aspect ratio to within 2 %; both (height, width).
fn check_aspect((height, width): (usize, usize), image: (usize, usize)) -> Result<(), DiffusionError> {
    let (ours, theirs) = (width * image.0, height * image.1);
    if ours.abs_diff(theirs) * 50 > ours.max(theirs) {
        return Err(DiffusionError::MaskSize {
            width,
            height,
            image_width: image.1,
            image_height: image.0,
        });
    }
    Ok(())
}

/// For each of `to` latents the pixels of `from` that it overlaps.
fn spans(from: usize, to: usize) -> Vec<Range<usize>> {
    let span = |index: usize| index * from / to..((index + 1) * from).div_ceil(to);
    (0..to).map(span).collect()
}
