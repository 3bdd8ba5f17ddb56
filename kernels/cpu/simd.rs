//! Vectorised elementary functions: plain loops compiled once per instruction set, chosen at run time.

/// Defines a function whose body is compiled for AVX-512, for AVX2 and for the target's baseline. In the body the
/// constant `FMA` says whether there is a fused multiply-add, see [`multiply_add`].
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn with_avx512($($arg: $ty),*) $(-> $ret)? {
                    portable::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn with_avx2($($arg: $ty),*) $(-> $ret)? {
                    portable::<true>($($arg),*)
                }
                if $crate::cpu::simd::has_avx512() {
                    // SAFETY: the features were detected.
                    return unsafe { with_avx512($($arg),*) };
                }
                if $crate::cpu::simd::has_avx2() {
                    // SAFETY: the features were detected.
                    return unsafe { with_avx2($($arg),*) };
                }
            }
            portable::<false>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && has_avx2()
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Independent partial results per reduction: one AVX-512 register.
pub(crate) const LANES: usize = 16;

/// `a * b + c`, in one instruction where there is one; without it `f32::mul_add` would call a slow function.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x`, relative error below 3e-7 for `-87 <= x <= 88`; clamped outside.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let power = rounded - ROUND;
    let rest = multiply_add::<FMA>(power, -LN2_LOW, multiply_add::<FMA>(power, -LN2_HIGH, x));
    // Taylor series: |rest| <= ln(2) / 2 leaves less than 1e-8.
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = multiply_add::<FMA>(series, rest, coefficient);
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    series * f32::from_bits(exponent << 23)
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu_of<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

/// `erf(x)`, absolute error below 5e-7: Abramowitz and Stegun, formula 7.1.26 (1.5e-7) in f32 arithmetic.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let mut series = 1.061_405_4_f32;
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        series = multiply_add::<FMA>(series, t, coefficient);
    }
    (1.0 - series * t * exp::<FMA>(-magnitude * magnitude)).copysign(x)
}

/// `x * Φ(x)`, the exact GELU.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

vectorised! {
    /// Largest element, negative infinity for none.
    pub(crate) fn largest(values: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for (lane, &value) in lanes.iter_mut().zip(block) {
                *lane = if value > *lane { value } else { *lane };
            }
        }
        lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
    }
}

vectorised! {
    /// Replaces every `x` by `e^(x * scale - offset)` and returns the sum.
    pub(crate) fn exponentials(values: &mut [f32], scale: f32, offset: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (blocks, rest) = values.as_chunks_mut::<LANES>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *value = exp::<FMA>(multiply_add::<FMA>(*value, scale, -offset));
                *lane += *value;
            }
        }
        let mut total: f32 = lanes.iter().sum();
        for value in rest {
            *value = exp::<FMA>(multiply_add::<FMA>(*value, scale, -offset));
            total += *value;
        }
        total
    }
}

vectorised! {
    /// `values *= factor`.
    pub(crate) fn scale_by(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

vectorised! {
    /// `values += others`.
    pub(crate) fn add_to(values: &mut [f32], others: &[f32]) {
        for (value, other) in values.iter_mut().zip(others) {
            *value += other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_a_few_ulp() {
        for step in -87_000..=88_000 {
            let x = step as f32 / 1000.0;
            let exact = f64::from(x).exp();
            // f32 arithmetic: about four roundings in the last multiplications.
            assert!((f64::from(exp::<false>(x)) / exact - 1.0).abs() < 3e-7, "x = {x}");
        }
        assert!(exp::<false>(-1000.0) < 2e-38 && exp::<false>(-1000.0) >= 0.0);
        assert!(exp::<false>(1000.0) > 1e38);
        assert!(exp::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn silu_is_accurate() {
        for step in -20_000..=20_000 {
            let x = step as f32 / 1000.0;
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            assert!(
                (f64::from(silu_of::<false>(x)) - exact).abs() <= 1e-6 * exact.abs(),
                "x = {x}"
            );
        }
    }

    #[test]
    fn gelu_follows_the_error_function() {
        // erf by its Maclaurin series in f64, which converges for |x| <= 4.
        let erf_series = |x: f64| {
            let mut term = x;
            let mut sum = x;
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        for step in -4000..=4000 {
            let x = step as f32 / 1000.0;
            assert!(
                (f64::from(erf::<false>(x)) - erf_series(f64::from(x))).abs() < 5e-7,
                "x = {x}"
            );
            let exact = 0.5 * f64::from(x) * (1.0 + erf_series(f64::from(x) / 2f64.sqrt()));
            assert!((f64::from(gelu::<false>(x)) - exact).abs() < 6e-7, "x = {x}");
        }
        assert_eq!(gelu::<false>(50.0), 50.0);
        assert_eq!(gelu::<false>(-50.0), 0.0);
    }

    #[test]
    fn reductions_take_every_element() {
        for length in 0..70usize {
            let values: Vec<f32> = (0..length).map(|index| (index * 29 % 71) as f32 / 10.0 - 3.0).collect();
            let exact = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&values), exact);
            let mut exponents = values.clone();
            let sum = exponentials(&mut exponents, 0.5, 1.0);
            let expected: f64 = values.iter().map(|&x| f64::from(x * 0.5 - 1.0).exp()).sum();
            assert!((f64::from(sum) - expected).abs() <= 1e-5 * expected, "length {length}");
        }
    }
}
