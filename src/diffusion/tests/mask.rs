//! The edit mask: threshold, exact size, user's masks, convergence.

use fisec_diffusion::denoise::{MaskFrom, Region};
use fisec_diffusion::mask::{
    Attention, Convergence, Difference, Findings, MapSlot, fill_holes, fit_user_mask, otsu, overlap,
};
use fisec_diffusion::{DiffusionError, Image, mask_from_png, mask_to_png};
use fisec_plan::SlotId;
use fisec_tensor::{HostTensor, Mask};
use proptest::prelude::*;

/// Otsu's criterion from its definition: variance between the classes that a threshold makes.
fn between(values: &[f64], threshold: f64) -> f64 {
    let binned = |value: &f64| ((value * 256.0).floor().min(255.0) + 0.5) / 256.0;
    let (low, high): (Vec<f64>, Vec<f64>) = values.iter().map(binned).partition(|value| *value < threshold);
    let mean = |class: &[f64]| class.iter().sum::<f64>() / class.len() as f64;
    match low.is_empty() || high.is_empty() {
        true => 0.0,
        false => low.len() as f64 * high.len() as f64 * (mean(&low) - mean(&high)).powi(2),
    }
}

proptest! {
    #[test]
    fn otsu_finds_the_best_of_all_thresholds(values in prop::collection::vec(0.0f64..=1.0, 2..200)) {
        let found = between(&values, otsu(&values));
        let best = (1..256).map(|bin| between(&values, f64::from(bin) / 256.0)).fold(0.0, f64::max);
        prop_assert!(found >= best * (1.0 - 1e-9), "{} instead of {}", found, best);
    }

    #[test]
    fn an_edit_size_is_exact_and_takes_the_largest(
        latents in prop::collection::vec(-3.0f32..3.0, 4 * 30),
        share in 0.01f64..=1.0,
    ) {
        let mut difference = Difference::new(5, 6);
        difference.add(&latents, &[0.0; 120]);
        let mask = difference.largest(share).unwrap();
        prop_assert_eq!(mask.count(), ((share * 30.0).round() as usize).max(1));
        let values = difference.normalised();
        let inside = mask.bits().iter().zip(&values).filter(|(bit, _)| **bit).map(|(_, value)| *value);
        let outside = mask.bits().iter().zip(&values).filter(|(bit, _)| !**bit).map(|(_, value)| *value);
        prop_assert!(inside.fold(f64::INFINITY, f64::min) >= outside.fold(0.0, f64::max));
    }

    #[test]
    fn a_users_mask_covers_every_white_pixel(
        bits in prop::collection::vec(prop::bool::weighted(0.1), 24 * 36),
        latent in prop::sample::select(vec![(4usize, 6usize), (6, 9), (24, 36), (48, 72)]),
    ) {
        let mask = Mask::new(24, 36, bits);
        prop_assume!(!mask.is_empty());
        let fitted = fit_user_mask(&mask, latent, (192, 288)).unwrap();
        prop_assert_eq!((fitted.height(), fitted.width()), latent);
        for row in 0..24 {
            for column in 0..36 {
                let covered = fitted.get(row * latent.0 / 24, column * latent.1 / 36);
                prop_assert!(!mask.get(row, column) || covered);
            }
        }
    }

    #[test]
    fn filling_holes_adds_small_enclosed_ones_only(bits in prop::collection::vec(prop::bool::weighted(0.6), 81)) {
        let mask = Mask::new(9, 9, bits);
        let filled = fill_holes(&mask, 3);
        prop_assert_eq!(filled.union(&mask), filled.clone());
        prop_assert_eq!(fill_holes(&filled, 3), filled.clone());
        prop_assert_eq!(fill_holes(&mask, 0), mask.clone());
        for pixel in 0..81 {
            let (row, column) = (pixel / 9, pixel % 9);
            if row == 0 || row == 8 || column == 0 || column == 8 {
                prop_assert_eq!(filled.get(row, column), mask.get(row, column));
            }
        }
    }

    #[test]
    fn masks_survive_png(bits in prop::collection::vec(any::<bool>(), 7 * 5)) {
        let mask = Mask::new(7, 5, bits);
        prop_assert_eq!(mask_from_png(&mask_to_png(&mask).unwrap()).unwrap(), mask);
    }
}

