//! Active sets: where values are defined.

use fisec_tensor::Mask;

use crate::Tensor;

/// What stands where a value is not defined. Arithmetic carries it on, so a result that must not depend on such a place
/// and does is not a number.
pub const POISON: f64 = f64::NAN;

/// Masks of all levels from that of the finest: each the any-hit pool of the one before.
pub fn levels(finest: &Mask, count: usize) -> Vec<Mask> {
    std::iter::successors(Some(finest.clone()), |mask| Some(mask.pooled()))
        .take(count)
        .collect()
}

/// `where(keep, x, other)` per pixel of a map or token of a sequence.
pub(crate) fn select(keep: &Mask, x: &Tensor, other: impl Fn(usize) -> f64) -> Result<Tensor, String> {
    let pixel = pixels(keep, x)?;
    let data = x
        .data
        .iter()
        .enumerate()
        .map(|(index, &value)| match keep.bits()[pixel(index)] {
            true => value,
            false => other(index),
        });
    Ok(x.like(x.shape.clone(), data.collect()))
}

/// The pixel of each element of a map `[N, C, H, W]` or sequence `[N, H*W, C]` that the mask belongs to.
pub(crate) fn pixels(mask: &Mask, x: &Tensor) -> Result<impl Fn(usize) -> usize + use<>, String> {
    let count = mask.bits().len();
    let inner = match x.shape.dims() {
        [_, _, height, width] if (*height, *width) == (mask.height(), mask.width()) => 1,
        [_, length, channels] if *length == count => *channels,
        _ => {
            return Err(format!(
                "a mask of {}x{} does not fit [{}]",
                mask.height(),
                mask.width(),
                x.shape
            ));
        }
    };
    Ok(move |index| index / inner % count)
}
