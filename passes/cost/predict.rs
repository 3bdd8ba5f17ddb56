//! Predicted time of a step.

use std::cell::RefCell;
use std::collections::HashMap;

use fisec_ir::{Graph, NodeId, Op, Stage, ValueId};
use fisec_plan::TileCandidate;
use fisec_tensor::{Mask, TileSize, active_tiles};

use super::{CostTable, candidates};
use crate::analysis::{Levels, Places, Stages, dense_macs, representative_mask};

/// Share of active latents that levels are chosen for: the middle of what edits touch.
const TYPICAL_SHARE: f64 = 0.15;

/// Any-hit pools of a mask, one per level.
pub fn pooled_masks(mask: Mask, levels: &Levels) -> Vec<Mask> {
    let mut masks = vec![mask];
    while masks.len() < levels.sizes().len() {
        masks.push(masks.last().expect("never empty").pooled());
    }
    masks
}

/// Predicts steps of one dense graph under different masks and choices of sparse levels.
pub struct Predictor<'a> {
    levels: &'a Levels,
    table: &'a CostTable,
    work: Vec<Work>,
    edges: RefCell<HashMap<u64, Vec<LevelTiles>>>,
}

/// What one operator costs, dense and sparse.
struct Work {
    level: Option<usize>,
    macs: f64,
    bytes: f64,
    tiles: Vec<TileCandidate>,
}

/// The mask of a level, with the number of active tiles of the sizes asked for so far.
struct LevelTiles {
    mask: Mask,
    counts: HashMap<TileSize, usize>,
}

impl LevelTiles {
    fn count(&mut self, tile: TileSize) -> usize {
        let mask = &self.mask;
        *self
            .counts
            .entry(tile)
            .or_insert_with(|| active_tiles(mask, tile).len())
    }
}

impl<'a> Predictor<'a> {
    /// Looks at every operator that runs each step.
    pub fn new(graph: &Graph, stages: &Stages, levels: &'a Levels, places: &Places, table: &'a CostTable) -> Self {
        let steps = graph.ids().into_iter().filter(|&id| stages.get(id) == Stage::Step);
        let work = steps.filter_map(|id| work(graph, id, places, table)).collect();
        Predictor {
            levels,
            table,
            work,
            edges: RefCell::default(),
        }
    }

    /// Number of levels.
    fn count(&self) -> usize {
        self.levels.sizes().len()
    }

    /// Predicted time in ns of one step when the `sparse_levels` finest levels compute only a representative mask of
    /// `share` active latents.
    pub fn step(&self, share: f64, sparse_levels: usize) -> f64 {
        let mut edges = self.edges.borrow_mut();
        let masks = edges.entry(share.to_bits()).or_insert_with(|| self.masks(share));
        let nodes: f64 = self.work.iter().map(|work| self.node(work, sparse_levels, masks)).sum();
        nodes
            + if sparse_levels < self.count() {
                self.table.island
            } else {
                0.0
            }
    }

    fn masks(&self, share: f64) -> Vec<LevelTiles> {
        let (height, width) = self.levels.sizes().first().copied().unwrap_or((1, 1));
        let pooled = pooled_masks(representative_mask(height, width, share), self.levels);
        pooled
            .into_iter()
            .map(|mask| LevelTiles {
                mask,
                counts: HashMap::new(),
            })
            .collect()
    }

    fn node(&self, work: &Work, sparse_levels: usize, masks: &mut [LevelTiles]) -> f64 {
        let Some(level) = work.level.filter(|&level| level < sparse_levels) else {
            return self.table.dense.predict(1, 0.0, work.macs);
        };
        if work.tiles.is_empty() {
            let share = masks[level].mask.share();
            return self.table.rows.predict(1, work.bytes * share, work.macs * share);
        }
        let times = work
            .tiles
            .iter()
            .map(|candidate| candidate.predict(masks[level].count(candidate.tile)));
        times.fold(f64::INFINITY, f64::min)
    }

    /// How many of the finest levels should be sparse, with the predicted time in ns for every choice (index: levels).
    pub fn choose_levels(&self) -> (usize, Vec<f64>) {
        let times: Vec<f64> = (0..=self.count())
            .map(|count| self.step(TYPICAL_SHARE, count))
            .collect();
        let best = (0..times.len())
            .min_by(|&a, &b| times[a].total_cmp(&times[b]))
            .unwrap_or(0);
        (best, times)
    }

    /// Share of active latents above which a dense step is predicted to be faster, 0 to 1.
    pub fn break_even(&self, sparse_levels: usize) -> f64 {
        let dense = self.step(1.0, 0);
        if self.step(1.0, sparse_levels) <= dense {
            return 1.0;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..10 {
            let middle = (low + high) / 2.0;
            if self.step(middle, sparse_levels) < dense {
                low = middle
            } else {
                high = middle
            }
        }
        low
    }
}

fn work(graph: &Graph, id: NodeId, places: &Places, table: &CostTable) -> Option<Work> {
    let macs = dense_macs(graph, id) as f64;
    let output = graph.node(id).outputs().first().filter(|_| macs > 0.0)?;
    let tiles = match graph.op(id) {
        Op::Conv(conv) => candidates(conv, &graph.operand_type(graph.operands(id)[0])?, output, table),
        _ => Vec::new(),
    };
    let level = places
        .level_of(ValueId { node: id, output: 0 })
        .map(|level| level.0 as usize);
    let bytes = output.shape.elements() as f64 * output.dtype.size() as f64;
    Some(Work {
        level,
        macs,
        bytes,
        tiles,
    })
}