#[test]
fn a_region_that_moves_is_found_and_specks_are_not() {
    let mut difference = Difference::new(16, 16);
    for step in 0..5 {
        let moved = |index: usize| {
            let (row, column) = (index % 256 / 16, index % 16);
            let region = (4..9).contains(&row) && (6..12).contains(&column);
            let speck = (row, column) == (14, 2);
            if region || speck {
                1.0
            } else {
                0.02 * ((index + step) % 7) as f32
            }
        };
        let edited: Vec<f32> = (0..4 * 256).map(moved).collect();
        difference.add(&edited, &[0.0; 1024]);
    }
    let expected = Mask::from_fn(16, 16, |row, column| (4..9).contains(&row) && (6..12).contains(&column));
    assert_eq!(difference.mask(), expected);
}

#[test]
fn a_region_takes_in_what_moved_less_beside_it_and_nothing_that_stood_still() {
    // Otsu's threshold lies just above 0.4
    let value = |index: usize| match (index % 256 / 16, index % 16) {
        (4..8, 4..8) => 1.0,
        (4..8, 8) => 0.25,        // beside it: above half of the threshold
        (3..9, 9) => 0.1,         // the rim: above a tenth
        (12..14, 12..14) => 0.25, // elsewhere
        (14, 1) => 0.4,           // a speck
        _ => 0.0,
    };
    let mut difference = Difference::new(16, 16);
    difference.add(&(0..1024).map(value).collect::<Vec<f32>>(), &[0.0; 1024]);
    let threshold = otsu(&difference.normalised());
    assert!((0.4..0.5).contains(&threshold), "{threshold}");
    let strong = Mask::from_fn(16, 16, |row, column| (4..8).contains(&row) && (4..8).contains(&column));
    assert_eq!(difference.mask(), strong);
    assert_eq!(difference.region(0), strong);
    let whole = Mask::from_fn(16, 16, |row, column| match column {
        4..9 => (4..8).contains(&row),
        9 => (3..9).contains(&row),
        _ => false,
    });
    assert_eq!(difference.region(1), whole);
}

#[test]
fn no_difference_is_an_empty_mask() {
    let mut difference = Difference::new(4, 4);
    difference.add(&[1.0; 32], &[1.0; 32]);
    assert!(difference.mask().is_empty());
    assert!(difference.largest(0.5).unwrap().is_empty());
    difference.add(&[2.0; 32], &[1.0; 32]);
    assert!(difference.mask().is_empty(), "everything moved by the same amount");
    for share in [0.0, -0.1, 1.1, f64::NAN] {
        assert!(matches!(difference.largest(share), Err(DiffusionError::EditSize(_))));
    }
}

#[test]
fn unusable_masks_are_refused() {
    let white = Mask::filled(64, 64, true);
    let error = fit_user_mask(&white, (64, 96), (512, 768)).unwrap_err();
    assert_eq!(error.to_string(), "the mask is 64x64, the image 768x512");
    assert!(error.hint().unwrap().contains("aspect"));
    let black = Mask::filled(64, 64, false);
    assert!(matches!(
        fit_user_mask(&black, (64, 64), (512, 512)),
        Err(DiffusionError::MaskEmpty)
    ));
    assert!(fit_user_mask(&Mask::filled(100, 99, true), (64, 64), (512, 512)).is_ok());
    assert!(matches!(mask_from_png(b"GIF89a"), Err(DiffusionError::MaskImage(_))));
    let mut png = mask_to_png(&white).unwrap();
    png.truncate(png.len() / 2);
    assert!(mask_from_png(&png).is_err());
}

#[test]
fn colour_and_transparency_of_a_mask_count() {
    let image = Image {
        width: 2,
        height: 1,
        rgb: vec![255, 255, 255, 255, 0, 0],
    };
    let mask = mask_from_png(&image.to_png(&[("parameters", "größe")]).unwrap()).unwrap();
    assert_eq!(mask.bits(), [true, false]);
    assert_eq!(Image::from_png(&image.to_png(&[]).unwrap()).unwrap(), image);
}

#[test]
fn a_hole_is_filled_up_to_its_size() {
    let ring = Mask::from_fn(9, 9, |row, column| {
        let inner = (3..6).contains(&row) && (3..5).contains(&column);
        (2..7).contains(&row) && (2..7).contains(&column) && !inner
    });
    assert_eq!(fill_holes(&ring, 5), ring);
    let filled = fill_holes(&ring, 6);
    assert_eq!(
        filled,
        Mask::from_fn(9, 9, |row, column| (2..7).contains(&row) && (2..7).contains(&column))
    );
}

fn disc(radius: usize) -> Mask {
    Mask::from_fn(32, 32, |row, column| {
        row.abs_diff(16).pow(2) + column.abs_diff(16).pow(2) <= radius * radius
    })
}

