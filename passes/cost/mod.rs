//! Predicted times: which levels pay, which tile a layer may use, from which mask size on a dense step is faster.

mod predict;
mod table;
mod tiles;

pub use predict::{Predictor, pooled_masks};
pub use table::CostTable;
pub use tiles::{TILE_SIDES, candidates, paper_objective};
