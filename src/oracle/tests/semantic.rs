//! Every semantic operator against a formula over indices, written down independently of the oracle's loops.

mod common;

use common::*;
use fisec_oracle::Tensor;

fn silu(x: f64) -> f64 {
    x / (1.0 + f64::exp(-x))
}

/// Exact GELU by integrating the normal density: Simpson's rule.
fn gelu(x: f64) -> f64 {
    let steps = 2000;
    let h = x / f64::from(steps);
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let weight = |i: i32| {
        if i == 0 || i == steps {
            1.0
        } else if i % 2 == 1 {
            4.0
        } else {
            2.0
        }
    };
    let integral: f64 = (0..=steps).map(|i| weight(i) * density(h * f64::from(i))).sum::<f64>() * h / 3.0;
    x * (0.5 + integral)
}

/// Zero outside the image.
fn padded(x: &Tensor, n: usize, c: usize, y: i64, x_at: i64) -> f64 {
    let inside = y >= 0 && x_at >= 0 && (y as usize) < x.shape[2] && (x_at as usize) < x.shape[3];
    if inside {
        at(x, &[n, c, y as usize, x_at as usize])
    } else {
        0.0
    }
}

#[test]
fn conv_is_the_sum_over_channels_and_taps() {
    for (kernel, stride, pads, out) in [
        ([3, 3], [1, 1], [1, 1, 1, 1], [5, 7]),
        ([3, 3], [2, 2], [1, 1, 1, 1], [3, 4]),
        ([1, 1], [1, 1], [0, 0, 0, 0], [5, 7]),
        ([3, 3], [2, 2], [0, 0, 1, 1], [2, 3]),
        ([3, 1], [1, 2], [2, 0, 0, 3], [5, 5]),
        ([5, 5], [1, 1], [4, 4, 4, 4], [9, 11]),
    ] {
        let (x, w, b) = (
            noise(&[2, 3, 5, 7], 1),
            noise(&[4, 3, kernel[0], kernel[1]], 2),
            noise(&[4], 3),
        );
        let line = format!(
            "conv %a, %b, %c, kernel={}x{} stride={}x{} pad=[{}, {}, {}, {}] bias : f64[2,4,{},{}]",
            kernel[0], kernel[1], stride[0], stride[1], pads[0], pads[1], pads[2], pads[3], out[0], out[1]
        );
        let expected = tensor(&[2, 4, out[0], out[1]], |i| {
            let mut sum = b.data[i[1]];
            for c in 0..3 {
                for ky in 0..kernel[0] {
                    for kx in 0..kernel[1] {
                        let y = (i[2] * stride[0] + ky) as i64 - pads[0];
                        let x_at = (i[3] * stride[1] + kx) as i64 - pads[1];
                        sum += at(&w, &[i[1], c, ky, kx]) * padded(&x, i[0], c, y, x_at);
                    }
                }
            }
            sum
        });
        close(&apply(&line, &[&x, &w, &b]), &expected);
    }
}

#[test]
fn fused_conv_is_its_parts() {
    let (x, x2) = (noise(&[2, 2, 3, 4], 1), noise(&[2, 1, 3, 4], 2));
    let (w, b, k) = (noise(&[4, 3, 3, 3], 3), noise(&[4], 4), noise(&[2, 2, 3], 5));
    let (v, r) = (noise(&[2, 4], 6), noise(&[2, 4, 5, 8], 7));
    let fused = apply(
        "conv %a, %b, %c, %d, %e, %f, %g, kernel=3x3 pad=1 upsample=5x8 concat bias affine activation=silu vector \
         residual : f64[2,4,5,8]",
        &[&x, &x2, &w, &b, &k, &v, &r],
    );
    let cat = apply("concat %a, %b, axis=1 : f64[2,3,3,4]", &[&x, &x2]);
    let affine = tensor(&[2, 3, 3, 4], |i| {
        at(&cat, i) * at(&k, &[i[0], 0, i[1]]) + at(&k, &[i[0], 1, i[1]])
    });
    let active = tensor(&[2, 3, 3, 4], |i| silu(at(&affine, i)));
    let up = tensor(&[2, 3, 5, 8], |i| {
        at(&active, &[i[0], i[1], i[2] * 3 / 5, i[3] * 4 / 8])
    });
    let y = apply("conv %a, %b, %c, kernel=3x3 pad=1 bias : f64[2,4,5,8]", &[&up, &w, &b]);
    let expected = tensor(&[2, 4, 5, 8], |i| at(&y, i) + at(&v, &i[..2]) + at(&r, i));
    close(&fused, &expected);
}

