//! Linear layers against plain sums in f64.

use fisec_kernels::cpu::{LayerNorm, Linear, Map, Residual, linear};
use fisec_tensor::{ActiveSet, Mask};
use proptest::prelude::*;

use crate::data::{Numbers, pack, worst};

fn erf(x: f64) -> f64 {
    // Maclaurin series; arguments here stay below 6
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu(x: f64) -> f64 {
    if x.abs() > 5.5 {
        return if x > 0.0 { x } else { 0.0 };
    }
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

fn check(rows: usize, inner: usize, columns: usize, norm: bool, geglu: bool, residual: Option<bool>, seed: u64) -> f64 {
    let mut numbers = Numbers::new(seed);
    let images = 2;
    let input = numbers.vector(images * rows * inner);
    let weight = numbers.vector(inner * columns * if geglu { 2 } else { 1 });
    let width = weight.len() / inner;
    let (bias, gamma, beta) = (numbers.vector(width), numbers.vector(inner), numbers.vector(inner));
    let mask = Mask::from_fn(1, 2 * rows, |_, x| x % 2 == 1);
    let active = ActiveSet::new(mask);
    let whole = numbers.vector(images * 2 * rows * columns);
    let packed = pack(&whole, images, columns, &active);
    let call = Linear {
        input: &input,
        images,
        layer_norm: norm.then_some(LayerNorm {
            gamma: &gamma,
            beta: &beta,
            epsilon: 1e-5,
        }),
        weight: &weight,
        columns: width,
        bias: Some(&bias),
        geglu,
        residual: residual.map(|full| {
            if full {
                Residual {
                    map: Map::full(&whole, 2 * rows, columns),
                    pixels: Some(active.pixels()),
                }
            } else {
                Residual {
                    map: Map::full(&packed, rows, columns),
                    pixels: None,
                }
            }
        }),
    };
    let mut output = vec![f32::NAN; images * rows * columns];
    linear(&call, &mut output);

    let mut expected = Vec::new();
    for row in 0..images * rows {
        let mut values: Vec<f64> = input[row * inner..(row + 1) * inner]
            .iter()
            .map(|&x| f64::from(x))
            .collect();
        if norm {
            let mean = values.iter().sum::<f64>() / inner as f64;
            let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / inner as f64;
            for (channel, value) in values.iter_mut().enumerate() {
                *value =
                    (*value - mean) / (variance + 1e-5).sqrt() * f64::from(gamma[channel]) + f64::from(beta[channel]);
            }
        }
        let product = |column: usize| {
            let terms = values
                .iter()
                .enumerate()
                .map(|(i, x)| x * f64::from(weight[i * width + column]));
            terms.sum::<f64>() + f64::from(bias[column])
        };
        for column in 0..columns {
            let value = if geglu {
                product(column) * gelu(product(column + columns))
            } else {
                product(column)
            };
            let added = residual.map_or(0.0, |_| f64::from(packed[row * columns + column]));
            expected.push(value + added);
        }
    }
    worst(&output, &expected)
}

proptest! {
    #[test]
    fn matches_plain_sums(
        (rows, inner, columns) in (0usize..20, 2usize..40, 1usize..30),
        norm: bool, geglu: bool, residual: Option<bool>, seed: u64,
    ) {
        // a row of two equal values divides rounding errors by sqrt(epsilon)
        let tolerance = if norm { 2e-4 } else { 2e-5 };
        prop_assert!(check(rows, inner, columns, norm, geglu, residual, seed) < tolerance);
    }
}

#[test]
fn parallel_schedules_agree_with_plain_sums() {
    for (rows, inner, columns, norm, geglu) in [
        (300, 64, 96, true, true),
        (90, 700, 500, true, false),
        (300, 64, 64, false, false),
    ] {
        assert!(check(rows, inner, columns, norm, geglu, Some(true), 3) < 3e-4);
    }
}
