//! When guiding may stop: the mask no longer changes.

use fisec_tensor::Mask;

/// Overlap of successive masks from which they count as the same.
const SAME: f64 = 0.9;

/// How often in a row they must be.
const STREAK: usize = 2;

/// Intersection over union; 1 when both are empty. Panics when the sizes differ.
pub fn overlap(a: &Mask, b: &Mask) -> f64 {
    let union = a.union(b).count();
    let both = a.count() + b.count() - union;
    if union == 0 { 1.0 } else { both as f64 / union as f64 }
}

/// Watches the mask from guided step to guided step.
///
/// Guiding takes 5 to 10 steps of a schedule of 50, as the paper does, and the same tenth to fifth of any other, but no
/// fewer than 3: noise levels, not step counts, decide what a difference of latents can tell. Between the bounds it stops
/// when two successive pairs of masks overlap by nine tenths: one pair alone may agree by chance while the region still
/// drifts.
#[derive(Clone, Debug)]
pub struct Convergence {
    least: usize,
    most: usize,
    seen: usize,
    streak: usize,
    last: Option<Mask>,
}

impl Convergence {
    /// For a schedule of `calls` calls.
    pub fn new(calls: usize) -> Self {
        let most = calls.div_ceil(5).clamp(1, 10);
        Convergence {
            least: most.min(calls.div_ceil(10).max(3)),
            most,
            seen: 0,
            streak: 0,
            last: None,
        }
    }

    /// Takes the mask after one more guided step; true when guiding may stop.
    pub fn is_done(&mut self, mask: Mask) -> bool {
        self.seen += 1;
        let same = self.last.as_ref().is_some_and(|last| overlap(last, &mask) >= SAME);
        self.streak = if same { self.streak + 1 } else { 0 };
        self.last = Some(mask);
        self.seen >= self.most || (self.seen >= self.least && self.streak >= STREAK)
    }

    /// The most steps that will be guided; also the calls of which cross-attention maps are worth keeping.
    pub fn most(&self) -> usize {
        self.most
    }
}
