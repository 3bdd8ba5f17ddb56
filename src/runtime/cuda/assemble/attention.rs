//! Attention.

use std::f64::consts::LOG2_E;

use fisec_kernels::cuda::{self as kernel, Address, AttentionParams, AttentionVariant, Count, Rows};
use fisec_plan::{AttentionKernel, Extent, ValueId};

use super::{Assembler, Live, Rowed};
use crate::RuntimeError;
use crate::cuda::lists::List;

/// Keys with their values at a fixed distance behind them.
struct Keys {
    rows: Rowed,
    value_offset: i64,
    live: Live,
    listed: Rows,
}

impl Assembler<'_> {
    pub(super) fn attention(&mut self, attention: &AttentionKernel) -> Result<(), RuntimeError> {
        let query = self.rows_of_images(attention.q)?;
        let (k, v) = (attention.k, attention.v);
        let is_active = self.extent(k) != Extent::Full;
        let fresh = if is_active { Some(self.fresh_keys(k, v)?) } else { None };
        let map = match (attention.k_outside, attention.v_outside) {
            (Some(keys), Some(values)) => {
                let Extent::Active(level) = self.extent(k) else {
                    return Err(self.error("recorded keys stand around active ones"));
                };
                let (listed, live) = self.listed(List::Inactive(level), self.pixels(k));
                let stride = self.stride(k);
                let row = |address| Rowed { address, stride };
                let listed = self.recorded_rows(keys, k, listed);
                let (keys, values) = (row(self.slot_read(keys)), row(self.slot_read(values)));
                Some(self.keys(keys, values, live, listed)?)
            }
            _ if is_active => None,
            _ => Some(self.whole_keys(k, v)?),
        };
        self.attend(attention, query, map, fresh)
    }

    fn keys(&self, keys: Rowed, values: Rowed, live: Live, listed: Rows) -> Result<Keys, RuntimeError> {
        let distance = values.address.base as i64 - keys.address.base as i64;
        if keys.address.slot != values.address.slot || keys.stride != values.stride {
            return Err(self.error("keys and values lie in different blocks"));
        }
        Ok(Keys {
            rows: keys,
            value_offset: distance / 2,
            live,
            listed,
        })
    }

    fn fresh_keys(&mut self, k: ValueId, v: ValueId) -> Result<Keys, RuntimeError> {
        let (keys, values, live) = (self.rows(k)?, self.rows(v)?, self.live(k));
        self.keys(keys, values, live, Rows::PACKED)
    }

    /// Keys and values of a whole sequence, brought side by side where they are in different blocks of memory.
    fn whole_keys(&mut self, k: ValueId, v: ValueId) -> Result<Keys, RuntimeError> {
        let (mut keys, mut values, live) = (self.rows(k)?, self.rows(v)?, self.live(k));
        let far = (values.address.base as i64 - keys.address.base as i64).abs() / 2 > i64::from(i32::MAX);
        if keys.address.slot != values.address.slot || (keys.address.slot == 0 && far) {
            let stride = self.stride(k);
            let bytes = self.most_rows(k) * stride * 2;
            let mut moves = Vec::new();
            for (id, rows) in [(k, &mut keys), (v, &mut values)] {
                let to = Rowed {
                    address: Address::at(self.scratch(bytes)),
                    stride,
                };
                moves.push(self.straight(id, *rows, to));
                *rows = to;
            }
            self.moves(&moves);
        }
        self.keys(keys, values, live, self.whole(k))
    }

    fn attend(
        &mut self,
        attention: &AttentionKernel,
        (query, query_rows): (Rowed, Rows),
        map: Option<Keys>,
        fresh: Option<Keys>,
    ) -> Result<(), RuntimeError> {
        let (images, heads) = (self.images(attention.q), attention.heads);
        let queries = self.live(attention.q);
        let output = self.make_rows(attention.output);
        // every pixel is a key once, active or not
        let keys = match (&map, &fresh) {
            (Some(_), Some(_)) => self.pixels(attention.k),
            (map, fresh) => map.as_ref().or(fresh.as_ref()).map_or(0, |keys| keys.live.most),
        };
        let dim = self.channels(attention.q) / heads;
        let variant = AttentionVariant::choose(self.context.gpu, dim, queries.most, keys, images * heads)
            .ok_or_else(|| self.error(format!("there is no kernel for heads of {dim} channels")))?;
        let partial = match variant.partial_bytes(images * queries.most, heads) {
            0 => 0,
            bytes => self.scratch(bytes),
        };
        // an absent list of keys still needs an address that can be read
        let first = map.as_ref().or(fresh.as_ref());
        let none = Count::fixed(0);
        let offset = |keys: Option<&Keys>| keys.map_or(0, |keys| keys.value_offset as i32);
        let params = AttentionParams {
            query: query.address,
            key: first.map_or(Address::ABSENT, |keys| keys.rows.address),
            fresh_key: fresh
                .as_ref()
                .or(first)
                .map_or(Address::ABSENT, |keys| keys.rows.address),
            output: output.address,
            query_rows,
            queries: queries.count,
            key_rows: map.as_ref().map_or(Rows::PACKED, |keys| keys.listed),
            keys: map.as_ref().map_or(none, |keys| keys.live.count),
            fresh: fresh.as_ref().map_or(none, |keys| keys.live.count),
            partial,
            slots: self.context.table,
            query_stride: query.stride as i32,
            key_stride: first.map_or(0, |keys| keys.rows.stride as i32),
            fresh_stride: fresh.as_ref().or(first).map_or(0, |keys| keys.rows.stride as i32),
            output_stride: output.stride as i32,
            value_offset: offset(map.as_ref()),
            fresh_value_offset: offset(fresh.as_ref()),
            images: images as i32,
            heads: heads as i32,
            splits: variant.splits as i32,
            scale_log2: (attention.scale * LOG2_E) as f32,
        };
        self.launch(kernel::attention(&variant, &params, queries.most));
        if variant.is_combined_later() {
            self.launch(kernel::attention_combine(&variant, &params, queries.most));
        }
        Ok(())
    }
}
