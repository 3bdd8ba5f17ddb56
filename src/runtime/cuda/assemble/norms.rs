//! Statistics of maps and what norms make of them.

use fisec_kernels::cuda::{
    self as kernel, Address, Count, LayerNormParams, Rows, StatisticsParams, SumParams, group_norm_sums_bytes,
    sum_chunks,
};
use fisec_plan::{Extent, Kernel, NormKernel, SlotId, ValueId, WeightId};

use super::rows::Move;
use super::{Assembler, Held, Live, Rowed};
use crate::RuntimeError;
use crate::cuda::lists::List;

/// What a norm does with statistics.
struct Applied {
    gamma: u64,
    beta: u64,
    epsilon: f64,
    coefficients: Address,
}

/// Partial sums in scratch memory.
struct Sums {
    partial: u64,
    chunks: usize,
}

impl Assembler<'_> {
    pub(super) fn norm_coefficients(&mut self, norm: &NormKernel) -> Result<(), RuntimeError> {
        if self.whole_norms.contains(&self.node) {
            self.values.insert(norm.output, Held::Norm(self.node));
            return Ok(());
        }
        let Held::Sums(node) = self.held(norm.stats)? else {
            return Err(self.error("recorded statistics are read where recorded coefficients are expected"));
        };
        let coefficients = match self.kept_coefficients(norm.output) {
            Some(address) => address,
            None => {
                let bytes = self.shape(norm.output).elements() * size_of::<f32>();
                let last = self.last_use.get(&norm.output).copied().unwrap_or(self.node);
                Address::at(self.allocate(bytes, last))
            }
        };
        let applied = Applied {
            gamma: self.weight(norm.gamma)?,
            beta: self.weight(norm.beta)?,
            epsilon: norm.epsilon,
            coefficients,
        };
        self.statistics(node, Address::ABSENT, Some(applied))?;
        self.values.insert(norm.output, Held::Floats(coefficients));
        Ok(())
    }

    /// Statistics or coefficients to a place of their own.
    pub(super) fn write_floats(&mut self, input: ValueId, target: Address) -> Result<(), RuntimeError> {
        match self.held(input)? {
            Held::Sums(node) => self.statistics(node, target, None),
            Held::Floats(address) if address == target => Ok(()),
            // whoever applies them writes them there
            Held::Norm(_) => Ok(()),
            Held::Floats(address) => {
                // bits are bits: floats move as pairs of halves
                let halves = 2 * self.shape(input).elements();
                let row = |address| Rowed {
                    address,
                    stride: halves,
                };
                if !halves.is_multiple_of(8) {
                    return Err(self.error("statistics are no whole vectors"));
                }
                self.moves(&[Move {
                    from: row(address),
                    from_rows: Rows::PACKED,
                    to: row(target),
                    to_rows: Rows::PACKED,
                    first: Count::fixed(0),
                    live: Live {
                        count: Count::fixed(1),
                        most: 1,
                    },
                    images: 1,
                    channels: halves,
                    scaled: None,
                    addend: Address::ABSENT,
                    flags: 0,
                }]);
                Ok(())
            }
            _ => Err(self.error("rows stand where statistics are expected")),
        }
    }

    /// The statistics of a node, to `statistics` where present, and what a norm makes of them.
    fn statistics(&mut self, node: usize, statistics: Address, norm: Option<Applied>) -> Result<(), RuntimeError> {
        let (added, removed, recorded, groups, output, map) = match &self.context.program.nodes[node].kernel {
            Kernel::GroupNormStats { input, groups, output } => {
                let added = match (self.extent(input.value), input.outside) {
                    (Extent::Active(_), Some(slot)) => self.sums_of_whole(input.value, slot)?,
                    _ => self.sums(input.value)?,
                };
                (added, None, Address::ABSENT, *groups, *output, input.value)
            }
            Kernel::GroupNormStatsUpdate(update) => {
                let added = self.sums(update.input)?;
                let removed = self.recorded_sums(update.input, update.recorded)?;
                let recorded = self.slot_read(update.recorded_stats);
                (
                    added,
                    Some(removed),
                    recorded,
                    update.groups,
                    update.output,
                    update.input,
                )
            }
            _ => return Err(self.error("no statistics are computed there")),
        };
        let channels = self.channels(map);
        let params = StatisticsParams {
            added: added.partial,
            removed: removed.as_ref().map_or(0, |sums| sums.partial),
            recorded,
            statistics,
            affine: norm.as_ref().map_or(Address::ABSENT, |norm| norm.coefficients),
            gamma: norm.as_ref().map_or(0, |norm| norm.gamma),
            beta: norm.as_ref().map_or(0, |norm| norm.beta),
            slots: self.context.table,
            rows: Count::fixed(self.pixels(map)),
            channels: channels as i32,
            groups: groups as i32,
            added_chunks: added.chunks as i32,
            removed_chunks: removed.as_ref().map_or(0, |sums| sums.chunks as i32),
            epsilon: norm.as_ref().map_or(0.0, |norm| norm.epsilon as f32),
            reserved: 0,
        };
        let images = self.images(output);
        self.launch(kernel::group_norm_statistics(&params, images));
        Ok(())
    }

    /// Sums over the rows of a value; a concatenation of two is read where its parts are.
    fn sums(&mut self, id: ValueId) -> Result<Sums, RuntimeError> {
        let parts = match self.held(id)? {
            Held::Concat(parts) if parts.len() == 2 => parts,
            _ => vec![id],
        };
        let sources = parts
            .iter()
            .map(|&part| self.rows(part))
            .collect::<Result<Vec<_>, _>>()?;
        let widths: Vec<usize> = parts.iter().map(|&part| self.channels(part)).collect();
        let live = self.live(id);
        Ok(self.partial_sums(id, &sources, &widths, Rows::PACKED, live))
    }

    /// Sums over the active rows of a recorded map.
    fn recorded_sums(&mut self, like: ValueId, slot: SlotId) -> Result<Sums, RuntimeError> {
        let Extent::Active(level) = self.extent(like) else {
            return Err(self.error("statistics are updated over active rows"));
        };
        let (rows, live) = self.listed(List::Active(level), self.pixels(like));
        let source = Rowed {
            address: self.slot_read(slot),
            stride: self.stride(like),
        };
        let channels = self.channels(like);
        Ok(self.partial_sums(like, &[source], &[channels], rows, live))
    }

    /// Sums over active rows and what is recorded around them.
    fn sums_of_whole(&mut self, rows: ValueId, slot: SlotId) -> Result<Sums, RuntimeError> {
        let from = self.rows(rows)?;
        let pixels = self.pixels(rows);
        let stride = self.stride(rows);
        let whole = Rowed {
            address: Address::at(self.scratch(self.images(rows) * pixels * stride * 2)),
            stride,
        };
        let moves = self.whole_map(rows, from, Some(slot), whole)?;
        self.moves(&moves);
        let live = Live {
            count: Count::fixed(pixels),
            most: pixels,
        };
        let channels = self.channels(rows);
        Ok(self.partial_sums(rows, &[whole], &[channels], Rows::PACKED, live))
    }

    fn partial_sums(&mut self, like: ValueId, sources: &[Rowed], widths: &[usize], rows: Rows, live: Live) -> Sums {
        let (images, chunks) = (self.images(like), sum_chunks(live.most));
        let channels = widths.iter().sum();
        let partial = self.scratch(group_norm_sums_bytes(images, chunks, channels));
        let second = sources.get(1);
        let params = SumParams {
            source: [sources[0].address, second.map_or(Address::ABSENT, |rows| rows.address)],
            channels: [widths[0] as i32, widths.get(1).map_or(0, |&width| width as i32)],
            source_stride: [sources[0].stride as i32, second.map_or(0, |rows| rows.stride as i32)],
            source_rows: rows,
            rows: live.count,
            partial,
            slots: self.context.table,
        };
        self.launch(kernel::group_norm_sums(&params, images, chunks));
        Sums { partial, chunks }
    }

    pub(super) fn layer_norm(
        &mut self,
        like: ValueId,
        source: Rowed,
        target: Rowed,
        (gamma, beta, epsilon): (WeightId, WeightId, f64),
    ) -> Result<(), RuntimeError> {
        let params = LayerNormParams {
            source: source.address,
            output: target.address,
            gamma: self.weight(gamma)?,
            beta: self.weight(beta)?,
            slots: self.context.table,
            live: self.live(like).count,
            images: self.images(like) as i32,
            channels: self.channels(like) as i32,
            source_stride: source.stride as i32,
            output_stride: target.stride as i32,
            epsilon: epsilon as f32,
            reserved: 0,
        };
        let rows = self.most_rows(like);
        self.launch(kernel::layer_norm(&params, rows));
        Ok(())
    }
}
