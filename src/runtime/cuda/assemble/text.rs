//! What only text encoders have: embeddings, GELU without a gate, causal attention.

use std::f64::consts::LOG2_E;

use fisec_kernels::cuda::{self as kernel, Address, CausalParams, Count, MOVE_GELU, MOVE_QUICK_GELU, Rows};
use fisec_plan::{CausalKernel, ValueId, WeightId};

use super::rows::Move;
use super::{Assembler, Rowed};
use crate::RuntimeError;

impl Assembler<'_> {
    /// Rows of a table that the ids name.
    pub(super) fn lookup(&mut self, ids: ValueId, table: WeightId, output: ValueId) -> Result<(), RuntimeError> {
        let list = self.rows(ids)?.address;
        let to = self.make_rows(output);
        let from = self.constant_rows(table, output)?;
        let entries = self.context.plan.weights[table.index()].shape[0];
        let looked_up = Move {
            from_rows: Rows::listed(list.base, Count::fixed(entries)),
            ..self.straight(output, from, to)
        };
        self.moves(&[looked_up]);
        Ok(())
    }

    pub(super) fn add_constant(
        &mut self,
        input: ValueId,
        constant: WeightId,
        output: ValueId,
    ) -> Result<(), RuntimeError> {
        let from = self.rows(input)?;
        let to = self.make_rows(output);
        let sum = Move {
            addend: self.constant_rows(constant, output)?.address,
            ..self.straight(input, from, to)
        };
        self.moves(&[sum]);
        Ok(())
    }

    fn constant_rows(&self, weight: WeightId, like: ValueId) -> Result<Rowed, RuntimeError> {
        Ok(Rowed {
            address: Address::at(self.weight(weight)?),
            stride: self.stride(like),
        })
    }

    pub(super) fn gelu(&mut self, input: ValueId, quick: bool, output: ValueId) -> Result<(), RuntimeError> {
        let from = self.rows(input)?;
        let to = self.make_rows(output);
        let activated = Move {
            flags: if quick { MOVE_QUICK_GELU } else { MOVE_GELU },
            ..self.straight(input, from, to)
        };
        self.moves(&[activated]);
        Ok(())
    }

    pub(super) fn causal_attention(&mut self, attention: &CausalKernel) -> Result<(), RuntimeError> {
        let [query, key, value] = [
            self.rows(attention.q)?,
            self.rows(attention.k)?,
            self.rows(attention.v)?,
        ];
        let output = self.make_rows(attention.output);
        let params = CausalParams {
            query: query.address,
            key: key.address,
            value: value.address,
            output: output.address,
            slots: self.context.table,
            images: self.images(attention.q) as i32,
            tokens: self.pixels(attention.q) as i32,
            heads: attention.heads as i32,
            dim: (self.channels(attention.q) / attention.heads) as i32,
            query_stride: query.stride as i32,
            key_stride: key.stride as i32,
            value_stride: value.stride as i32,
            output_stride: output.stride as i32,
            scale_log2: (attention.scale * LOG2_E) as f32,
            reserved: 0,
        };
        self.launch(kernel::causal_attention(&params));
        Ok(())
    }
}