#[test]
fn group_norm_and_its_parts() {
    let (x, gamma, beta) = (noise(&[2, 6, 3, 5], 1), noise(&[6], 2), noise(&[6], 3));
    let member = |n: usize, g: usize| (0..45).map(move |i| [n, 3 * g + i / 15, i / 5 % 3, i % 5]);
    let mean = |n, g| member(n, g).map(|i| at(&x, &i)).sum::<f64>() / 45.0;
    let mean_square = |n, g| member(n, g).map(|i| at(&x, &i).powi(2)).sum::<f64>() / 45.0;
    let expected_stats = tensor(&[2, 2, 2], |i| match i[2] {
        0 => mean(i[0], i[1]),
        _ => mean_square(i[0], i[1]) - mean(i[0], i[1]).powi(2),
    });
    let stats = apply("group_norm_stats %a, groups=2 : f32[2,2,2]", &[&x]);
    close(&stats, &expected_stats);
    let k = apply(
        "norm_coefficients %a, %b, %c, groups=2 epsilon=1e-3 : f32[2,2,6]",
        &[&stats, &gamma, &beta],
    );
    let expected_k = tensor(&[2, 2, 6], |i| {
        let (n, c, g) = (i[0], i[2], i[2] / 3);
        let scale = gamma.data[c] / (at(&expected_stats, &[n, g, 1]) + 1e-3).sqrt();
        if i[1] == 0 {
            scale
        } else {
            beta.data[c] - mean(n, g) * scale
        }
    });
    close(&k, &expected_k);
    let expected = tensor(&[2, 6, 3, 5], |i| {
        let (n, c, g) = (i[0], i[1], i[1] / 3);
        let normal = (at(&x, i) - mean(n, g)) / (at(&expected_stats, &[n, g, 1]) + 1e-3).sqrt();
        silu(normal * gamma.data[c] + beta.data[c])
    });
    close(
        &apply("affine %a, %b, activation=silu : f64[2,6,3,5]", &[&x, &k]),
        &expected,
    );
    let line = "group_norm %a, %b, %c, groups=2 epsilon=1e-3 activation=silu : f64[2,6,3,5]";
    close(&apply(line, &[&x, &gamma, &beta]), &expected);
}

#[test]
fn layer_norm_is_over_the_last_axis() {
    let (x, gamma, beta) = (noise(&[2, 3, 8], 1), noise(&[8], 2), noise(&[8], 3));
    let expected = tensor(&[2, 3, 8], |i| {
        let row: Vec<f64> = (0..8).map(|c| at(&x, &[i[0], i[1], c])).collect();
        let mean = row.iter().sum::<f64>() / 8.0;
        let variance = row.iter().map(|v| v * v).sum::<f64>() / 8.0 - mean * mean;
        (at(&x, i) - mean) / (variance + 1e-5).sqrt() * gamma.data[i[2]] + beta.data[i[2]]
    });
    close(
        &apply("layer_norm %a, %b, %c, epsilon=1e-5 : f64[2,3,8]", &[&x, &gamma, &beta]),
        &expected,
    );
}

#[test]
fn linear_and_what_is_fused_into_it() {
    let (x, w, b, r) = (
        noise(&[2, 3, 4], 1),
        noise(&[4, 10], 2),
        noise(&[10], 3),
        noise(&[2, 3, 5], 4),
    );
    let product = tensor(&[2, 3, 10], |i| {
        (0..4)
            .map(|k| at(&x, &[i[0], i[1], k]) * at(&w, &[k, i[2]]))
            .sum::<f64>()
            + b.data[i[2]]
    });
    close(&apply("linear %a, %b, %c, bias : f64[2,3,10]", &[&x, &w, &b]), &product);
    let gated = tensor(&[2, 3, 5], |i| {
        at(&product, i) * gelu(at(&product, &[i[0], i[1], i[2] + 5])) + at(&r, i)
    });
    let fused = apply(
        "linear %a, %b, %c, %d, bias geglu residual : f64[2,3,5]",
        &[&x, &w, &b, &r],
    );
    assert!(fisec_oracle::difference(&fused, &gated).unwrap().relative < 1e-11);
    let (gamma, beta) = (noise(&[4], 5), noise(&[4], 6));
    let normal = apply("layer_norm %a, %b, %c, epsilon=1e-5 : f64[2,3,4]", &[&x, &gamma, &beta]);
    close(
        &apply(
            "linear %a, %b, %c, %d, %e, bias layer_norm=1e-5 : f64[2,3,10]",
            &[&x, &w, &b, &gamma, &beta],
        ),
        &apply("linear %a, %b, %c, bias : f64[2,3,10]", &[&normal, &w, &b]),
    );
}

