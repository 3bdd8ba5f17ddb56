//! Attention of a plan.

use fisec_kernels::cpu::{self as kernel, Attention};
use fisec_plan::{AttentionKernel, SlotId, ValueId};

use super::recorded::{Recorded, map_of, outside_bytes};
use super::value::CpuValue;
use super::{CpuBackend, CpuCall, Made};
use crate::RuntimeError;
use crate::executor::StepReport;

impl CpuBackend {
    pub(super) fn attention(
        &mut self,
        call: &CpuCall<'_>,
        attention: &AttentionKernel,
        report: &mut StepReport,
    ) -> Made {
        let images = call.images(attention.q);
        let channels = call.channels(attention.q);
        let k = self.whole(call, attention.k, attention.k_outside, report)?;
        let v = self.whole(call, attention.v, attention.v_outside, report)?;
        let q = call.value(attention.q)?.as_slice();
        let keys = rows(call, attention.k, &k)?;
        let values = rows(call, attention.v, &v)?;
        let width = images * channels;
        report.macs += 2 * (q.len() / channels * (keys.len() / width) * channels) as u64;
        let made = self.compute(q.len(), |_, output| {
            let attention = Attention {
                images,
                heads: attention.heads,
                channels,
                q,
                k: keys,
                v: values,
                scale: attention.scale as f32,
            };
            kernel::attention(&attention, output);
            Ok(())
        });
        for value in k.into_iter().chain(v) {
            self.arena.give_back(value);
        }
        made
    }

    /// The recorded keys or values with the active ones in place; `None` when the value is used as it is.
    fn whole(
        &mut self,
        call: &CpuCall<'_>,
        value: ValueId,
        outside: Option<SlotId>,
        report: &mut StepReport,
    ) -> Result<Option<CpuValue>, RuntimeError> {
        let Some(recorded) = Recorded::optional(call, outside)? else {
            return Ok(None);
        };
        let images = call.images(value);
        let map = map_of(call, value, Some(&recorded))?;
        report.slot_bytes += outside_bytes(&map, images);
        let mut whole = self.arena.take(images * map.pixels * map.channels);
        kernel::fill_map(&map, images, whole.as_mut_slice());
        Ok(Some(whole))
    }
}

fn rows<'a>(call: &CpuCall<'a>, id: ValueId, whole: &'a Option<CpuValue>) -> Result<&'a [f32], RuntimeError> {
    match whole {
        Some(whole) => Ok(whole.as_slice()),
        None => call.value(id).map(CpuValue::as_slice),
    }
}
