//! ONNX operators that no pass raised.

use fisec_tensor::Shape;

use super::{Dependence, Reading, broadcast, same_but, shape_of};
use crate::{Attribute, Equation, Graph, NodeId, OnnxOp, Operand, ValueType};

/// Every element of the result is made of the elements of the operands at its own place.
const ELEMENTWISE: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Div",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Where",
    "Xor",
];
/// The same for ONNX Runtime's own operators.
const CONTRIB_ELEMENTWISE: &[&str] = &["BiasGelu", "FastGelu", "Gelu", "QuickGelu"];
/// Operators that take the first operand's elements one by one and know the others as parameters of an axis.
const FIRST_ELEMENTWISE: &[&str] = &[
    "BatchNormalization",
    "CastLike",
    "DequantizeLinear",
    "Dropout",
    "QuantizeLinear",
];
/// Operators that leave nothing of some axes but one number.
const REDUCTIONS: &[&str] = &[
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
];

pub(super) fn dependence(graph: &Graph, id: NodeId, op: &OnnxOp, result: &ValueType) -> Dependence {
    let node = Opaque {
        graph,
        operands: graph.operands(id),
        op,
        result: &result.shape,
    };
    let known = match op.domain.as_str() {
        "" | "ai.onnx" => node.standard(),
        "com.microsoft" => node.contrib(),
        _ => None,
    };
    known.unwrap_or_else(|| Dependence::Axes(vec![vec![Reading::Whole; result.shape.len()]; node.operands.len()]))
}

struct Opaque<'a> {
    graph: &'a Graph,
    operands: &'a [Operand],
    op: &'a OnnxOp,
    result: &'a Shape,
}

