//! Constants of the plan as floats.

use std::cell::OnceCell;

use fisec_kernels::cpu::sum_weights_by_parity;
use fisec_plan::{Bundle, WeightId};

use super::value::Floats;
use crate::RuntimeError;

/// Weights, mapped from the bundle on first use and converted where they are not `f32`.
pub(super) struct Weights {
    bundle: Bundle,
    loaded: Vec<OnceCell<Floats>>,
    by_parity: Vec<OnceCell<Vec<f32>>>,
}

impl Weights {
    pub(super) fn new(bundle: Bundle) -> Self {
        let weights = bundle.plan().weights.len();
        Weights {
            bundle,
            loaded: vec![OnceCell::new(); weights],
            by_parity: vec![OnceCell::new(); weights],
        }
    }

    pub(super) fn get(&self, id: WeightId) -> Result<&[f32], RuntimeError> {
        let cell = &self.loaded[id.index()];
        if cell.get().is_none() {
            let floats = Floats::new(&self.bundle.weight(id)?)?;
            cell.get_or_init(|| floats);
        }
        Ok(cell.get().expect("set above").as_slice())
    }

    /// A convolution's weights summed by the parity of the output pixel.
    pub(super) fn by_parity(&self, id: WeightId) -> Result<&[f32], RuntimeError> {
        let cell = &self.by_parity[id.index()];
        if cell.get().is_none() {
            let floats = Floats::new(&self.bundle.weight(id)?)?;
            cell.get_or_init(|| sum_weights_by_parity(floats.as_slice()));
        }
        Ok(cell.get().expect("set above"))
    }

    pub(super) fn optional(&self, id: Option<WeightId>) -> Result<Option<&[f32]>, RuntimeError> {
        id.map(|id| self.get(id)).transpose()
    }
}