/// Probabilities `[N, heads, L, S]` by the formula.
fn probabilities(q: &Tensor, k: &Tensor, heads: usize, scale: f64) -> Tensor {
    let depth = q.shape[2] / heads;
    let score = |n: usize, h: usize, l: usize, s: usize| {
        let dot: f64 = (0..depth)
            .map(|d| at(q, &[n, l, h * depth + d]) * at(k, &[n, s, h * depth + d]))
            .sum();
        (scale * dot).exp()
    };
    tensor(&[q.shape[0], heads, q.shape[1], k.shape[1]], |i| {
        score(i[0], i[1], i[2], i[3]) / (0..k.shape[1]).map(|s| score(i[0], i[1], i[2], s)).sum::<f64>()
    })
}

fn weighed(p: &Tensor, v: &Tensor, heads: usize) -> Tensor {
    let depth = v.shape[2] / heads;
    tensor(&[p.shape[0], p.shape[2], v.shape[2]], |i| {
        (0..v.shape[1])
            .map(|s| at(p, &[i[0], i[2] / depth, i[1], s]) * at(v, &[i[0], s, i[2]]))
            .sum()
    })
}

#[test]
fn attention_is_softmax_of_scores_times_values() {
    let (q, k, v) = (noise(&[2, 5, 6], 1), noise(&[2, 4, 6], 2), noise(&[2, 4, 6], 3));
    let p = probabilities(&q, &k, 3, 0.7);
    close(
        &apply("attention_maps %a, %b, heads=3 scale=0.7 : f32[3,5,4]", &[&q, &k]),
        &tensor(&[3, 5, 4], |i| at(&p, &[1, i[0], i[1], i[2]])),
    );
    close(
        &apply("attention %a, %b, %c, heads=3 scale=0.7 : f64[2,5,6]", &[&q, &k, &v]),
        &weighed(&p, &v, 3),
    );
}

#[test]
fn control_steers_the_conditional_half_only() {
    let (q, k, v) = (noise(&[2, 5, 6], 1), noise(&[2, 4, 6], 2), noise(&[2, 4, 6], 3));
    let (recorded, mapper) = (noise(&[3, 5, 4], 4), noise(&[4, 4], 5));
    let (blend, weight) = (noise(&[4], 6), noise(&[4], 7));
    let plain = probabilities(&q, &k, 3, 0.5);
    let steered = tensor(&[2, 3, 5, 4], |i| {
        let own = at(&plain, i);
        let mapped: f64 = (0..4)
            .map(|old| at(&recorded, &[i[1], i[2], old]) * at(&mapper, &[old, i[3]]))
            .sum();
        let mixed = blend.data[i[3]] * mapped + (1.0 - blend.data[i[3]]) * own;
        if i[0] == 0 { own } else { mixed * weight.data[i[3]] }
    });
    let found = apply(
        "attention %a, %b, %c, %d, %e, %f, %g, heads=3 scale=0.5 control : f64[2,5,6]",
        &[&q, &k, &v, &recorded, &mapper, &blend, &weight],
    );
    close(&found, &weighed(&steered, &v, 3));
}

