//! Views: what chains of reshapes and transposes do to the order of elements.
//!
//! Exporters write one regrouping of axes in many ways. A [`View`] says for each axis of the result which strides of
//! the source it walks over, so that all spellings of one regrouping compare equal.

use fisec_ir::{Attribute, Graph, Op, ValueId};
use fisec_tensor::Shape;

use super::pattern::value_at;

/// A run of `size` indices, `stride` elements of the source apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Factor {
    pub size: usize,
    pub stride: usize,
}

/// A tensor as a view of a row-major source: per axis the factors that its index splits into, outermost first.
#[derive(Clone, Debug)]
pub(super) struct View {
    axes: Vec<Vec<Factor>>,
}

/// One reordering operator.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Reshape(Shape),
    Permute(Vec<usize>),
}

impl View {
    /// The view of a whole tensor.
    pub fn whole(shape: &Shape) -> Self {
        let factor =
            |(&size, stride): (&usize, usize)| (size != 1).then_some(Factor { size, stride }).into_iter().collect();
        View {
            axes: shape.iter().zip(shape.strides()).map(factor).collect(),
        }
    }

    /// The view after one more step; `None` when a reshape cuts across axes in a way that no view can express.
    pub fn then(&self, step: &Step) -> Option<Self> {
        match step {
            Step::Permute(order) => Some(View {
                axes: order.iter().map(|&axis| self.axes[axis].clone()).collect(),
            }),
            Step::Reshape(shape) => self.reshaped(shape),
        }
    }

    fn reshaped(&self, shape: &Shape) -> Option<Self> {
        let mut rest: Vec<Factor> = self.layout();
        if rest.iter().any(|factor| factor.size == 0) || shape.contains(&0) {
            return None;
        }
        rest.reverse();
        let mut axes = Vec::with_capacity(shape.len());
        for &size in shape.iter() {
            let mut factors = Vec::new();
            let mut missing = size;
            while missing > 1 {
                let factor = rest.pop()?;
                if missing % factor.size == 0 {
                    missing /= factor.size;
                    factors.push(factor);
                } else if factor.size % missing == 0 {
                    let inner = factor.size / missing;
                    factors.push(Factor {
                        size: missing,
                        stride: factor.stride * inner,
                    });
                    rest.push(Factor {
                        size: inner,
                        stride: factor.stride,
                    });
                    missing = 1;
                } else {
                    return None;
                }
            }
            axes.push(factors);
        }
        rest.is_empty().then_some(View { axes })
    }

    /// The order of elements alone: factors of all axes, neighbours that continue each other joined.
    pub fn layout(&self) -> Vec<Factor> {
        joined(self.axes.iter().flatten().copied())
    }

    /// The order of elements along one axis.
    pub fn axis(&self, axis: usize) -> Vec<Factor> {
        joined(self.axes[axis].iter().copied())
    }

    /// Whether the elements are in the order of the source.
    pub fn is_contiguous(&self) -> bool {
        matches!(self.layout()[..], [] | [Factor { stride: 1, .. }])
    }

    /// Whether the elements are in the order that a transposition of the `[outer, rows, columns]` source to
    /// `[outer, columns, rows]` gives.
    pub fn is_transposed(&self, outer: usize, rows: usize, columns: usize) -> bool {
        let swapped = View::whole(&vec![outer, rows, columns].into()).then(&Step::Permute(vec![0, 2, 1]));
        swapped.is_some_and(|swapped| swapped.layout() == self.layout())
    }
}

fn joined(factors: impl Iterator<Item = Factor>) -> Vec<Factor> {
    let mut layout: Vec<Factor> = Vec::new();
    for factor in factors {
        match layout.last_mut() {
            Some(last) if last.stride == factor.stride * factor.size => {
                last.size *= factor.size;
                last.stride = factor.stride;
            }
            _ => layout.push(factor),
        }
    }
    layout
}

/// The value that a reordering operator reads, and what it does; `None` for other operators.
pub(super) fn reordering(graph: &Graph, value: ValueId) -> Option<(ValueId, Vec<Step>)> {
    let source = value_at(graph, value.node, 0)?;
    let shape = graph.value_type(value).shape.clone();
    let from = &graph.value_type(source).shape;
    let steps = match graph.op(value.node) {
        Op::Tokens => vec![
            Step::Reshape(vec![shape[0], shape[2], shape[1]].into()),
            Step::Permute(vec![0, 2, 1]),
        ],
        Op::Spatial { .. } => vec![Step::Permute(vec![0, 2, 1]), Step::Reshape(shape)],
        Op::Onnx(op) if op.domain.is_empty() => match op.op_type.as_str() {
            "Reshape" | "Unsqueeze" | "Squeeze" | "Flatten" => vec![Step::Reshape(shape)],
            "Expand" if from.elements() == shape.elements() => vec![Step::Reshape(shape)],
            "Transpose" => vec![Step::Permute(match op.attributes.get("perm") {
                Some(Attribute::Ints(perm)) => perm.iter().map(|&axis| axis as usize).collect(),
                _ => (0..shape.len()).rev().collect(),
            })],
            _ => return None,
        },
        _ => return None,
    };
    Some((source, steps))
}

