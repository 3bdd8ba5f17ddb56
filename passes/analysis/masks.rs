//! The masks that predictions are made for.

use fisec_tensor::Mask;

/// Shares of active latents that are predicted and reported.
pub const REFERENCE_SHARES: [f64; 3] = [0.05, 0.15, 0.30];

/// A mask of about `share` active pixels shaped like an edit: one large and one small disc.
///
/// Real edit masks are a few blobs; how many coarse pixels and tiles they touch depends on their outline, which two
/// discs of areas 4:1 come near to.
pub fn representative_mask(height: usize, width: usize, share: f64) -> Mask {
    let target = (share * (height * width) as f64).round() as usize;
    let (mut low, mut high) = (0.0, 2.0);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if discs(height, width, middle).count() < target {
            low = middle
        } else {
            high = middle
        }
    }
    discs(height, width, high)
}

/// Discs of radius `scale` and `scale / 2` in units of the smaller side.
fn discs(height: usize, width: usize, scale: f64) -> Mask {
    let side = height.min(width) as f64;
    let centres = [(0.42, 0.40, scale), (0.80, 0.78, scale / 2.0)];
    Mask::from_fn(height, width, |row, column| {
        centres.iter().any(|&(y, x, radius)| {
            let dy = (row as f64 + 0.5 - y * height as f64) / side;
            let dx = (column as f64 + 0.5 - x * width as f64) / side;
            dy * dy + dx * dx < radius * radius
        })
    })
}
