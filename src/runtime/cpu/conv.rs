//! Convolutions and linear layers of a plan.

use fisec_kernels::cpu::{self as kernel, Conv, LayerNorm, Linear, Map, Residual};
use fisec_plan::{ConvKernel, LinearKernel};
use fisec_tensor::PARITIES;

use super::recorded::{Recorded, halo_bytes, map_of};
use super::{CpuBackend, CpuCall, Made};
use crate::RuntimeError;
use crate::executor::StepReport;

impl CpuBackend {
    pub(super) fn conv(&mut self, call: &CpuCall<'_>, conv: &ConvKernel, report: &mut StepReport) -> Made {
        let images = call.images(conv.output);
        let table = call.table.ok_or_else(|| call.error("no mask is bound"))?;
        let recorded = conv
            .sources
            .iter()
            .map(|source| Recorded::optional(call, source.outside))
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        let sources = conv
            .sources
            .iter()
            .zip(&recorded)
            .map(|(source, recorded)| map_of(call, source.value, recorded.as_ref()))
            .collect::<Result<Vec<Map<'_>>, RuntimeError>>()?;
        let floats = |id| call.value(id).map(|value| value.as_slice());
        let coefficients = conv.coefficients.map(floats).transpose()?;
        let vector = conv.vector.map(floats).transpose()?;
        let residual = conv
            .residual
            .map(|residual| map_of(call, residual.value, None))
            .transpose()?;
        report.slot_bytes += sources.iter().map(|map| halo_bytes(map, table)).sum::<u64>();
        let output = call.elements(conv.output)?;
        let macs = &mut report.macs;
        self.compute(output, |weights, output| {
            let (weight, products) = match conv.by_parity {
                Some(weight) => (weights.by_parity(weight)?, PARITIES),
                None => (weights.get(conv.weight)?, 1),
            };
            *macs += (images * table.outputs().len() * weight.len() / products) as u64;
            let conv = Conv {
                images,
                sources: &sources,
                table,
                weight,
                bias: weights.optional(conv.bias)?,
                coefficients,
                silu: conv.silu,
                vector,
                residual,
            };
            kernel::conv(&conv, output);
            Ok(())
        })
    }

    pub(super) fn linear(&mut self, call: &CpuCall<'_>, linear: &LinearKernel, report: &mut StepReport) -> Made {
        let input = call.value(linear.input)?.as_slice();
        let images = call.images(linear.output);
        let residual = linear
            .residual
            .map(|residual| {
                let map = map_of(call, residual.value, None)?;
                let pixels = call.active_of(linear.output)?.map(|active| active.pixels());
                Ok::<_, RuntimeError>(Residual { map, pixels })
            })
            .transpose()?;
        let output = call.elements(linear.output)?;
        let inner = call.channels(linear.input);
        let macs = &mut report.macs;
        self.compute(output, |weights, output| {
            let weight = weights.get(linear.weight)?;
            *macs += (input.len() / inner * weight.len()) as u64;
            let layer_norm = match linear.layer_norm {
                Some((gamma, beta, epsilon)) => Some(LayerNorm {
                    gamma: weights.get(gamma)?,
                    beta: weights.get(beta)?,
                    epsilon: epsilon as f32,
                }),
                None => None,
            };
            let linear = Linear {
                input,
                images,
                layer_norm,
                weight,
                columns: weight.len() / inner,
                bias: weights.optional(linear.bias)?,
                geglu: linear.geglu,
                residual,
            };
            kernel::linear(&linear, output);
            Ok(())
        })
    }
}