/// The furthest source that `value` is a view of, through reorderings only.
pub(super) fn trace(graph: &Graph, value: ValueId) -> (ValueId, View) {
    trace_through(graph, value, reordering)
}

/// Operators that a chain is followed through: exporters write a handful, and every one costs each look at the chain.
pub(super) const REACH: usize = 64;

/// The furthest source that `value` is a view of, through whatever `look` sees through, [`REACH`] operators at most.
pub(super) fn trace_through(
    graph: &Graph,
    value: ValueId,
    mut look: impl FnMut(&Graph, ValueId) -> Option<(ValueId, Vec<Step>)>,
) -> (ValueId, View) {
    let mut links = Vec::new();
    let mut source = value;
    while links.len() < REACH {
        let Some((before, steps)) = look(graph, source) else {
            break;
        };
        links.push((source, steps));
        source = before;
    }
    let mut view = View::whole(&graph.value_type(source).shape);
    for (result, steps) in links.into_iter().rev() {
        let next = steps.iter().try_fold(view.clone(), |view, step| view.then(step));
        view = next.unwrap_or_else(|| {
            source = result;
            View::whole(&graph.value_type(result).shape)
        });
    }
    (source, view)
}

#[cfg(test)]
mod tests {
    use fisec_tensor::{Constant, HostTensor, Transform};

    use super::*;

    /// Source offsets in the order of a layout.
    fn offsets(layout: &[Factor]) -> Vec<i64> {
        let Some((outer, inner)) = layout.split_first() else {
            return vec![0];
        };
        let inner = offsets(inner);
        let shifted = |index: usize| inner.iter().map(move |offset| offset + (index * outer.stride) as i64);
        (0..outer.size).flat_map(shifted).collect()
    }

    fn assert_follows(shape: &[usize], steps: &[Step]) {
        let count: usize = shape.iter().product();
        let mut data = Constant::from(HostTensor::from_i64(shape.to_vec(), (0..count as i64).collect()));
        let mut view = View::whole(&shape.to_vec().into());
        for step in steps {
            data = data.transformed(match step {
                Step::Reshape(shape) => Transform::Reshape(shape.clone()),
                Step::Permute(order) => Transform::Permute(order.clone()),
            });
            view = view.then(step).expect("a view");
        }
        assert_eq!(offsets(&view.layout()), data.materialize().to_i64_vec(), "{steps:?}");
    }

    fn reshape(shape: &[usize]) -> Step {
        Step::Reshape(shape.to_vec().into())
    }

    fn permute(order: &[usize]) -> Step {
        Step::Permute(order.to_vec())
    }

    #[test]
    fn views_follow_the_data() {
        assert_follows(
            &[2, 6, 4],
            &[reshape(&[2, 6, 2, 2]), permute(&[0, 2, 1, 3]), reshape(&[4, 6, 2])],
        );
        assert_follows(
            &[2, 6, 4],
            &[
                reshape(&[2, 6, 2, 2]),
                permute(&[0, 2, 3, 1]),
                reshape(&[2, 2, 2, 3, 2]),
            ],
        );
        assert_follows(
            &[3, 4, 2, 5],
            &[permute(&[0, 2, 3, 1]), reshape(&[3, 10, 4]), permute(&[2, 0, 1])],
        );
        assert_follows(
            &[1, 4, 1, 6],
            &[permute(&[0, 3, 2, 1]), reshape(&[6, 4]), permute(&[1, 0])],
        );
        assert_follows(&[], &[reshape(&[1, 1]), permute(&[1, 0])]);
    }

    #[test]
    fn spellings_of_one_regrouping_are_equal() {
        let source: Shape = vec![2, 6, 8].into();
        let layout = |steps: &[Step]| {
            let view = steps
                .iter()
                .try_fold(View::whole(&source), |view, step| view.then(step));
            view.expect("a view").layout()
        };
        let at_once = layout(&[reshape(&[2, 6, 2, 4]), permute(&[0, 2, 3, 1])]);
        let in_turn = layout(&[
            reshape(&[2, 6, 2, 4]),
            permute(&[0, 2, 1, 3]),
            reshape(&[4, 6, 4]),
            permute(&[0, 2, 1]),
            reshape(&[2, 2, 4, 6]),
        ]);
        assert_eq!(at_once, in_turn);
    }

    #[test]
    fn a_cut_across_axes_is_no_view() {
        let turned = View::whole(&vec![4, 6].into()).then(&permute(&[1, 0])).expect("a view");
        assert!(turned.then(&reshape(&[4, 6])).is_none());
        assert!(turned.then(&reshape(&[6, 2, 2])).is_some());
    }
}