#[test]
fn shapes_and_elements() {
    let x = noise(&[2, 3, 4, 5], 1);
    close(
        &apply("tokens %a : f64[2,20,3]", &[&x]),
        &tensor(&[2, 20, 3], |i| at(&x, &[i[0], i[2], i[1] / 5, i[1] % 5])),
    );
    let t = noise(&[2, 20, 3], 2);
    close(
        &apply("spatial %a, size=4x5 : f64[2,3,4,5]", &[&t]),
        &tensor(&[2, 3, 4, 5], |i| at(&t, &[i[0], i[2] * 5 + i[3], i[1]])),
    );
    close(
        &apply("upsample %a, size=7x11 : f64[2,3,7,11]", &[&x]),
        &tensor(&[2, 3, 7, 11], |i| at(&x, &[i[0], i[1], i[2] * 4 / 7, i[3] * 5 / 11])),
    );
    let row = noise(&[3, 1, 5], 3);
    close(
        &apply("add %a, %b : f64[2,3,4,5]", &[&x, &row]),
        &tensor(&[2, 3, 4, 5], |i| at(&x, i) + at(&row, &[i[1], 0, i[3]])),
    );
    let vector = noise(&[2, 3], 4);
    close(
        &apply("add_vector %a, %b : f64[2,3,4,5]", &[&x, &vector]),
        &tensor(&[2, 3, 4, 5], |i| at(&x, i) + at(&vector, &i[..2])),
    );
    let y = noise(&[2, 1, 4, 5], 5);
    close(
        &apply("concat %a, %b, %a, axis=1 : f64[2,7,4,5]", &[&x, &y]),
        &tensor(&[2, 7, 4, 5], |i| match i[1] {
            3 => at(&y, &[i[0], 0, i[2], i[3]]),
            c => at(&x, &[i[0], if c < 3 { c } else { c - 4 }, i[2], i[3]]),
        }),
    );
}

#[test]
fn activations() {
    let x = Tensor::new([5], vec![-6.0, -0.5, 0.0, 0.3, 4.0]);
    let mapped = |function: fn(f64) -> f64| tensor(&[5], |i| function(x.data[i[0]]));
    close(&apply("activate %a, function=silu : f64[5]", &[&x]), &mapped(silu));
    close(
        &apply("activate %a, function=quick_gelu : f64[5]", &[&x]),
        &mapped(|v| v / (1.0 + f64::exp(-1.702 * v))),
    );
    let apart = fisec_oracle::difference(&apply("activate %a, function=gelu : f64[5]", &[&x]), &mapped(gelu)).unwrap();
    assert!(apart.absolute < 1e-10, "{apart:?}");
    let halves = noise(&[3, 6], 1);
    let gated = tensor(&[3, 3], |i| at(&halves, i) * gelu(at(&halves, &[i[0], i[1] + 3])));
    let apart = fisec_oracle::difference(&apply("geglu %a : f64[3,3]", &[&halves]), &gated).unwrap();
    assert!(apart.absolute < 1e-10, "{apart:?}");
}

#[test]
fn timestep_embedding_has_sines_and_cosines() {
    let t = Tensor::new([2], vec![0.0, 981.0]);
    let frequency = |i: usize, shift: f64| 10000f64.powf(-(i as f64) / (4.0 - shift));
    let expected = tensor(&[2, 8], |i| {
        let angle = t.data[i[0]] * frequency(i[1] % 4, 0.0);
        if i[1] < 4 { angle.cos() } else { angle.sin() }
    });
    let line = "timestep_embedding %a, rows=2 width=8 flip shift=0.0 max_period=10000.0 : f32[2,8]";
    let apart = fisec_oracle::difference(&apply(line, &[&t]), &expected).unwrap();
    assert!(apart.absolute < 1e-10, "{apart:?}");
    let expected = tensor(&[2, 8], |i| {
        let angle = t.data[i[0]] * frequency(i[1] % 4, 1.0);
        if i[1] < 4 { angle.sin() } else { angle.cos() }
    });
    let line = "timestep_embedding %a, rows=2 width=8 shift=1.0 max_period=10000.0 : f32[2,8]";
    let apart = fisec_oracle::difference(&apply(line, &[&t]), &expected).unwrap();
    assert!(apart.absolute < 1e-10, "{apart:?}");
}

#[test]
fn one_timestep_serves_every_row() {
    let t = Tensor::new([0usize; 0], vec![981.0]);
    let both = Tensor::new([2], vec![981.0; 2]);
    let line = "timestep_embedding %a, rows=2 width=8 flip shift=0.0 max_period=10000.0 : f32[2,8]";
    close(&apply(line, &[&t]), &apply(line, &[&both]));
}

#[test]
fn data_that_do_not_fit_are_named() {
    let g = graph("graph g\n%0 = input \"x\" : f32[2]\noutput %0, \"y\"\n");
    let missing = try_run(&g, &[], &[], &[]).unwrap_err().to_string();
    assert!(missing.contains("no data is given for input `x`"), "{missing}");
    let wrong = try_run(&g, &[("x", &noise(&[3], 1))], &[], &[])
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("the data have shape [3], declared is [2]"), "{wrong}");
}
