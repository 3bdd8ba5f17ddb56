//! Attention against the definition in f64.

use fisec_kernels::cpu::{Attention, attention};
use proptest::prelude::*;

use crate::data::{Numbers, worst};

fn check(images: usize, heads: usize, width: usize, queries: usize, keys: usize, range: f32, seed: u64) -> f64 {
    let mut numbers = Numbers::new(seed);
    let channels = heads * width;
    let q: Vec<f32> = numbers
        .vector(images * queries * channels)
        .iter()
        .map(|x| x * range)
        .collect();
    let k = numbers.vector(images * keys * channels);
    let v = numbers.vector(images * keys * channels);
    let scale = 1.0 / (width as f32).sqrt();
    let call = Attention {
        images,
        heads,
        channels,
        q: &q,
        k: &k,
        v: &v,
        scale,
    };
    let mut output = vec![f32::NAN; q.len()];
    attention(&call, &mut output);

    let at = |values: &[f32], per_image: usize, image: usize, row: usize, column: usize| {
        f64::from(values[(image * per_image + row) * channels + column])
    };
    let mut expected = vec![0.0; q.len()];
    for (image, head, query) in
        (0..images).flat_map(|i| (0..heads).flat_map(move |h| (0..queries).map(move |q| (i, h, q))))
    {
        let columns = head * width..(head + 1) * width;
        let scores: Vec<f64> = (0..keys)
            .map(|key| {
                let terms = columns
                    .clone()
                    .map(|c| at(&q, queries, image, query, c) * at(&k, keys, image, key, c));
                terms.sum::<f64>() * f64::from(scale)
            })
            .collect();
        let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
        let total: f64 = weights.iter().sum();
        for column in columns {
            let sum: f64 = (0..keys)
                .map(|key| weights[key] * at(&v, keys, image, key, column))
                .sum();
            expected[(image * queries + query) * channels + column] = sum / total;
        }
    }
    worst(&output, &expected)
}

proptest! {
    #[test]
    fn matches_the_definition(
        (images, heads, width) in (1usize..3, 1usize..4, 1usize..20),
        (queries, keys) in (0usize..40, 1usize..60),
        seed: u64,
    ) {
        prop_assert!(check(images, heads, width, queries, keys, 3.0, seed) < 1e-5);
    }
}

#[test]
fn many_blocks_of_keys_and_queries_agree_with_the_definition() {
    assert!(check(2, 1, 64, 600, 1300, 1.0, 1) < 1e-5);
    // large scores: the running maximum must keep the exponentials finite
    assert!(check(1, 2, 8, 20, 1100, 200.0, 2) < 1e-4);
}

#[test]
fn no_keys_give_zero() {
    let q = [1.0f32; 8];
    let call = Attention {
        images: 1,
        heads: 1,
        channels: 4,
        q: &q,
        k: &[],
        v: &[],
        scale: 1.0,
    };
    let mut output = [f32::NAN; 8];
    attention(&call, &mut output);
    assert_eq!(output, [0.0; 8]);
}
