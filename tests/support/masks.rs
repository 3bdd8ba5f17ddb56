//! Masks that edits are tested with.

use fisec_tensor::Mask;

use super::unet::Random;

/// Named masks of one size: single pixels, borders, corners, scattered, everything, and blobs.
pub fn masks(height: usize, width: usize, seed: u64) -> Vec<(&'static str, Mask)> {
    let mut random = Random(seed);
    let scattered: Vec<bool> = (0..height * width).map(|_| random.bits().is_multiple_of(8)).collect();
    let corner = |y: usize, x: usize| (y == 0 || y + 1 == height) && (x == 0 || x + 1 == width);
    vec![
        (
            "one pixel",
            Mask::from_fn(height, width, |y, x| (y, x) == (height / 2, width / 3)),
        ),
        ("border strip", Mask::from_fn(height, width, |_, x| x + 2 >= width)),
        ("corners", Mask::from_fn(height, width, corner)),
        ("scattered", Mask::new(height, width, scattered)),
        ("blob", blob(height, width, &mut random)),
        ("full", Mask::filled(height, width, true)),
    ]
}

/// A random ellipse.
pub fn blob(height: usize, width: usize, random: &mut Random) -> Mask {
    let mut around = |side: usize, low: f64, high: f64| {
        let share = f64::from(random.signed()) / 2.0 + 0.5;
        side as f64 * (low + share * (high - low))
    };
    let (y, x) = (around(height, 0.2, 0.8), around(width, 0.2, 0.8));
    let (tall, wide) = (around(height, 0.1, 0.4).max(1.0), around(width, 0.1, 0.4).max(1.0));
    Mask::from_fn(height, width, |row, column| {
        ((row as f64 - y) / tall).powi(2) + ((column as f64 - x) / wide).powi(2) <= 1.0
    })
}
