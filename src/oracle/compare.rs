//! Comparing tensors, and two graphs on the same data.

use std::collections::BTreeMap;

use fisec_ir::{Graph, LevelId, SlotId, ValueType};
use fisec_tensor::{DType, Mask};

use crate::{Oracle, OracleError, Run, Tensor, levels};

/// How far a tensor is from the one that it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// largest absolute difference
    pub absolute: f64,
    /// the same, over the largest magnitude of the reference
    pub relative: f64,
}

/// The difference over all elements that the reference defines. What is not a number in `found` but is one in `expected`
/// is infinitely far off; the shapes must be equal.
pub fn difference(found: &Tensor, expected: &Tensor) -> Result<Difference, String> {
    if found.shape != expected.shape {
        return Err(format!("shape [{}], expected [{}]", found.shape, expected.shape));
    }
    let mut largest = 0.0f64;
    let mut absolute = 0.0f64;
    for (&found, &expected) in found
        .data
        .iter()
        .zip(&expected.data)
        .filter(|(_, expected)| !expected.is_nan())
    {
        let apart = if found == expected {
            0.0
        } else {
            (found - expected).abs()
        };
        absolute = absolute.max(if apart.is_nan() { f64::INFINITY } else { apart });
        if expected.is_finite() {
            largest = largest.max(expected.abs());
        }
    }
    let relative = if absolute == 0.0 { 0.0 } else { absolute / largest };
    Ok(Difference { absolute, relative })
}

/// Data for every input and slot of a graph, and masks for its levels.
#[derive(Clone, Debug, Default)]
pub struct RandomData {
    /// inputs by name
    pub inputs: BTreeMap<String, Tensor>,
    /// slots by name
    pub slots: BTreeMap<String, Tensor>,
    /// one mask per level, finest first
    pub masks: Vec<Mask>,
}

/// Normal-looking data that depend only on seed, names and types: what two graphs call the same gets the same data.
/// Statistics (`[N, groups, 2]` slots without a level) have positive variances; about a third of the pixels are active.
pub fn random_data(graph: &Graph, seed: u64) -> RandomData {
    let mut data = RandomData::default();
    for (id, name) in graph.inputs() {
        data.inputs
            .insert(name.to_owned(), random_tensor(&graph.node(id).outputs()[0], seed, name));
    }
    for slot in graph.slots() {
        let mut tensor = random_tensor(&slot.value_type, seed, &slot.name);
        if slot.level.is_none() && tensor.shape.last() == Some(&2) {
            tensor
                .data
                .iter_mut()
                .skip(1)
                .step_by(2)
                .for_each(|variance| *variance = variance.abs() + 0.5);
        }
        data.slots.insert(slot.name.clone(), tensor);
    }
    if let Some((height, width)) = finest(graph) {
        let mut state = Noise::new(seed, "mask");
        let bits = (0..height * width).map(|_| state.next() > 0.4).collect();
        data.masks = levels(&Mask::new(height, width, bits), 8);
    }
    data
}

/// Evaluates both graphs on the same random data, twice, and fails where an output differs by more than `tolerance`
/// relative to its largest magnitude. Where the first is active or unread, the second may be anything.
pub fn compare(before: &Graph, after: &Graph, tolerance: f64) -> Result<(), String> {
    for seed in [1, 2] {
        let mut data = random_data(before, seed);
        let more = random_data(after, seed);
        data.inputs.extend(more.inputs);
        data.slots.extend(more.slots);
        if data.masks.is_empty() {
            data.masks = more.masks;
        }
        let [expected, found] = [before, after].map(|graph| evaluated(graph, &data).map_err(|error| error.to_string()));
        let (expected, found) = (expected?, found?);
        for (name, expected) in &expected.outputs {
            let found = found
                .outputs
                .get(name)
                .ok_or_else(|| format!("output `{name}` is gone"))?;
            let apart = difference(found, expected)?;
            if apart.relative > tolerance {
                return Err(format!(
                    "output `{name}` differs by {:.3e} (tolerance {tolerance:e})",
                    apart.relative
                ));
            }
        }
    }
    Ok(())
}

fn evaluated(graph: &Graph, data: &RandomData) -> Result<Run, OracleError> {
    let slots = graph.slots().iter().enumerate();
    let slots = slots.filter_map(|(id, slot)| Some((SlotId(id as u32), data.slots.get(&slot.name)?.clone())));
    Oracle::new(graph)
        .inputs(data.inputs.clone())
        .slots(slots)
        .masks(&data.masks)
        .run()
}

/// Rows and columns of level 0, from any active map or slot.
fn finest(graph: &Graph) -> Option<(usize, usize)> {
    let active = graph
        .ids()
        .into_iter()
        .flat_map(|id| graph.node(id).outputs())
        .filter_map(|output| Some((output.extent.level()?, output)));
    let recorded = graph
        .slots()
        .iter()
        .filter_map(|slot| Some((slot.level?, &slot.value_type)));
    let maps = active
        .chain(recorded)
        .filter_map(|(level, value)| match value.shape[..] {
            [_, _, height, width] => Some((level, height, width)),
            _ => None,
        });
    let (LevelId(level), height, width) = maps.min()?;
    // a coarser level says the finest size only up to rounding
    (level == 0).then_some((height, width)).or_else(|| {
        let input = graph
            .inputs()
            .into_iter()
            .find_map(|(id, _)| match graph.node(id).outputs()[0].shape[..] {
                [_, _, height, width] => Some((height, width)),
                _ => None,
            });
        input.or(Some((height.checked_shl(level)?, width.checked_shl(level)?)))
    })
}

fn random_tensor(value_type: &ValueType, seed: u64, name: &str) -> Tensor {
    let mut noise = Noise::new(seed, name);
    let integer = !value_type.dtype.is_float();
    let draw = |_| match (integer, noise.next()) {
        (true, value) if value_type.dtype == DType::Bool => f64::from(u8::from(value > 0.0)),
        (true, value) => (10.0 * value.abs()).floor(),
        (false, value) => 2.0 * value,
    };
    let data = (0..value_type.shape.elements()).map(draw).collect();
    Tensor::typed(value_type.dtype, value_type.shape.clone(), data)
}

/// Numbers in -1..1 (SplitMix64), seeded by a name.
struct Noise(u64);

impl Noise {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a
        Noise(name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}
