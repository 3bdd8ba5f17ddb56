//! Pictures brought to a plan's size.

use fisec_diffusion::Image;
use proptest::prelude::*;

fn image(width: usize, height: usize, value: impl Fn(usize, usize) -> [u8; 3]) -> Image {
    let pixels = (0..width * height).flat_map(|pixel| value(pixel / width, pixel % width));
    Image {
        width,
        height,
        rgb: pixels.collect(),
    }
}

#[test]
fn a_picture_of_the_right_size_is_left_alone() {
    let picture = image(16, 8, |row, column| [row as u8, column as u8, 7]);
    assert_eq!(picture.fitted(16, 8), (picture.clone(), None));
}

#[test]
fn the_middle_is_kept() {
    // three squares side by side
    let wide = image(30, 10, |_, column| [(column / 10) as u8 * 100, 0, 0]);
    let (fitted, change) = wide.fitted(10, 10);
    assert_eq!(fitted, image(10, 10, |_, _| [100, 0, 0]));
    assert_eq!(change.unwrap().kept, (10, 10));
    let tall = image(10, 30, |row, _| [(row / 10) as u8 * 100, 0, 0]);
    assert_eq!(tall.fitted(10, 10).0, fitted);
}

#[test]
fn halving_counts_every_pixel() {
    let stripes = image(32, 32, |row, column| [if (row + column) % 2 == 0 { 255 } else { 1 }; 3]);
    let (half, _) = stripes.fitted(16, 16);
    assert!(
        half.rgb.iter().all(|value| (120..=136).contains(value)),
        "{:?}",
        half.rgb
    );
}

proptest! {
    #[test]
    fn any_size_fits(width in 1usize..40, height in 1usize..40, to_width in 1usize..24, to_height in 1usize..24, grey in 0u8..=255) {
        let (fitted, _) = image(width, height, |_, _| [grey; 3]).fitted(to_width, to_height);
        prop_assert_eq!(fitted, image(to_width, to_height, |_, _| [grey; 3]));
    }
}
