//! Binding a mask to a plan: active sets, the tile of every convolution, index tables.

use std::collections::HashMap;
use std::sync::Arc;

use fisec_kernels::cpu::{ConvGeometry, ConvTable};
use fisec_plan::{ConvKernel, Extent, Kernel, Plan, Program};
use fisec_tensor::{ActiveSet, Mask, TileSize, tile_pixels};

use crate::RuntimeError;

/// A plan's `edit` program under one mask. Binding takes well under a millisecond; every step of an edit uses the same.
#[derive(Clone, Debug)]
pub struct Binding {
    levels: Vec<ActiveSet>,
    tables: Vec<Option<Arc<ConvTable>>>,
    layers: Vec<LayerChoice>,
}

/// What a sparse convolution does under the bound mask.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerChoice {
    /// name of the plan's node
    pub node: String,
    /// level of its output
    pub level: u32,
    /// the chosen tile; 1×1 is the pixel list
    pub tile: TileSize,
    /// tiles that are computed
    pub tiles: usize,
    /// output pixels that are computed, active or not
    pub computed: usize,
    /// predicted time in ns, when the plan has costs for the layer
    pub predicted_ns: Option<f64>,
}

impl Binding {
    /// Binds `mask`, the active latents, to the plan. Coarser levels are its any-hit pools.
    pub fn bind(plan: &Plan, mask: &Mask) -> Result<Self, RuntimeError> {
        let program = plan.programs.edit.as_ref().ok_or(RuntimeError::NoProgram("edit"))?;
        if (mask.height(), mask.width()) != (plan.latent[1], plan.latent[2]) {
            return Err(RuntimeError::MaskSize {
                height: mask.height(),
                width: mask.width(),
                expected_height: plan.latent[1],
                expected_width: plan.latent[2],
            });
        }
        let mut binder = Binder {
            program,
            levels: active_sets(plan, mask)?,
            tiles: HashMap::new(),
            outputs: HashMap::new(),
            tables: HashMap::new(),
        };
        let mut binding = Binding {
            levels: Vec::new(),
            tables: vec![None; program.nodes.len()],
            layers: Vec::new(),
        };
        for (index, node) in program.nodes.iter().enumerate() {
            let Kernel::Conv(conv) = &node.kernel else { continue };
            let Extent::Active(level) = program.values[conv.output.index()].extent else {
                continue;
            };
            let choice = binder.choose(&node.name, conv, level);
            let table = binder.table(conv, level, choice.tile);
            binder.check_reads(&node.name, conv, &table)?;
            binding.layers.push(LayerChoice {
                computed: table.outputs().len(),
                ..choice
            });
            binding.tables[index] = Some(table);
        }
        binding.levels = binder.levels;
        Ok(binding)
    }

    /// The active set of a level.
    pub fn active(&self, level: u32) -> &ActiveSet {
        &self.levels[level as usize]
    }

    /// Active sets, in the order of the plan's levels.
    pub fn levels(&self) -> &[ActiveSet] {
        &self.levels
    }

    /// Sparse convolutions in execution order.
    pub fn layers(&self) -> &[LayerChoice] {
        &self.layers
    }

    /// Whether this may be a binding of `plan`: as many nodes, levels of the same sizes.
    pub(crate) fn fits(&self, plan: &Plan) -> bool {
        let nodes = plan.programs.edit.as_ref().map(|program| program.nodes.len());
        let sizes = plan.levels.iter().map(|level| (level.height, level.width));
        let bound = self.levels.iter().map(|set| (set.mask().height(), set.mask().width()));
        nodes == Some(self.tables.len()) && sizes.eq(bound)
    }

    /// The table of a node of the `edit` program, when it is a sparse convolution.
    pub(crate) fn table(&self, node: usize) -> Option<&ConvTable> {
        self.tables.get(node)?.as_deref()
    }
}

/// One active set per level; the finest is the mask.
fn active_sets(plan: &Plan, mask: &Mask) -> Result<Vec<ActiveSet>, RuntimeError> {
    let mut sets: Vec<ActiveSet> = Vec::with_capacity(plan.levels.len());
    for (index, level) in plan.levels.iter().enumerate() {
        let pooled = match level.around {
            Some(inner) => sets[inner as usize].mask().dilated(1),
            None => sets.last().map_or_else(|| mask.clone(), |finer| finer.mask().pooled()),
        };
        if (pooled.height(), pooled.width()) != (level.height, level.width) {
            return Err(RuntimeError::plan(
                format!("level {index}"),
                "its size is not half of the level above",
            ));
        }
        sets.push(ActiveSet::new(pooled));
    }
    Ok(sets)
}

/// What layers share: tile counts per (level, tile), output lists, index tables.
struct Binder<'a> {
    program: &'a Program,
    levels: Vec<ActiveSet>,
    tiles: HashMap<(u32, TileSize), usize>,
    outputs: HashMap<(u32, TileSize), Outputs>,
    tables: HashMap<(u32, TileSize, ConvGeometry), Arc<ConvTable>>,
}

