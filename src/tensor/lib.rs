//! Element types, shapes, host tensors, masks and tile arithmetic.
//!
//! The innermost room: values in, values out, no I/O, and no knowledge of graphs, plans or devices.

mod active;
mod area;
mod constant;
mod dtype;
mod host;
mod mask;
mod parity;
mod permute;
mod shape;
mod tile;

pub use active::ActiveSet;
pub use area::Area;
pub use constant::{Constant, Transform};
pub use dtype::DType;
pub use host::{HostTensor, TensorError};
pub use mask::Mask;
pub use parity::{PARITIES, PARITY_TAPS, first_source, parity, tap_of_parity};
pub use shape::Shape;
pub use tile::{TileSize, active_tiles, tile_pixels};
