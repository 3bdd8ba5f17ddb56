//! Elementwise calls and movements of rows.

use fisec_kernels::cpu as kernel;
use fisec_plan::{Extent, SlotId, ValueId};

use super::recorded::{Recorded, map_of, outside_bytes};
use super::value::{CpuValue, Floats};
use super::{CpuBackend, CpuCall, Made};
use crate::RuntimeError;
use crate::executor::StepReport;

impl CpuBackend {
    pub(super) fn geglu(&mut self, call: &CpuCall<'_>, input: ValueId, output: ValueId) -> Made {
        let input = call.value(input)?.as_slice();
        let channels = call.channels(output);
        self.compute(call.elements(output)?, |_, output| {
            kernel::geglu(input, channels, output);
            Ok(())
        })
    }

    pub(super) fn silu(&mut self, call: &CpuCall<'_>, input: ValueId, output: ValueId) -> Made {
        let input = call.value(input)?.as_slice();
        self.compute(call.elements(output)?, |_, output| {
            kernel::silu(input, output);
            Ok(())
        })
    }

    pub(super) fn add(&mut self, call: &CpuCall<'_>, a: ValueId, b: ValueId, output: ValueId) -> Made {
        let first = call.value(a)?.as_slice();
        if call.extent(a) == call.extent(b) {
            let second = call.value(b)?.as_slice();
            return self.compute(call.elements(output)?, |_, output| {
                kernel::add(first, second, output);
                Ok(())
            });
        }
        let second = self.packed(call, b, output)?;
        let made = self.compute(call.elements(output)?, |_, output| {
            kernel::add(first, second.as_slice(), output);
            Ok(())
        });
        self.arena.give_back(second);
        made
    }

    pub(super) fn affine(
        &mut self,
        call: &CpuCall<'_>,
        input: ValueId,
        coefficients: ValueId,
        silu: bool,
        output: ValueId,
    ) -> Made {
        let images = call.images(input);
        let input = call.value(input)?.as_slice();
        let coefficients = call.value(coefficients)?.as_slice();
        self.compute(call.elements(output)?, |_, output| {
            kernel::affine(input, coefficients, images, silu, output);
            Ok(())
        })
    }

    pub(super) fn repeat(&mut self, call: &CpuCall<'_>, input: ValueId, output: ValueId) -> Made {
        let image = call.value(input)?.as_slice();
        self.compute(call.elements(output)?, |_, output| {
            let images = output.chunks_exact_mut(image.len().max(1));
            images.for_each(|into| into.copy_from_slice(image));
            Ok(())
        })
    }

    pub(super) fn concat(&mut self, call: &CpuCall<'_>, inputs: &[ValueId], output: ValueId) -> Made {
        let inputs = inputs
            .iter()
            .map(|&id| Ok((call.value(id)?.as_slice(), call.channels(id))))
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        self.compute(call.elements(output)?, |_, output| {
            kernel::concat(&inputs, output);
            Ok(())
        })
    }

    pub(super) fn read_slot(&mut self, call: &CpuCall<'_>, slot: SlotId, report: &mut StepReport) -> Made {
        let value = call.slot(slot)?;
        report.slot_bytes += value.data().len() as u64;
        Ok(vec![CpuValue::Shared(Floats::new(&value)?)])
    }

    pub(super) fn gather(&mut self, call: &CpuCall<'_>, input: ValueId, output: ValueId) -> Made {
        Ok(vec![self.packed(call, input, output)?])
    }

    /// The rows of a full value at the active pixels of another.
    fn packed(&mut self, call: &CpuCall<'_>, full: ValueId, like: ValueId) -> Result<CpuValue, RuntimeError> {
        let (Extent::Full, Some(active)) = (call.extent(full), call.active_of(like)?) else {
            return Err(call.error("rows are packed from a full value into an active one"));
        };
        let (images, channels) = (call.images(full), call.channels(full));
        let input = call.value(full)?.as_slice();
        let mut packed = self.arena.take(images * active.len() * channels);
        kernel::gather(input, images, channels, active.pixels(), packed.as_mut_slice());
        Ok(packed)
    }

    pub(super) fn scatter(
        &mut self,
        call: &CpuCall<'_>,
        rows: ValueId,
        base: Option<SlotId>,
        output: ValueId,
        report: &mut StepReport,
    ) -> Made {
        let images = call.images(rows);
        let recorded = Recorded::optional(call, base)?;
        let map = map_of(call, rows, recorded.as_ref())?;
        report.slot_bytes += outside_bytes(&map, images);
        self.compute(call.elements(output)?, |_, output| {
            kernel::fill_map(&map, images, output);
            Ok(())
        })
    }
}