#[test]
fn overlap_is_intersection_over_union() {
    assert_eq!(overlap(&disc(5), &disc(5)), 1.0);
    assert_eq!(overlap(&disc(0), &Mask::filled(32, 32, false)), 0.0);
    assert_eq!(overlap(&Mask::filled(2, 2, false), &Mask::filled(2, 2, false)), 1.0);
    let (left, right) = (
        Mask::new(1, 4, vec![true, true, true, false]),
        Mask::new(1, 4, vec![false, true, true, true]),
    );
    assert_eq!(overlap(&left, &right), 0.5);
}

fn steps_until_done(calls: usize, mask: impl Fn(usize) -> Mask) -> usize {
    let mut convergence = Convergence::new(calls);
    (1..).find(|&step| convergence.is_done(mask(step))).unwrap()
}

#[test]
fn convergence_needs_two_agreements_in_a_row() {
    assert_eq!(
        steps_until_done(50, |_| disc(9)),
        5,
        "no sooner than a tenth of the schedule"
    );
    assert_eq!(steps_until_done(20, |_| disc(9)), 3, "nor than three steps");
    assert_eq!(steps_until_done(50, |step| disc([2, 9, 9, 4, 9, 9, 9][step - 1])), 7);
    assert_eq!(steps_until_done(50, disc), 10, "a mask that keeps growing is cut off");
    assert_eq!(steps_until_done(24, disc), 5);
    assert_eq!(steps_until_done(4, disc), 1);
    assert_eq!(steps_until_done(1, |_| disc(3)), 1);
}

/// Maps of two heads on a 4×4 level: token 1 is looked at in one pixel, the others everywhere alike.
fn maps(row: usize, column: usize) -> HostTensor {
    let place = |index: usize| (index / 3 % 16, index % 3);
    let value = |index: usize| match place(index) {
        (pixel, 1) => f32::from(u8::from(pixel == row * 4 + column)),
        _ => 0.5,
    };
    HostTensor::from_f32([2, 16, 3], (0..2 * 16 * 3).map(value).collect())
}

#[test]
fn attention_shows_where_a_word_is() {
    let level = |height: usize, width: usize| MapSlot {
        slot: SlotId(0),
        height,
        width,
    };
    let mut attention = Attention::new(8, 8);
    attention.add(&level(4, 4), &maps(1, 2), &[1]);
    let values = attention.normalised();
    let most = (0..64).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
    assert!([2, 3].contains(&(most / 8)) && [4, 5].contains(&(most % 8)), "{most}");
    let mask = attention.mask();
    assert!(
        mask.get(2, 4) && mask.get(3, 5) && mask.count() <= 16,
        "{}",
        mask.count()
    );
    let before = attention.normalised();
    attention.add(&level(8, 8), &HostTensor::from_f32([1, 64, 3], vec![1.0; 192]), &[1]);
    attention.add(&level(1, 1), &HostTensor::from_f32([1, 1, 3], vec![1.0; 3]), &[1]);
    assert_eq!(attention.normalised(), before, "only half and quarter resolution count");
    attention.add(&level(4, 4), &maps(1, 2), &[7]);
    assert_eq!(
        attention.normalised(),
        before,
        "tokens that the maps lack are not looked at"
    );
}

#[test]
fn words_that_nobody_looks_at_make_no_mask() {
    assert!(Attention::new(8, 8).mask().is_empty());
    let findings = Findings::new(8, 8, MaskFrom::Attention);
    assert!(findings.region(&Region::Changed { grow: 1 }).unwrap().is_empty());
}

#[test]
fn either_signal_finds_its_part_of_a_region() {
    let mut findings = Findings::new(8, 8, MaskFrom::Both);
    let moved: Vec<f32> = (0..64)
        .map(|at| f32::from(u8::from(at / 8 >= 6 && at % 8 >= 6)))
        .collect();
    findings.difference.add(&moved, &[0.0; 64]);
    let slot = MapSlot {
        slot: SlotId(0),
        height: 4,
        width: 4,
    };
    findings.attention.add(&slot, &maps(0, 0), &[1]);
    let region = findings.region(&Region::Changed { grow: 0 }).unwrap();
    assert!(region.get(7, 7) && region.get(0, 0) && !region.get(4, 4));
    let quarter = findings.region(&Region::Share(0.25)).unwrap();
    assert_eq!(quarter.count(), 16);
    assert!(quarter.get(7, 7) && quarter.get(0, 0));
}