/// Pixels to compute, and where the active ones stand among them.
type Outputs = (Vec<u32>, Option<Vec<u32>>);

impl Binder<'_> {
    /// The candidate with the lowest predicted time, the pixel list when there is none.
    fn choose(&mut self, node: &str, conv: &ConvKernel, level: u32) -> LayerChoice {
        let mut best = LayerChoice {
            node: node.to_owned(),
            level,
            tile: TileSize::PIXEL,
            tiles: self.levels[level as usize].len(),
            computed: 0,
            predicted_ns: None,
        };
        for candidate in &conv.candidates {
            let active = &self.levels[level as usize];
            let count = *self
                .tiles
                .entry((level, candidate.tile))
                .or_insert_with(|| count_tiles(active, candidate.tile));
            let predicted = candidate.predict(count);
            if best.predicted_ns.is_none_or(|lowest| predicted < lowest) {
                best.tile = candidate.tile;
                best.tiles = count;
                best.predicted_ns = Some(predicted);
            }
        }
        best
    }

    fn table(&mut self, conv: &ConvKernel, level: u32, tile: TileSize) -> Arc<ConvTable> {
        let geometry = geometry(conv);
        let active = &self.levels[level as usize];
        let (outputs, kept) = self
            .outputs
            .entry((level, tile))
            .or_insert_with(|| covered(active, tile));
        let table = self.tables.entry((level, tile, geometry));
        table
            .or_insert_with(|| Arc::new(ConvTable::new(&geometry, outputs.clone(), kept.clone())))
            .clone()
    }

    /// Fails when an active output would read a pixel that is neither active nor recorded.
    fn check_reads(&self, node: &str, conv: &ConvKernel, table: &ConvTable) -> Result<(), RuntimeError> {
        for source in conv.sources.iter().filter(|source| source.outside.is_none()) {
            let Extent::Active(level) = self.program.values[source.value.index()].extent else {
                continue;
            };
            let ranks = self.levels[level as usize].ranks();
            if table.unknown_reads(|pixel| ranks[pixel] >= 0) > 0 {
                return Err(RuntimeError::plan(
                    node,
                    "it reads outside the active set, where nothing is recorded",
                ));
            }
        }
        Ok(())
    }
}

/// The convolution's sizes as the kernels take them.
pub(crate) fn geometry(conv: &ConvKernel) -> ConvGeometry {
    ConvGeometry {
        input: conv.input_size,
        upsample: conv.upsample,
        output: conv.output_size,
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv.padding,
        by_parity: conv.by_parity.is_some(),
    }
}

fn covered(active: &ActiveSet, tile: TileSize) -> Outputs {
    if tile == TileSize::PIXEL {
        return (active.pixels().to_vec(), None);
    }
    let computed = ActiveSet::new(tile_pixels(active.mask(), tile));
    if computed.len() == active.len() {
        return (active.pixels().to_vec(), None);
    }
    let positions = active
        .pixels()
        .iter()
        .map(|&pixel| computed.ranks()[pixel as usize] as u32);
    let kept = Some(positions.collect());
    (computed.pixels().to_vec(), kept)
}

/// Number of tiles that hold an active pixel.
fn count_tiles(active: &ActiveSet, tile: TileSize) -> usize {
    if tile == TileSize::PIXEL {
        return active.len();
    }
    let (height, width) = (active.mask().height(), active.mask().width());
    let columns = width.div_ceil(tile.width);
    let tile_column: Vec<u32> = (0..width).map(|column| (column / tile.width) as u32).collect();
    let mut hit = vec![false; height.div_ceil(tile.height) * columns];
    for (row, bits) in active.mask().bits().chunks_exact(width).enumerate() {
        let hit = &mut hit[row / tile.height * columns..][..columns];
        for (column, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
            hit[tile_column[column] as usize] = true;
        }
    }
    hit.into_iter().filter(|&hit| hit).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fisec_tensor::active_tiles;

    #[test]
    fn counts_agree_with_the_list_of_tiles() {
        let mask = Mask::from_fn(13, 17, |y, x| (y * 7 + x * 3) % 11 == 0);
        let active = ActiveSet::new(mask.clone());
        for tile in [
            TileSize::PIXEL,
            TileSize::new(2, 4),
            TileSize::new(8, 3),
            TileSize::new(32, 32),
        ] {
            assert_eq!(count_tiles(&active, tile), active_tiles(&mask, tile).len(), "{tile}");
        }
    }

    #[test]
    fn kept_positions_are_the_active_pixels() {
        let active = ActiveSet::new(Mask::from_fn(6, 6, |y, x| y == x));
        let (outputs, kept) = covered(&active, TileSize::new(2, 2));
        let kept: Vec<u32> = kept
            .unwrap()
            .iter()
            .map(|&position| outputs[position as usize])
            .collect();
        assert_eq!(outputs.len(), 12);
        assert_eq!(kept, active.pixels());
    }
}
