//! Scatter: where active and full values meet.

use fisec_ir::Demand;
use fisec_tensor::Mask;

use crate::masks::select;
use crate::{POISON, Tensor};

/// `where(A, x, base)`, poison where `demand` does not reach.
pub(super) fn scatter(x: &Tensor, base: &Tensor, demand: Demand, active: Option<&Mask>) -> Result<Tensor, String> {
    let active = active.ok_or("`scatter` takes an active value")?;
    let merged = select(active, x, |index| base.data[index])?;
    match demand {
        Demand::Full => Ok(merged),
        Demand::Halo(radius) => select(&active.dilated(radius), &merged, |_| POISON),
    }
}
