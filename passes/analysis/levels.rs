//! The resolutions of a U-Net.

use fisec_ir::{Graph, LevelId, Op, ValueType};
use fisec_tensor::Shape;

/// The chain of resolutions, finest first: each has half the rows and columns of the one before, rounded up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(Vec<(usize, usize)>);

impl Levels {
    /// The levels of a graph whose latent input is `sample`, down to the smallest map that it computes.
    pub fn of(graph: &Graph, sample: &Shape) -> Self {
        let [_, _, height, width] = sample[..] else {
            return Levels(Vec::new());
        };
        let mut sizes = vec![(height, width)];
        loop {
            let (height, width) = *sizes.last().expect("never empty");
            let next = (height.div_ceil(2), width.div_ceil(2));
            if next == (height, width) || !has_map(graph, next) {
                return Levels(sizes);
            }
            sizes.push(next);
        }
    }

    /// Rows and columns of each level.
    pub fn sizes(&self) -> &[(usize, usize)] {
        &self.0
    }

    /// The level whose map `[N, C, H, W]` or tokens `[N, H*W, C]` have this shape. Other values may have it too:
    /// [`Places`](super::Places) says whether a value is of the level.
    pub fn fitting(&self, value: &ValueType) -> Option<LevelId> {
        let position = match value.shape[..] {
            [_, _, height, width] => self.0.iter().position(|&size| size == (height, width)),
            [_, tokens, _] => self.0.iter().position(|&(height, width)| height * width == tokens),
            _ => None,
        };
        position.map(|index| LevelId(index as u32))
    }
}

fn has_map(graph: &Graph, size: (usize, usize)) -> bool {
    graph
        .ids()
        .into_iter()
        .filter(|&id| matches!(graph.op(id), Op::Conv(_)))
        .any(|id| {
            let shape = &graph.node(id).outputs()[0].shape;
            matches!(shape[..], [_, _, height, width] if (height, width) == size)
        })
}
