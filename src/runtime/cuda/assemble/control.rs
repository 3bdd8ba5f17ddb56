//! Cross-attention that is recorded or follows what was recorded.

use std::f64::consts::LOG2_E;

use fisec_kernels::cuda::{self as kernel, ControlParams};
use fisec_plan::{AttentionMapsKernel, ControlledAttentionKernel, ValueId};

use super::Assembler;
use crate::RuntimeError;

impl Assembler<'_> {
    pub(super) fn attention_maps(&mut self, maps: &AttentionMapsKernel) -> Result<(), RuntimeError> {
        let params = self.looked_at([maps.q, maps.k, maps.output], maps.heads, maps.scale)?;
        let output = self.make_rows(maps.output);
        let params = ControlParams {
            maps: output.address,
            ..params
        };
        self.launch(kernel::attention_maps(&params));
        Ok(())
    }

    pub(super) fn controlled_attention(&mut self, attention: &ControlledAttentionKernel) -> Result<(), RuntimeError> {
        let operands = [attention.q, attention.k, attention.recorded];
        let params = self.looked_at(operands, attention.heads, attention.scale)?;
        let [value, recorded, mapper, blend, weight] = [
            self.rows(attention.v)?,
            self.rows(attention.recorded)?,
            self.rows(attention.mapper)?,
            self.rows(attention.blend)?,
            self.rows(attention.weight)?,
        ];
        let output = self.make_rows(attention.output);
        let params = ControlParams {
            value: value.address,
            value_stride: value.stride as i32,
            output: output.address,
            output_stride: output.stride as i32,
            maps: recorded.address,
            mapper: mapper.address,
            blend: blend.address,
            weight: weight.address,
            ..params
        };
        self.launch(kernel::attention_control(&params));
        Ok(())
    }

    /// What probabilities are made of: queries and keys.
    fn looked_at(
        &mut self,
        [q, k, maps]: [ValueId; 3],
        heads: usize,
        scale: f64,
    ) -> Result<ControlParams, RuntimeError> {
        let (query, key) = (self.rows(q)?, self.rows(k)?);
        Ok(ControlParams {
            query: query.address,
            query_stride: query.stride as i32,
            key: key.address,
            key_stride: key.stride as i32,
            map_stride: self.stride(maps) as i32,
            slots: self.context.table,
            images: self.images(q) as i32,
            heads: heads as i32,
            queries: self.pixels(q) as i32,
            keys: self.pixels(k) as i32,
            dim: (self.channels(q) / heads) as i32,
            scale_log2: (scale * LOG2_E) as f32,
            ..ControlParams::default()
        })
    }
}
