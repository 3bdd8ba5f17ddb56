//! What the axes of every value count: images, rows and columns of a level, or something else.
//!
//! A tensor whose shape looks like a level's map need not be one: its axes may be swapped, flipped, shifted, or count
//! heads and channels that happen to be as many. An axis counts what it is proved to count, from the model's inputs on,
//! by [what each operator does to places](fisec_ir::dependence); after an operator that is not known it counts nothing.

use std::collections::HashMap;

use fisec_ir::{Dependence, Graph, GraphError, LevelId, NodeId, Op, Reading, ValueId};

use super::Levels;
use crate::roles::Roles;

/// What a run of indices counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// the images of a step, or one that stands for all
    Images,
    /// rows of a level's map, in order
    Rows(LevelId),
    /// columns of a level's map, in order
    Columns(LevelId),
    /// anything else
    Other,
}

/// A factor of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Factor {
    what: What,
    size: usize,
}

/// The factors of one axis, outermost first.
type Axis = Vec<Factor>;

/// The axes of every value of a graph.
#[derive(Clone, Debug, Default)]
pub struct Places(HashMap<ValueId, Vec<Axis>>);

impl Places {
    /// Of a denoiser with these inputs and levels.
    ///
    /// # Errors
    /// Fails on a cycle.
    pub fn of(graph: &Graph, roles: &Roles, levels: &Levels) -> Result<Self, GraphError> {
        let mut places = Places::default();
        for id in graph.ordered()? {
            for output in 0..graph.node(id).outputs().len() {
                let axes = places.output(graph, roles, levels, id, output);
                let value = ValueId {
                    node: id,
                    output: output as u32,
                };
                places.0.insert(value, axes);
            }
        }
        Ok(places)
    }

    /// The level of a value that is proved to be a map `[N, C, H, W]` or tokens `[N, H*W, C]` of it.
    pub fn level_of(&self, value: ValueId) -> Option<LevelId> {
        let axes = self.0.get(&value)?;
        let (rows, columns) = match &axes[..] {
            [images, _, rows, columns] if is_images(images) => (only(rows)?, only(columns)?),
            [images, pixels, _] if is_images(images) => match pixels[..] {
                [rows, columns] => (rows, columns),
                _ => return None,
            },
            _ => return None,
        };
        match (rows.what, columns.what) {
            (What::Rows(level), What::Columns(same)) if level == same => Some(level),
            _ => None,
        }
    }

    /// Whether the first axis of a value is proved to count the images of a step.
    pub fn counts_images(&self, value: ValueId) -> bool {
        self.0.get(&value).and_then(|axes| axes.first()).is_some_and(is_images)
    }

    fn output(&self, graph: &Graph, roles: &Roles, levels: &Levels, id: NodeId, output: usize) -> Vec<Axis> {
        let shape = graph.node(id).outputs()[output].shape.to_vec();
        if let Op::Input(name) = graph.op(id) {
            return input(name, roles, &shape);
        }
        let operand = |position: usize| {
            let value = graph.operands(id).get(position)?.value()?;
            self.0.get(&value)
        };
        if let (Op::Repeat { .. }, Some(axes)) = (graph.op(id), operand(0)) {
            return repeated(axes, &shape);
        }
        match Dependence::of(graph, id, output) {
            Dependence::Regrouped => operand(0)
                .and_then(|axes| regrouped(axes, &shape))
                .unwrap_or_else(|| unknown(&shape)),
            Dependence::Axes(operands) => (0..shape.len())
                .map(|axis| {
                    let found = operands.iter().enumerate().filter_map(|(position, readings)| {
                        let reading = *readings.get(axis)?;
                        followed(reading, operand(position)?, shape[axis], levels)
                    });
                    agreed(found, shape[axis])
                })
                .collect(),
        }
    }
}

fn is_images(axis: &Axis) -> bool {
    matches!(axis[..], [Factor { what: What::Images, .. }])
}

fn only(axis: &Axis) -> Option<Factor> {
    match axis[..] {
        [factor] => Some(factor),
        _ => None,
    }
}

fn other(size: usize) -> Axis {
    vec![Factor {
        what: What::Other,
        size,
    }]
}

fn unknown(shape: &[usize]) -> Vec<Axis> {
    shape.iter().map(|&size| other(size)).collect()
}

fn input(name: &str, roles: &Roles, shape: &[usize]) -> Vec<Axis> {
    let mut axes = unknown(shape);
    let is_known = [&roles.sample, &roles.timestep, &roles.context].contains(&&name.to_owned());
    if let Some(first) = axes.first_mut().filter(|_| is_known) {
        first[0].what = What::Images;
    }
    if let [_, _, rows, columns] = &mut axes[..]
        && name == roles.sample
    {
        rows[0].what = What::Rows(LevelId(0));
        columns[0].what = What::Columns(LevelId(0));
    }
    axes
}

