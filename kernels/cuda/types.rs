//! What every kernel's parameters are made of: `include/types.cuh`.

use bytemuck::{Pod, Zeroable};

/// Where a tensor is: an address, or an offset into the memory that this step's table names.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Address {
    /// device address; with a slot, bytes into it
    pub base: u64,
    /// 0: `base` is the address; `s`: the table's entry `s - 1` is added
    pub slot: i32,
    reserved: i32,
}

impl Address {
    /// No tensor.
    pub const ABSENT: Address = Address {
        base: 0,
        slot: 0,
        reserved: 0,
    };

    /// A fixed device address.
    pub fn at(base: u64) -> Self {
        Address {
            base,
            ..Address::ABSENT
        }
    }

    /// `bytes` into the table's entry `index`.
    pub fn in_slot(index: usize, bytes: u64) -> Self {
        Address {
            base: bytes,
            slot: index as i32 + 1,
            ..Address::ABSENT
        }
    }

    /// The address `bytes` behind this one.
    pub fn offset(self, bytes: u64) -> Self {
        Address {
            base: self.base + bytes,
            ..self
        }
    }

    /// Whether there is a tensor.
    pub fn is_present(self) -> bool {
        self != Address::ABSENT
    }
}

/// A number of rows that the mask decides, or a fixed one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Count {
    device: u64,
    fixed: i32,
    reserved: i32,
}

impl Count {
    /// A number known when the launch is made.
    pub fn fixed(value: usize) -> Self {
        Count {
            fixed: value as i32,
            ..Count::default()
        }
    }

    /// The i32 at a device address, read when the kernel starts.
    pub fn at(device: u64) -> Self {
        Count {
            device,
            ..Count::default()
        }
    }
}

/// How row `i` of image `n` is found: `n * image_rows + map[i]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Rows {
    map: u64,
    image_rows: Count,
}

impl Rows {
    /// As many rows per image as the kernel's own count of rows.
    pub const PACKED: Rows = Rows {
        map: 0,
        image_rows: Count {
            device: 0,
            fixed: 0,
            reserved: 0,
        },
    };

    /// Every image has the same rows.
    pub const SHARED: Rows = Rows {
        map: 0,
        image_rows: Count {
            device: 0,
            fixed: -1,
            reserved: 0,
        },
    };

    /// Row `i` is row `i` of an image of `image_rows`.
    pub fn of(image_rows: Count) -> Self {
        Rows { map: 0, image_rows }
    }

    /// These rows of one image, for every image.
    pub fn shared(self) -> Self {
        Rows {
            map: self.map,
            ..Rows::SHARED
        }
    }

    /// The same rows found through the i32 list at device address `map`.
    pub fn through(self, map: u64) -> Self {
        Rows { map, ..self }
    }

    /// Row `i` is the row that the i32 list at device address `map` names, of an image of `image_rows`.
    pub fn listed(map: u64, image_rows: Count) -> Self {
        Rows { map, image_rows }
    }
}
