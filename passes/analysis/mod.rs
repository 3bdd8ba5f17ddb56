//! Facts about a graph that several passes need. Nothing here changes a graph.

mod doubled;
mod levels;
mod macs;
mod masks;
mod places;
mod stages;

pub use doubled::{input_size, is_doubled, multiplied_taps};
pub use levels::Levels;
pub use macs::{dense_macs, sparse_macs};
pub use masks::{REFERENCE_SHARES, representative_mask};
pub use places::Places;
pub use stages::Stages;
