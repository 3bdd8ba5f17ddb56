//! Movements of rows and elementwise calls.

use fisec_kernels::cuda::{self as kernel, Address, Count, GegluParams, MOVE_SILU, MoveJob, MoveParams, Rows};
use fisec_plan::{Extent, SlotId, SlotKind, ValueId};

use super::{Assembler, Held, Live, Rowed};
use crate::RuntimeError;
use crate::cuda::lists::List;

/// Scale and shift of some channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaled {
    pub(super) coefficients: Address,
    /// channels of all coefficients
    pub(super) channels: usize,
    pub(super) silu: bool,
}

/// Rows to move: which, from where to where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) from: Rowed,
    pub(super) from_rows: Rows,
    pub(super) to: Rowed,
    pub(super) to_rows: Rows,
    /// added to the row that is written
    pub(super) first: Count,
    pub(super) live: Live,
    pub(super) images: usize,
    pub(super) channels: usize,
    pub(super) scaled: Option<Scaled>,
    pub(super) addend: Address,
    /// applied last
    pub(super) flags: i32,
}

impl Assembler<'_> {
    /// All of them in one launch; no row is written twice.
    pub(super) fn moves(&mut self, moves: &[Move]) {
        let vectors = moves
            .iter()
            .map(|each| each.images * each.live.most * each.channels / 8);
        let vectors = vectors.max().unwrap_or(0);
        let params = MoveParams {
            jobs: self.blocks.jobs + (self.jobs.len() * size_of::<MoveJob>()) as u64,
            slots: self.context.table,
        };
        self.jobs.extend(moves.iter().map(Move::job));
        self.launch(kernel::move_rows(&params, moves.len(), vectors));
    }

    /// Packed or whole rows of a value to rows of the same count.
    pub(super) fn straight(&mut self, id: ValueId, from: Rowed, to: Rowed) -> Move {
        Move {
            from,
            from_rows: Rows::PACKED,
            to,
            to_rows: Rows::PACKED,
            first: Count::fixed(0),
            live: self.live(id),
            images: self.images(id),
            channels: self.stride(id),
            scaled: None,
            addend: Address::ABSENT,
            flags: 0,
        }
    }

    /// Rows of a map that a list names.
    pub(super) fn listed(&mut self, list: List, pixels: usize) -> (Rows, Live) {
        let placed = self.list(list);
        let live = Live {
            count: self.count_of(placed),
            most: placed.most,
        };
        (Rows::listed(self.entries_of(placed), Count::fixed(pixels)), live)
    }

    pub(super) fn concatenate(&mut self, parts: &[ValueId], to: Rowed) -> Result<(), RuntimeError> {
        let mut moves = Vec::new();
        let mut first = 0;
        for &part in parts {
            let from = self.rows(part)?;
            let at = Rowed {
                address: to.address.offset(first as u64 * 2),
                ..to
            };
            moves.push(self.straight(part, from, at));
            first += self.channels(part);
        }
        self.moves(&moves);
        Ok(())
    }

    pub(super) fn gather(&mut self, input: ValueId, output: ValueId) -> Result<(), RuntimeError> {
        let from = self.rows(input)?;
        let to = self.make_rows(output);
        match self.context.boxes.windows.get(&output) {
            Some(&level) => {
                self.pack_level(input, from, level, to);
                Ok(())
            }
            None => self.pack(input, from, output, to),
        }
    }

    /// The rows of a full value at the active pixels of `like`.
    pub(super) fn pack(&mut self, full: ValueId, from: Rowed, like: ValueId, to: Rowed) -> Result<(), RuntimeError> {
        let Extent::Active(level) = self.extent(like) else {
            return Err(self.error("rows are packed into an active value"));
        };
        self.pack_level(full, from, level, to);
        Ok(())
    }

    /// The rows of a full value at a level's active pixels.
    fn pack_level(&mut self, full: ValueId, from: Rowed, level: u32, to: Rowed) {
        let (from_rows, live) = self.listed(List::Active(level), self.pixels(full));
        let packed = Move {
            from_rows,
            live,
            ..self.straight(full, from, to)
        };
        self.moves(&[packed]);
    }

    /// The whole map: active rows over recorded ones or zeros.
    pub(super) fn scatter(&mut self, rows: ValueId, base: Option<SlotId>, output: ValueId) -> Result<(), RuntimeError> {
        let from = self.rows(rows)?;
        let to = self.make_rows(output);
        let moves = self.whole_map(rows, from, base, to)?;
        if base.is_none() {
            let bytes = self.most_rows(output) * to.stride * 2;
            if to.address.slot != 0 {
                return Err(self.error("zeros around active rows cannot be recorded"));
            }
            self.items.push(super::Item::Zero(self.node, to.address.base, bytes));
        }
        self.moves(&moves);
        Ok(())
    }

    /// Moves that make a whole map of active rows and of what is recorded around them.
    pub(super) fn whole_map(
        &mut self,
        rows: ValueId,
        from: Rowed,
        base: Option<SlotId>,
        to: Rowed,
    ) -> Result<Vec<Move>, RuntimeError> {
        let Extent::Active(level) = self.extent(rows) else {
            return Err(self.error("active rows are scattered"));
        };
        let pixels = self.pixels(rows);
        let (to_rows, live) = self.listed(List::Active(level), pixels);
        let straight = self.straight(rows, from, to);
        let mut moves = vec![Move {
            to_rows,
            live,
            ..straight
        }];
        if let Some(slot) = base {
            let (listed, live) = self.listed(List::Inactive(level), pixels);
            let recorded = Rowed {
                address: self.slot_read(slot),
                stride: to.stride,
            };
            moves.push(Move {
                from: recorded,
                from_rows: self.recorded_rows(slot, rows, listed),
                to_rows: listed,
                live,
                ..straight
            });
        }
        Ok(moves)
    }

    pub(super) fn add(&mut self, a: ValueId, b: ValueId, output: ValueId) -> Result<(), RuntimeError> {
        let first = self.rows(a)?;
        let mut second = self.rows(b)?;
        if self.extent(a) != self.extent(b) {
            let stride = self.stride(a);
            let bytes = self.most_rows(a) * stride * 2;
            let packed = Rowed {
                address: Address::at(self.scratch(bytes)),
                stride,
            };
            self.pack(b, second, a, packed)?;
            second = packed;
        }
        let to = self.make_rows(output);
        let sum = Move {
            addend: second.address,
            ..self.straight(a, first, to)
        };
        self.moves(&[sum]);
        Ok(())
    }

    pub(super) fn affine(
        &mut self,
        input: ValueId,
        coefficients: ValueId,
        silu: bool,
        output: ValueId,
    ) -> Result<(), RuntimeError> {
        let from = self.rows(input)?;
        if let Held::Norm(node) = self.held(coefficients)? {
            let to = self.make_rows(output);
            return self.whole_norm(node, &[(input, from)], &[to], silu);
        }
        let coefficients = self.floats(coefficients)?;
        let to = self.make_rows(output);
        self.scale(input, from, coefficients, silu, to);
        Ok(())
    }

    pub(super) fn silu(&mut self, input: ValueId, output: ValueId) -> Result<(), RuntimeError> {
        let from = self.rows(input)?;
        let identity = self.list(List::Identity(self.images(input), self.stride(input)));
        let coefficients = Address::at(self.entries_of(identity));
        let to = self.make_rows(output);
        self.scale(input, from, coefficients, true, to);
        Ok(())
    }

    fn scale(&mut self, input: ValueId, from: Rowed, coefficients: Address, silu: bool, to: Rowed) {
        let scaled = Scaled {
            coefficients,
            channels: self.stride(input),
            silu,
        };
        let scaled = Move {
            scaled: Some(scaled),
            ..self.straight(input, from, to)
        };
        self.moves(&[scaled]);
    }

    pub(super) fn geglu(&mut self, input: ValueId, output: ValueId) -> Result<(), RuntimeError> {
        let from = self.rows(input)?;
        let to = self.make_rows(output);
        let params = GegluParams {
            source: from.address,
            output: to.address,
            slots: self.context.table,
            live: self.live(output).count,
            images: self.images(output) as i32,
            channels: self.channels(output) as i32,
            source_stride: from.stride as i32,
            output_stride: to.stride as i32,
        };
        let rows = self.most_rows(output);
        self.launch(kernel::geglu(&params, rows));
        Ok(())
    }

    /// Most values are computed in their slot; others are copied there.
    pub(super) fn write_slot(&mut self, input: ValueId, slot: SlotId) -> Result<(), RuntimeError> {
        let target = self.slot_written(slot);
        if self.context.plan.slots[slot.index()].kind == SlotKind::Stats {
            return self.write_floats(input, target);
        }
        let from = self.rows(input)?;
        if from.address != target {
            let to = Rowed {
                address: target,
                stride: self.stride(input),
            };
            let copy = self.straight(input, from, to);
            self.moves(&[copy]);
        }
        Ok(())
    }

    /// Slots of the edited image whose values are known after this node.
    pub(super) fn remember(&mut self) -> Result<(), RuntimeError> {
        if !self.context.remember {
            return Ok(());
        }
        let context = self.context;
        for &(slot, id) in &context.prepared.remembered[self.node] {
            let target = self.slot_written(slot);
            if let Ok(Held::Sums(_) | Held::Floats(_)) = self.held(id) {
                self.write_floats(id, target)?;
                continue;
            }
            let from = self.rows(id)?;
            let to = Rowed {
                address: target,
                stride: self.stride(id),
            };
            let mut moved = self.straight(id, from, to);
            if let Extent::Active(level) = self.extent(id) {
                (moved.to_rows, moved.live) = self.listed(List::Active(level), self.pixels(id));
            }
            self.moves(&[moved]);
        }
        Ok(())
    }
}

impl Move {
    fn job(&self) -> MoveJob {
        let scaled = self.scaled.as_ref();
        MoveJob {
            source: self.from.address,
            addend: self.addend,
            affine: scaled.map_or(Address::ABSENT, |scaled| scaled.coefficients),
            output: self.to.address,
            source_rows: self.from_rows,
            output_rows: self.to_rows,
            output_first: self.first,
            rows: self.live.count,
            images: self.images as i32,
            channels: self.channels as i32,
            source_stride: self.from.stride as i32,
            output_stride: self.to.stride as i32,
            affine_channels: scaled.map_or(0, |scaled| scaled.channels as i32),
            flags: self.flags | scaled.map_or(0, |scaled| if scaled.silu { MOVE_SILU } else { 0 }),
        }
    }
}
