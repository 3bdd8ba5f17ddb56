//! Comparison with the oracle.

use fisec_oracle::Tensor;

/// Largest difference over the reference's largest value, where the reference is defined.
pub fn relative_error(reference: &Tensor, values: &[f32]) -> f64 {
    assert_eq!(reference.data.len(), values.len(), "one value each");
    let defined = || {
        reference
            .data
            .iter()
            .zip(values)
            .filter(|(reference, _)| !reference.is_nan())
    };
    let scale = defined().map(|(reference, _)| reference.abs()).fold(0.0, f64::max);
    let largest = defined().map(|(reference, &value)| {
        let difference = (reference - f64::from(value)).abs();
        if difference.is_nan() { f64::INFINITY } else { difference }
    });
    largest.fold(0.0, f64::max) / scale.max(1e-12)
}
