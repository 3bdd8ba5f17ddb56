//! Norms of a plan.

use fisec_kernels::cpu::{self as kernel, GroupNormUpdate, LayerNorm};
use fisec_plan::{ConvSource, NormKernel, StatsUpdate, ValueId, WeightId};

use super::recorded::{Recorded, active_bytes, map_of, outside_bytes};
use super::{CpuBackend, CpuCall, Made};
use crate::executor::StepReport;

impl CpuBackend {
    pub(super) fn layer_norm(
        &mut self,
        call: &CpuCall<'_>,
        input: ValueId,
        (gamma, beta, epsilon): (WeightId, WeightId, f64),
        output: ValueId,
    ) -> Made {
        let input = call.value(input)?.as_slice();
        self.compute(call.elements(output)?, |weights, output| {
            let norm = LayerNorm {
                gamma: weights.get(gamma)?,
                beta: weights.get(beta)?,
                epsilon: epsilon as f32,
            };
            kernel::layer_norm(&norm, input, output);
            Ok(())
        })
    }

    pub(super) fn stats(
        &mut self,
        call: &CpuCall<'_>,
        source: ConvSource,
        groups: usize,
        output: ValueId,
        report: &mut StepReport,
    ) -> Made {
        let images = call.images(source.value);
        let recorded = Recorded::optional(call, source.outside)?;
        let map = map_of(call, source.value, recorded.as_ref())?;
        if map.ranks.is_some() && map.outside.is_none() {
            return Err(call.error("statistics of a map that is not recorded outside the active set"));
        }
        report.slot_bytes += outside_bytes(&map, images);
        self.compute(call.elements(output)?, |_, output| {
            kernel::group_norm_stats(&map, images, groups, output);
            Ok(())
        })
    }

    pub(super) fn stats_update(&mut self, call: &CpuCall<'_>, update: &StatsUpdate, report: &mut StepReport) -> Made {
        let images = call.images(update.input);
        let channels = call.channels(update.input);
        let active = call
            .active_of(update.input)?
            .ok_or_else(|| call.error("statistics are updated for active rows only"))?;
        let recorded = Recorded::read(call, update.recorded)?;
        let recorded_stats = call.slot(update.recorded_stats)?.to_f32_vec();
        report.slot_bytes += active_bytes(&recorded.rows(), active, images, channels);
        let update_rows = GroupNormUpdate {
            images,
            groups: update.groups,
            channels,
            pixels: call.pixels(update.input),
            fresh: call.value(update.input)?.as_slice(),
            active: active.pixels(),
            recorded: recorded.rows(),
            recorded_stats: &recorded_stats,
        };
        self.compute(call.elements(update.output)?, |_, output| {
            kernel::update_group_norm_stats(&update_rows, output);
            Ok(())
        })
    }

    pub(super) fn norm_coefficients(&mut self, call: &CpuCall<'_>, norm: &NormKernel) -> Made {
        let stats = call.value(norm.stats)?.as_slice();
        self.compute(call.elements(norm.output)?, |weights, output| {
            let (gamma, beta) = (weights.get(norm.gamma)?, weights.get(norm.beta)?);
            kernel::norm_coefficients(stats, gamma, beta, norm.groups, norm.epsilon, output);
            Ok(())
        })
    }
}
