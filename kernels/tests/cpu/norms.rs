//! Group norm statistics and coefficients, layer norm.

use fisec_kernels::cpu::{
    GroupNormUpdate, LayerNorm, Map, RecordedRows, affine, group_norm_stats, layer_norm, norm_coefficients,
    update_group_norm_stats,
};
use fisec_tensor::ActiveSet;
use proptest::prelude::*;

use crate::data::{Numbers, mask, merged, pack, worst};

fn stats(map: &[f32], images: usize, channels: usize, groups: usize) -> Vec<f64> {
    let pixels = map.len() / images / channels;
    let width = channels / groups;
    let mut stats = Vec::new();
    for image in 0..images {
        for group in 0..groups {
            let values: Vec<f64> = (0..pixels)
                .flat_map(|pixel| (0..width).map(move |c| (image * pixels + pixel) * channels + group * width + c))
                .map(|index| f64::from(map[index]))
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            stats.push(mean);
            stats.push(values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / values.len() as f64);
        }
    }
    stats
}

proptest! {
    #[test]
    fn statistics_of_the_merged_map(
        (mask, groups, width, images, seed) in (1usize..40, 1usize..40)
            .prop_flat_map(|(h, w)| (mask(h, w), 1usize..4, 1usize..4, 1usize..3, any::<u64>()))
    ) {
        let mut numbers = Numbers::new(seed);
        let channels = groups * width;
        let active = ActiveSet::new(mask.clone());
        let length = images * mask.bits().len() * channels;
        // far from zero: squares cancel badly in f32
        let fresh: Vec<f32> = numbers.vector(length).iter().map(|x| x + 20.0).collect();
        let recorded: Vec<f32> = numbers.vector(length).iter().map(|x| x * 2.0 + 20.0).collect();
        let rows = pack(&fresh, images, channels, &active);
        let expected = stats(&merged(&fresh, &recorded, images, channels, &mask), images, channels, groups);

        let map = Map::packed(&rows, active.ranks(), channels, Some(RecordedRows::F32(&recorded)));
        let mut whole = vec![f32::NAN; images * groups * 2];
        group_norm_stats(&map, images, groups, &mut whole);
        prop_assert!(worst(&whole, &expected) < 1e-5);

        let mut recorded_stats = vec![f32::NAN; images * groups * 2];
        group_norm_stats(&Map::full(&recorded, mask.bits().len(), channels), images, groups, &mut recorded_stats);
        let mut updated = vec![f32::NAN; images * groups * 2];
        let update = GroupNormUpdate {
            images, groups, channels,
            pixels: mask.bits().len(),
            fresh: &rows,
            active: active.pixels(),
            recorded: RecordedRows::F32(&recorded),
            recorded_stats: &recorded_stats,
        };
        update_group_norm_stats(&update, &mut updated);
        // the recorded mean of 20 was rounded to f32: its square is off by 20 * 2^-19
        prop_assert!(worst(&updated, &expected) < 2e-4, "{updated:?} {expected:?}");
    }

    #[test]
    fn layer_norm_of_every_row((rows, channels, seed) in (0usize..20, 2usize..70, any::<u64>())) {
        let mut numbers = Numbers::new(seed);
        let input = numbers.vector(rows * channels);
        let (gamma, beta) = (numbers.vector(channels), numbers.vector(channels));
        let mut output = vec![f32::NAN; input.len()];
        layer_norm(&LayerNorm { gamma: &gamma, beta: &beta, epsilon: 1e-3 }, &input, &mut output);
        let expected: Vec<f64> = input
            .chunks(channels)
            .flat_map(|row| {
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / channels as f64;
                let variance =
                    row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / channels as f64;
                let factor = 1.0 / (variance + 1e-3).sqrt();
                let affine = gamma.iter().zip(&beta);
                row.iter()
                    .zip(affine)
                    .map(|(&x, (&g, &b))| (f64::from(x) - mean) * factor * f64::from(g) + f64::from(b))
                    .collect::<Vec<_>>()
            })
            .collect();
        prop_assert!(worst(&output, &expected) < 2e-5);
    }
}

#[test]
fn coefficients_normalise_every_group() {
    let mut numbers = Numbers::new(5);
    let (images, pixels, groups, width) = (2, 50, 3, 2);
    let channels = groups * width;
    let input: Vec<f32> = numbers
        .vector(images * pixels * channels)
        .iter()
        .map(|x| x * 3.0 + 1.0)
        .collect();
    let mut measured = vec![0.0; images * groups * 2];
    group_norm_stats(&Map::full(&input, pixels, channels), images, groups, &mut measured);
    let mut coefficients = vec![f32::NAN; images * 2 * channels];
    norm_coefficients(&measured, &[1.0; 6], &[0.0; 6], groups, 0.0, &mut coefficients);
    let mut normalised = vec![f32::NAN; input.len()];
    affine(&input, &coefficients, images, false, &mut normalised);
    let again = stats(&normalised, images, channels, groups);
    for pair in again.chunks(2) {
        assert!(pair[0].abs() < 1e-6 && (pair[1] - 1.0).abs() < 1e-5, "{pair:?}");
    }
}
