//! Otsu's threshold (1979): the split of a histogram into two classes that lie furthest apart.

const BINS: usize = 256;

/// The threshold of values in [0, 1], a multiple of 1/256: values at or above it form the upper class.
pub fn otsu(values: &[f64]) -> f64 {
    let mut counts = [0.0f64; BINS];
    for value in values {
        counts[((value * BINS as f64) as usize).min(BINS - 1)] += 1.0;
    }
    let centre = |bin: usize| (bin as f64 + 0.5) / BINS as f64;
    let total: f64 = counts.iter().sum();
    let moment: f64 = (0..BINS).map(|bin| counts[bin] * centre(bin)).sum();
    let (mut best, mut best_bin) = (-1.0, 0);
    let (mut below, mut below_moment) = (0.0, 0.0);
    for (bin, count) in counts.iter().enumerate().take(BINS - 1) {
        below += count;
        below_moment += count * centre(bin);
        let distance = moment * below / total - below_moment;
        let between = distance * distance / (below * (total - below));
        if between > best {
            (best, best_bin) = (between, bin);
        }
    }
    (best_bin + 1) as f64 / BINS as f64
}