/// One image as several.
fn repeated(axes: &[Axis], shape: &[usize]) -> Vec<Axis> {
    let mut axes = axes.to_vec();
    if let Some(first) = axes.first_mut() {
        match is_images(first) {
            true => first[0].size = shape[0],
            false => *first = other(shape[0]),
        }
    }
    axes
}

/// What an axis of the result counts that is read so from an operand with these axes.
fn followed(reading: Reading, axes: &[Axis], size: usize, levels: &Levels) -> Option<Axis> {
    match reading {
        Reading::Same(axis) | Reading::Placed(axis) => axes.get(axis).cloned(),
        Reading::Joined(first, second) => Some([&axes.get(first)?[..], axes.get(second)?].concat()),
        Reading::Split(axis, inner) => match axes.get(axis)?[..] {
            [outer, within] => Some(vec![if inner { within } else { outer }]),
            _ => None,
        },
        Reading::Near(axis) => resized(only(axes.get(axis)?)?, size, levels).map(|factor| vec![factor]),
        Reading::Whole => None,
    }
    .filter(|axis| axis.iter().map(|factor| factor.size).product::<usize>() == size)
}

/// Rows or columns of a level at another resolution: half as many, rounded up, or as many as are halved to these.
fn resized(factor: Factor, size: usize, levels: &Levels) -> Option<Factor> {
    let sides = |level: u32| {
        let (rows, columns) = *levels.sizes().get(level as usize)?;
        Some(match factor.what {
            What::Rows(_) => rows,
            _ => columns,
        })
    };
    let (What::Rows(LevelId(level)) | What::Columns(LevelId(level))) = factor.what else {
        return None;
    };
    let coarser = level + 1;
    let found = match size {
        size if size == factor.size => level,
        size if size == factor.size.div_ceil(2) && sides(coarser) == Some(size) => coarser,
        size if size.div_ceil(2) == factor.size => level.checked_sub(1).filter(|&finer| sides(finer) == Some(size))?,
        _ => return None,
    };
    let what = match factor.what {
        What::Rows(_) => What::Rows(LevelId(found)),
        _ => What::Columns(LevelId(found)),
    };
    Some(Factor { what, size })
}

/// What all operands that say something say; operands that disagree prove nothing.
fn agreed(found: impl Iterator<Item = Axis>, size: usize) -> Axis {
    let mut telling = found.filter(|axis| axis.iter().any(|factor| factor.what != What::Other));
    let Some(first) = telling.next() else {
        return other(size);
    };
    match telling.all(|axis| axis == first) {
        true => first,
        false => other(size),
    }
}

/// The same elements in the same order under another shape. Rows, columns and images stay whole; other factors are cut
/// where the shape cuts them.
fn regrouped(axes: &[Axis], shape: &[usize]) -> Option<Vec<Axis>> {
    let mut rest: Vec<Factor> = axes.iter().flatten().copied().collect();
    rest.reverse();
    let mut result = Vec::with_capacity(shape.len());
    for (place, &size) in shape.iter().enumerate() {
        let mut axis: Axis = Vec::new();
        let mut missing = size;
        // an axis of length 1 takes a factor of length 1 when there is one for it
        while missing > 1 || axis.is_empty() {
            let Some(factor) = rest.pop() else { break };
            if missing.is_multiple_of(factor.size.max(1)) && factor.size > 0 {
                missing /= factor.size;
                axis.push(factor);
            } else if factor.what == What::Other && missing > 1 && factor.size.is_multiple_of(missing) {
                rest.push(Factor {
                    size: factor.size / missing,
                    ..factor
                });
                axis.push(Factor {
                    size: missing,
                    ..factor
                });
                missing = 1;
            } else if missing == 1 {
                rest.push(factor);
                break;
            } else {
                return None;
            }
        }
        if missing > 1 {
            return None;
        }
        let is_last = place + 1 == shape.len();
        while is_last && rest.last().is_some_and(|factor| factor.size == 1) {
            rest.pop();
        }
        result.push(tidy(axis, size));
    }
    rest.is_empty().then_some(result)
}

/// Without factors of length 1 that say nothing, and other factors side by side as one.
fn tidy(axis: Axis, size: usize) -> Axis {
    let mut tidied: Axis = Vec::new();
    for factor in axis {
        match tidied.last_mut() {
            _ if factor.what == What::Other && factor.size == 1 => {}
            Some(last) if last.what == What::Other && factor.what == What::Other => last.size *= factor.size,
            _ => tidied.push(factor),
        }
    }
    match tidied.is_empty() {
        true => other(size),
        false => tidied,
    }
}
