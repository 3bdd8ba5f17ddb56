//! Constants of the plan as floats.

use std::cell::OnceCell;

use fisec_plan::{Bundle, WeightId};

use super::value::Floats;
use crate::RuntimeError;

/// Weights, mapped from the bundle on first use and converted where they are not `f32`.
pub(super) struct Weights {
    bundle: Bundle,
    loaded: Vec<OnceCell<Floats>>,
}

impl Weights {
    pub(super) fn new(bundle: Bundle) -> Self {
        let loaded = vec![OnceCell::new(); bundle.plan().weights.len()];
        Weights { bundle, loaded }
    }

    pub(super) fn get(&self, id: WeightId) -> Result<&[f32], RuntimeError> {
        let cell = &self.loaded[id.index()];
        if cell.get().is_none() {
            let floats = Floats::new(&self.bundle.weight(id)?)?;
            cell.get_or_init(|| floats);
        }
        Ok(cell.get().expect("set above").as_slice())
    }

    pub(super) fn optional(&self, id: Option<WeightId>) -> Result<Option<&[f32]>, RuntimeError> {
        id.map(|id| self.get(id)).transpose()
    }
}
