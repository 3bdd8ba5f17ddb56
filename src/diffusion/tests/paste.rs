//! Pasting an edited region: the background stays as it was, byte for byte.

use fisec_diffusion::{Image, paste, paste_part, pieces};
use fisec_tensor::{Area, Mask};
use proptest::prelude::*;

const SCALE: usize = 8;

fn image(columns: usize, rows: usize, value: impl Fn(usize, usize, usize) -> f32) -> Image {
    let (width, height) = (columns * SCALE, rows * SCALE);
    let byte = |index: usize| {
        value(index / 3 / width, index / 3 % width, index % 3)
            .clamp(0.0, 255.0)
            .round() as u8
    };
    Image {
        width,
        height,
        rgb: (0..width * height * 3).map(byte).collect(),
    }
}

fn scene(row: usize, column: usize, channel: usize) -> f32 {
    100.0 + 30.0 * ((row as f32 / 9.0).sin() + (column as f32 / 7.0 + channel as f32).cos())
}

/// Tone that changes slowly over the image.
fn drift(row: usize, column: usize) -> f32 {
    4.0 + row as f32 / 40.0 - column as f32 / 60.0
}

proptest! {
    #[test]
    fn nothing_outside_the_mask_changes(bits in prop::collection::vec(prop::bool::weighted(0.3), 6 * 5), seed in 0usize..100) {
        let mask = Mask::new(5, 6, bits);
        prop_assume!(mask.count() < 30);
        let base = image(6, 5, scene);
        let edited = image(6, 5, |row, column, channel| ((row * 31 + column * 17 + channel * 5 + seed) % 256) as f32);
        let pasted = paste(&base, &edited, &mask, SCALE);
        for pixel in 0..base.width * base.height {
            if !mask.get(pixel / base.width / SCALE, pixel % base.width / SCALE) {
                prop_assert_eq!(&pasted.rgb[pixel * 3..pixel * 3 + 3], &base.rgb[pixel * 3..pixel * 3 + 3]);
            }
        }
    }
}

#[test]
fn a_drift_of_tone_is_taken_out() {
    let mask = Mask::from_fn(16, 16, |row, column| {
        (5..11).contains(&row) && (4..12).contains(&column)
    });
    let base = image(16, 16, scene);
    let edited = image(16, 16, |row, column, channel| {
        scene(row, column, channel) + drift(row, column)
    });
    let pasted = paste(&base, &edited, &mask, SCALE);
    let worst = pasted
        .rgb
        .iter()
        .zip(&base.rgb)
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap();
    assert!(worst <= 1, "off by {worst}, the drift is 4 and more");
}

/// Relaxation starts from another mean, and stops when it moves by less than what rounds to a level.
#[test]
fn a_part_is_pasted_as_the_whole_is() {
    let mask = Mask::from_fn(16, 16, |row, column| {
        (1..7).contains(&row) && (5..9).contains(&column) && (row, column) != (3, 6)
    });
    let base = image(16, 16, scene);
    let edited = image(16, 16, |row, column, channel| {
        scene(row, column, channel)
            + drift(row, column)
            + if mask.get(row / SCALE, column / SCALE) {
                25.0
            } else {
                0.0
            }
    });
    let area = Area {
        top: 0,
        left: 2,
        height: 10,
        width: 10,
    };
    let whole = paste(&base, &edited, &mask, SCALE);
    let part = paste_part(&base, &edited.cropped(&area.scaled(SCALE)), &area, &mask, SCALE);
    let off = whole.rgb.iter().zip(&part.rgb).map(|(a, b)| a.abs_diff(*b));
    assert!(off.max().unwrap() <= 1);
    assert_ne!(part, base);
}

proptest! {
    /// Pieces hold the mask with what its drift is measured on, and leave each other alone.
    #[test]
    fn pieces_hold_the_mask(spots in prop::collection::vec((0usize..40, 0usize..30, 1usize..5), 0..6)) {
        let inside = |row: usize, column: usize| spots.iter().any(|&(top, left, side)| (top..top + side).contains(&row) && (left..left + side).contains(&column));
        let mask = Mask::from_fn(40, 30, inside);
        let pieces = pieces(&mask);
        prop_assert_eq!(pieces.is_empty(), mask.is_empty());
        let around = mask.dilated(3);
        for (row, column) in (0..40).flat_map(|row| (0..30).map(move |column| (row, column))) {
            let pixel = Area { top: row, left: column, height: 1, width: 1 };
            let holding = pieces.iter().filter(|piece| piece.meets(&pixel)).count();
            prop_assert!(holding <= 1 && (holding == 1 || !around.get(row, column)), "{} {}: {:?}", row, column, pieces);
        }
    }
}

#[test]
fn specks_far_apart_are_pieces() {
    let mask = Mask::from_fn(96, 96, |row, column| {
        row.abs_diff(10) < 3 && column.abs_diff(10) < 3 || (row, column) == (80, 90)
    });
    let found = pieces(&mask);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|piece| piece.height <= 11 && piece.width <= 11));
    let dust = Mask::from_fn(96, 96, |row, column| row % 12 == 0 && column % 12 == 0);
    assert_eq!(pieces(&dust).len(), 1);
}

#[test]
fn the_edit_itself_stays() {
    let mask = Mask::from_fn(16, 16, |row, column| {
        (4..12).contains(&row) && (4..12).contains(&column)
    });
    let base = image(16, 16, scene);
    let object = |row: usize, column: usize| (48..80).contains(&row) && (48..80).contains(&column);
    let edited = image(16, 16, |row, column, channel| {
        if object(row, column) {
            250.0
        } else {
            scene(row, column, channel) + drift(row, column)
        }
    });
    let pasted = paste(&base, &edited, &mask, SCALE);
    for row in 50..78 {
        for column in 50..78 {
            let expected = 250.0 - drift(row, column);
            let found = f32::from(pasted.rgb[(row * 128 + column) * 3]);
            assert!((found - expected).abs() <= 1.5, "{found} instead of {expected}");
        }
    }
}

#[test]
fn a_full_mask_is_the_edit() {
    let (base, edited) = (image(4, 4, scene), image(4, 4, |row, column, _| (row * column) as f32));
    assert_eq!(paste(&base, &edited, &Mask::filled(4, 4, true), SCALE), edited);
    let almost = Mask::from_fn(4, 4, |row, column| row + column > 0);
    assert_ne!(
        paste(&base, &edited, &almost, SCALE),
        edited,
        "where no drift can be measured none is taken out"
    );
}