impl Opaque<'_> {
    /// `None` where nothing is known.
    fn standard(&self) -> Option<Dependence> {
        let name = self.op.op_type.as_str();
        let rank = self.result.len();
        let axes = match name {
            _ if ELEMENTWISE.contains(&name) => return Some(self.elementwise()),
            // its statistics are those of the batch then
            "BatchNormalization" if self.op.int("training_mode", 0) != 0 => return None,
            _ if FIRST_ELEMENTWISE.contains(&name) => self.first(same_but(rank, &[], Reading::Same)),
            _ if REDUCTIONS.contains(&name) => self.first(self.reduced(self.axes_of(1)?)?),
            "ArgMax" | "ArgMin" => self.first(self.reduced(vec![self.axis("axis", 0)?])?),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => return Some(Dependence::Regrouped),
            "Transpose" => self.first(self.transposed()?),
            "Softmax" | "LogSoftmax" | "Hardmax" => self.first(self.normalised()?),
            "LayerNormalization" | "RMSNormalization" => {
                let from = self.axis("axis", -1)?;
                self.first(same_but(rank, &(from..rank).collect::<Vec<_>>(), Reading::Placed))
            }
            "InstanceNormalization" | "GroupNormalization" => {
                self.first(same_but(rank, &(1..rank).collect::<Vec<_>>(), Reading::Placed))
            }
            "CumSum" => {
                let axis = self.wrapped(*self.ints(1)?.first()?, rank)?;
                self.first(same_but(rank, &[axis], Reading::Placed))
            }
            "TopK" | "Split" => {
                let default = if name == "TopK" { -1 } else { 0 };
                let axis = self.axis("axis", default)?;
                self.first(same_but(rank, &[axis], |_| Reading::Whole))
            }
            "Concat" => {
                let axis = self.wrapped(self.op.int("axis", 0), rank)?;
                vec![same_but(rank, &[axis], |_| Reading::Whole); self.operands.len()]
            }
            "MatMul" => self.product()?,
            "Gemm" => self.gemm(),
            "Einsum" => self.einsum()?,
            "Expand" => self.first(broadcast(&self.shape(0)?, self.result)),
            // elements of an axis that kept its length and begins where it did
            "Tile" => self.first(broadcast(&self.shape(0)?, self.result)),
            "Slice" => self.first(self.sliced()?),
            "Pad" => self.first(self.padded()?),
            "Gather" => self.first(self.gathered()?),
            // which elements stay depends on their place along the last two axes
            "Trilu" => {
                let from = rank.checked_sub(2)?;
                self.first(same_but(rank, &[from, from + 1], Reading::Placed))
            }
            "Conv" | "MaxPool" | "AveragePool" | "LpPool" => self.first(self.window()?),
            "GlobalAveragePool" | "GlobalMaxPool" => {
                self.first(same_but(rank, &(2..rank).collect::<Vec<_>>(), |_| Reading::Whole))
            }
            "Resize" | "Upsample" => self.first(self.resized()?),
            _ => return None,
        };
        Some(Dependence::Axes(axes))
    }

    fn contrib(&self) -> Option<Dependence> {
        let name = self.op.op_type.as_str();
        let rank = self.result.len();
        let last = rank.checked_sub(1)?;
        match name {
            _ if CONTRIB_ELEMENTWISE.contains(&name) => Some(self.elementwise()),
            "MatMulNBits" => Some(Dependence::Axes(
                self.first(same_but(rank, &[last], |_| Reading::Whole)),
            )),
            "QuantizeLinear" | "DequantizeLinear" => {
                Some(Dependence::Axes(self.first(same_but(rank, &[], Reading::Same))))
            }
            _ => None,
        }
    }

    /// The readings of the first operand; the others are read whole.
    fn first(&self, readings: Vec<Reading>) -> Vec<Vec<Reading>> {
        let mut all = vec![vec![Reading::Whole; self.result.len()]; self.operands.len()];
        if let Some(first) = all.first_mut() {
            *first = readings;
        }
        all
    }

    fn elementwise(&self) -> Dependence {
        let readings = |&operand: &Operand| match shape_of(self.graph, operand) {
            Some(shape) => broadcast(&shape, self.result),
            None => vec![Reading::Whole; self.result.len()],
        };
        Dependence::Axes(self.operands.iter().map(readings).collect())
    }

    fn shape(&self, position: usize) -> Option<Shape> {
        shape_of(self.graph, *self.operands.get(position)?)
    }

    fn is_given(&self, position: usize) -> bool {
        !matches!(self.operands.get(position), None | Some(Operand::Absent))
    }

    /// The integers of a small constant.
    fn ints(&self, position: usize) -> Option<Vec<i64>> {
        let data = &self.graph.weight(self.operands.get(position)?.weight()?).data;
        (data.shape().elements() <= 64).then(|| data.materialize().to_i64_vec())
    }

    fn ints_of(&self, attribute: &str, position: usize) -> Option<Vec<i64>> {
        let given = self.op.ints(attribute).map(<[i64]>::to_vec);
        given.or_else(|| self.ints(position))
    }

    fn wrapped(&self, axis: i64, rank: usize) -> Option<usize> {
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(axis).ok().filter(|&axis| axis < rank)
    }

    /// An axis of the first operand.
    fn axis(&self, attribute: &str, default: i64) -> Option<usize> {
        self.wrapped(self.op.int(attribute, default), self.shape(0)?.len())
    }

    /// Axes of the first operand, all where none are named.
    fn axes_of(&self, position: usize) -> Option<Vec<usize>> {
        let rank = self.shape(0)?.len();
        match self.ints_of("axes", position).filter(|axes| !axes.is_empty()) {
            Some(axes) => axes.into_iter().map(|axis| self.wrapped(axis, rank)).collect(),
            None if self.is_given(position) && self.operands[position].weight().is_none() => None,
            None if self.op.int("noop_with_empty_axes", 0) != 0 => Some(Vec::new()),
            None => Some((0..rank).collect()),
        }
    }

    fn reduced(&self, axes: Vec<usize>) -> Option<Vec<Reading>> {
        let rank = self.shape(0)?.len();
        let keeps = self.op.int("keepdims", 1) != 0 || rank == self.result.len();
        let readings = (0..rank).filter_map(|axis| match axes.contains(&axis) {
            true if keeps => Some(Reading::Whole),
            true => None,
            false => Some(Reading::Same(axis)),
        });
        Some(readings.collect())
    }

    fn transposed(&self) -> Option<Vec<Reading>> {
        let rank = self.result.len();
        match self.op.ints("perm") {
            Some(order) => order
                .iter()
                .map(|&axis| Some(Reading::Same(self.wrapped(axis, rank)?)))
                .collect(),
            None => Some((0..rank).rev().map(Reading::Same).collect()),
        }
    }

    fn normalised(&self) -> Option<Vec<Reading>> {
        let rank = self.result.len();
        let axes = match self.op.opset < 13 {
            true => (self.axis("axis", 1)?..rank).collect(),
            false => vec![self.axis("axis", -1)?],
        };
        Some(same_but(rank, &axes, Reading::Placed))
    }

    fn product(&self) -> Option<Vec<Vec<Reading>>> {
        let (a, b) = (self.shape(0)?, self.shape(1)?);
        let rank = self.result.len();
        if a.len() < 2 || b.len() < 2 {
            return None;
        }
        let outer = |of: &Shape| broadcast(&of[..of.len() - 2], &self.result[..rank - 2]);
        let mut left = outer(&a);
        left.extend([Reading::Same(a.len() - 2), Reading::Whole]);
        let mut right = outer(&b);
        right.extend([Reading::Whole, Reading::Same(b.len() - 1)]);
        Some(vec![left, right])
    }

    fn gemm(&self) -> Vec<Vec<Reading>> {
        let turned = |name: &str| usize::from(self.op.int(name, 0) != 0);
        let mut readings = vec![
            vec![Reading::Same(turned("transA")), Reading::Whole],
            vec![Reading::Whole, Reading::Same(1 - turned("transB"))],
        ];
        let more = self.operands.iter().skip(2);
        readings.extend(more.map(|&operand| match shape_of(self.graph, operand) {
            Some(shape) => broadcast(&shape, self.result),
            None => vec![Reading::Whole; 2],
        }));
        readings
    }

    fn einsum(&self) -> Option<Vec<Vec<Reading>>> {
        let Some(Attribute::String(text)) = self.op.attributes.get("equation") else {
            return None;
        };
        let shapes = (0..self.operands.len()).map(|position| self.shape(position));
        let shapes = shapes.collect::<Option<Vec<Shape>>>()?;
        let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
        let equation = Equation::parse(text, &ranks).ok()?;
        let readings = equation.operands.iter().zip(&shapes).map(|(labels, shape)| {
            let reading = |(axis, label): (usize, &crate::Label)| {
                let mut own = labels.iter().enumerate().filter(|(_, known)| *known == label);
                match (own.next(), own.next()) {
                    (Some((at, _)), None) if shape[at] == self.result[axis] => Reading::Same(at),
                    _ => Reading::Whole,
                }
            };
            equation.result.iter().enumerate().map(reading).collect()
        });
        Some(readings.collect())
    }

    fn sliced(&self) -> Option<Vec<Reading>> {
        let rank = self.result.len();
        let starts = self.ints_of("starts", 1)?;
        let axes = match self.ints_of("axes", 3) {
            Some(axes) => axes,
            None if self.is_given(3) => return None,
            None => (0..starts.len() as i64).collect(),
        };
        let axes = axes.into_iter().map(|axis| self.wrapped(axis, rank));
        let cut = axes.collect::<Option<Vec<_>>>()?;
        let steps = match self.ints_of("steps", 4) {
            Some(steps) => steps,
            None if self.is_given(4) => return None,
            None => vec![1; starts.len()],
        };
        let from = self.shape(0)?;
        let is_whole = |axis: usize| {
            let place = cut.iter().position(|&own| own == axis);
            from[axis] == self.result[axis] && place.is_some_and(|place| steps.get(place) == Some(&1))
        };
        Some(same_but(rank, &cut, |axis| match is_whole(axis) {
            true => Reading::Same(axis),
            false => Reading::Whole,
        }))
    }

    fn padded(&self) -> Option<Vec<Reading>> {
        let rank = self.result.len();
        let pads = self.ints_of("pads", 1)?;
        let axes = match self.ints(3) {
            Some(axes) => axes
                .into_iter()
                .map(|axis| self.wrapped(axis, rank))
                .collect::<Option<Vec<_>>>()?,
            None if self.is_given(3) => return None,
            None => (0..rank).collect(),
        };
        let (before, behind) = pads.split_at_checked(axes.len())?;
        let moved: Vec<usize> = (0..axes.len())
            .filter(|&place| before[place] != 0 || behind.get(place) != Some(&0))
            .map(|place| axes[place])
            .collect();
        Some(same_but(rank, &moved, |_| Reading::Whole))
    }

    fn gathered(&self) -> Option<Vec<Reading>> {
        let (axis, from) = (self.axis("axis", 0)?, self.shape(0)?);
        let picked = self.shape(1)?.len();
        let before = (0..axis).map(Reading::Same);
        let inside = std::iter::repeat_n(Reading::Whole, picked);
        let behind = (axis + 1..from.len()).map(Reading::Same);
        Some(before.chain(inside).chain(behind).collect())
    }

    fn window(&self) -> Option<Vec<Reading>> {
        let rank = self.result.len();
        let spatial = rank.checked_sub(2)?;
        let kernel = match self.op.op_type.as_str() {
            "Conv" => self.shape(1)?[2..].iter().map(|&size| size as i64).collect(),
            _ => self.op.ints("kernel_shape")?.to_vec(),
        };
        let automatic =
            matches!(self.op.attributes.get("auto_pad"), Some(Attribute::String(mode)) if mode.starts_with("SAME"));
        let pads = self.op.ints("pads").map(<[i64]>::to_vec);
        let pads = pads.unwrap_or_else(|| vec![0; 2 * spatial]);
        let dilations = self.op.ints("dilations").map(<[i64]>::to_vec);
        let dilations = dilations.unwrap_or_else(|| vec![1; spatial]);
        let channels = match self.op.op_type.as_str() {
            "Conv" => Reading::Whole,
            _ => Reading::Same(1),
        };
        let mut readings = vec![Reading::Same(0), channels];
        for axis in 0..spatial {
            let reach = (kernel.get(axis)? - 1) * dilations.get(axis)?;
            let holds_place = automatic || (0..=reach).contains(pads.get(axis)?);
            readings.push(match holds_place {
                true => Reading::Near(axis + 2),
                false => Reading::Whole,
            });
        }
        Some(readings)
    }

    fn resized(&self) -> Option<Vec<Reading>> {
        let from = self.shape(0)?;
        if matches!(self.op.attributes.get("coordinate_transformation_mode"), Some(Attribute::String(mode)) if mode == "tf_crop_and_resize")
        {
            return None;
        }
        let reading = |axis: usize| match from[axis] == self.result[axis] {
            true => Reading::Same(axis),
            false => Reading::Near(axis),
        };
        Some((0..self.result.len()).map(reading).collect())
    }
}
