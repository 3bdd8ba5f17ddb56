//! Where values, slots and weights are, and how many rows they have.

use fisec_kernels::cuda::{Address, Count, Rows};
use fisec_plan::cuda::padded;
use fisec_plan::{Extent, SlotId, ValueId, WeightId};
use fisec_tensor::Shape;

use super::rows::Move;
use super::{Assembler, Held, Live, Rowed, table};
use crate::RuntimeError;
use crate::cuda::lists::{List, Placed};
use crate::cuda::memory::Lifetime;
use crate::cuda::slots::half_rows_bytes;

impl<'a> Assembler<'a> {
    /// Memory from this node to `last`.
    pub(super) fn allocate(&mut self, bytes: usize, last: usize) -> u64 {
        let index = self.lifetimes.len();
        self.lifetimes.push(Lifetime {
            bytes,
            first: self.node,
            last: last.max(self.node),
        });
        let offset = self.offsets.map_or(0, |offsets| offsets[index]);
        self.blocks.values + offset as u64
    }

    /// Memory for this node alone.
    pub(super) fn scratch(&mut self, bytes: usize) -> u64 {
        self.allocate(bytes, self.node)
    }

    /// Rows for a new value: in its slot when it is recorded.
    pub(super) fn make_rows(&mut self, id: ValueId) -> Rowed {
        let stride = self.stride(id);
        let address = match self.recorded.get(&id) {
            Some(&slot) => self.slot_written(slot),
            None => {
                let bytes = self.most_rows(id) * stride * 2;
                let last = self.last_use.get(&id).copied().unwrap_or(self.node);
                Address::at(self.allocate(bytes, last))
            }
        };
        let rows = Rowed { address, stride };
        self.values.insert(id, Held::Rows(rows));
        rows
    }

    pub(super) fn list(&mut self, list: List) -> Placed {
        self.lists.place(list, &mut self.contents)
    }

    pub(super) fn count_of(&self, placed: Placed) -> Count {
        Count::at(placed.count(self.blocks.lists))
    }

    pub(super) fn entries_of(&self, placed: Placed) -> u64 {
        placed.entries(self.blocks.lists)
    }

    pub(super) fn shape(&self, id: ValueId) -> &'a Shape {
        &self.context.program.values[id.index()].shape
    }

    pub(super) fn extent(&self, id: ValueId) -> Extent {
        self.context.program.values[id.index()].extent
    }

    pub(super) fn images(&self, id: ValueId) -> usize {
        self.shape(id).first().copied().unwrap_or(1)
    }

    pub(super) fn channels(&self, id: ValueId) -> usize {
        self.shape(id).last().copied().unwrap_or(1)
    }

    /// Elements from row to row.
    pub(super) fn stride(&self, id: ValueId) -> usize {
        padded(self.channels(id))
    }

    /// Rows of an image at full extent.
    pub(super) fn pixels(&self, id: ValueId) -> usize {
        let shape = self.shape(id);
        shape.iter().take(shape.len().saturating_sub(1)).skip(1).product()
    }

    /// Rows of an image.
    pub(super) fn live(&mut self, id: ValueId) -> Live {
        match self.extent(id) {
            Extent::Full => Live {
                count: Count::fixed(self.pixels(id)),
                most: self.pixels(id),
            },
            Extent::Active(level) => {
                let list = self.list(List::Active(level));
                Live {
                    count: self.count_of(list),
                    most: list.most,
                }
            }
        }
    }

    /// Most rows of all images.
    pub(super) fn most_rows(&mut self, id: ValueId) -> usize {
        match self.extent(id) {
            Extent::Full => half_rows_bytes(self.shape(id)) / (2 * self.stride(id)),
            Extent::Active(_) => self.images(id) * self.live(id).most,
        }
    }

    /// Where a norm's coefficients have to be left, if anywhere.
    pub(super) fn kept_coefficients(&self, id: ValueId) -> Option<Address> {
        let slot = self.recorded.get(&id).map(|&slot| self.slot_written(slot));
        slot.or_else(|| self.context.boxes.kept.get(&id).copied())
    }

    pub(super) fn slot_read(&self, slot: SlotId) -> Address {
        Address::in_slot(table::READ, self.context.slots.offset(slot))
    }

    pub(super) fn slot_written(&self, slot: SlotId) -> Address {
        Address::in_slot(table::WRITTEN, self.context.slots.offset(slot))
    }

    pub(super) fn weight(&self, id: WeightId) -> Result<u64, RuntimeError> {
        let missing = || self.error(format!("weight {} is not on the device", id.0));
        self.context.weights.get(&id).copied().ok_or_else(missing)
    }

    pub(super) fn optional_weight(&self, id: Option<WeightId>) -> Result<Address, RuntimeError> {
        Ok(match id {
            Some(id) => Address::at(self.weight(id)?),
            None => Address::ABSENT,
        })
    }

    pub(super) fn held(&self, id: ValueId) -> Result<Held, RuntimeError> {
        let missing = || self.error(format!("value {} is not computed", id.0));
        self.values.get(&id).cloned().ok_or_else(missing)
    }

    /// A value as rows; a concatenation or repetition comes to exist.
    pub(super) fn rows(&mut self, id: ValueId) -> Result<Rowed, RuntimeError> {
        match self.held(id)? {
            Held::Rows(rows) => Ok(rows),
            Held::Concat(parts) => {
                let rows = self.make_rows(id);
                self.concatenate(&parts, rows)?;
                Ok(rows)
            }
            Held::Repeated(_) => {
                let (image, from_rows) = self.rows_of_images(id)?;
                let to = self.make_rows(id);
                let copies = Move {
                    from_rows,
                    ..self.straight(id, image, to)
                };
                self.moves(&[copies]);
                Ok(to)
            }
            _ => Err(self.error("statistics stand where rows are expected")),
        }
    }

    /// A value as rows, and how those of each image are found, for readers that need no copy of what is repeated.
    pub(super) fn rows_of_images(&mut self, id: ValueId) -> Result<(Rowed, Rows), RuntimeError> {
        match self.held(id)? {
            Held::Repeated(image) => Ok((self.rows(image)?, Rows::SHARED)),
            _ => Ok((self.rows(id)?, Rows::PACKED)),
        }
    }

    /// How rows of a slot that a list names are found where `like` has its images.
    pub(super) fn recorded_rows(&self, slot: SlotId, like: ValueId, listed: Rows) -> Rows {
        match self.context.plan.slots[slot.index()].shape.first() {
            Some(&images) if images < self.images(like) => listed.shared(),
            _ => listed,
        }
    }

    pub(super) fn floats(&self, id: ValueId) -> Result<Address, RuntimeError> {
        match self.held(id)? {
            Held::Floats(address) => Ok(address),
            _ => Err(self.error("rows stand where coefficients are expected")),
        }
    }

    /// Rows of the whole map, `image_rows` being its pixels.
    pub(super) fn whole(&self, id: ValueId) -> Rows {
        Rows::of(Count::fixed(self.pixels(id)))
    }
}
