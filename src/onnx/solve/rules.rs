//! What operators say about the sizes of what they read.

use std::collections::HashMap;

use super::System;
use super::constants::Constants;
use super::size::Size;
use crate::proto::NodeProto;

/// A shape of known rank; `None` where nothing is known of a dimension.
type Dims = Vec<Option<Size>>;

/// Operators whose result has the shape of the first operand.
const SAME: &[&str] = &[
    "Identity",
    "Cast",
    "CastLike",
    "Sigmoid",
    "Tanh",
    "Relu",
    "Erf",
    "Gelu",
    "FastGelu",
    "QuickGelu",
    "BiasGelu",
    "Sqrt",
    "Exp",
    "Log",
    "Neg",
    "Abs",
    "Sin",
    "Cos",
    "Floor",
    "Ceil",
    "Round",
    "Reciprocal",
    "Softmax",
    "LogSoftmax",
    "Clip",
    "Dropout",
    "LeakyRelu",
    "Softplus",
    "HardSigmoid",
    "Not",
    "IsNaN",
    "IsInf",
    "Trilu",
    "CumSum",
    "Swish",
    "QuantizeLinear",
    "DequantizeLinear",
    "Mish",
    "Sign",
];
/// Operators that broadcast their operands.
const BROADCAST: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Min",
    "Max",
    "Where",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "And",
    "Or",
    "Xor",
    "Mod",
    "PRelu",
    "Sum",
    "Mean",
];

/// Shapes of values, as far as they follow from the inputs.
pub struct Shapes<'a> {
    constants: Constants<'a>,
    values: HashMap<&'a str, Dims>,
}

impl<'a> Shapes<'a> {
    pub fn new(constants: Constants<'a>) -> Self {
        Shapes {
            constants,
            values: HashMap::new(),
        }
    }

    /// Sets the shape of an input.
    pub fn set(&mut self, name: &'a str, shape: Vec<Size>) {
        self.values.insert(name, shape.into_iter().map(Some).collect());
    }

    /// The shape of a value or constant.
    pub fn get(&self, name: &str) -> Option<Dims> {
        if let Some(dims) = self.values.get(name) {
            return Some(dims.clone());
        }
        let dims = self.constants.dims(name)?;
        Some(dims.into_iter().map(|size| Some(Size::known(size))).collect())
    }

    /// Adds to `system` what a node says of its operands, and keeps the shape of its first result.
    pub fn node(&mut self, node: &'a NodeProto, system: &mut System) {
        let Some(output) = node.output.first() else { return };
        let call = Call { shapes: self, node };
        if let Some(dims) = call.result(system) {
            self.values.insert(output, dims);
        }
    }
}

/// One node with the shapes of what it reads.
struct Call<'c, 'a> {
    shapes: &'c Shapes<'a>,
    node: &'a NodeProto,
}

impl Call<'_, '_> {
    fn dims(&self, position: usize) -> Option<Dims> {
        self.shapes.get(self.node.input.get(position)?)
    }

    fn attribute(&self, name: &str) -> Option<&crate::proto::AttributeProto> {
        let mut attributes = self.node.attribute.iter();
        attributes.find(|attribute| attribute.name.as_deref() == Some(name))
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|value| value.i).unwrap_or(default)
    }

    fn ints(&self, name: &str, position: usize) -> Option<Vec<i64>> {
        match self.attribute(name) {
            Some(attribute) => Some(attribute.ints.clone()),
            None => self.shapes.constants.ints(self.node.input.get(position)?),
        }
    }

    fn result(&self, system: &mut System) -> Option<Dims> {
        let name = self.node.op_type.as_deref().unwrap_or_default();
        if SAME.contains(&name) {
            return self.dims(0);
        }
        if BROADCAST.contains(&name) {
            return self.broadcast(system);
        }
        match name {
            "Conv" | "FusedConv" => self.conv(system, 1, 1),
            "QLinearConv" => self.conv(system, 3, 1),
            "NhwcConv" => self.conv(system, 1, 3),
            "MatMul" | "MatMulInteger" => self.matmul(system, 1),
            "QLinearMatMul" => self.matmul(system, 3),
            "Gemm" => self.gemm(system),
            "MatMulNBits" => {
                let mut dims = self.dims(0)?;
                let [depth, columns] = ["K", "N"].map(|name| usize::try_from(self.int(name, -1)).ok());
                let last = dims.last_mut()?;
                agree(system, last, &Some(Size::known(depth?)));
                *last = Some(Size::known(columns?));
                Some(dims)
            }
            "Attention" if self.node.domain.as_deref() == Some("com.microsoft") => {
                let weight = self.dims(1)?;
                agree(system, self.dims(0)?.last()?, weight.first()?);
                None
            }
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                let (dims, scale) = (self.dims(0)?, self.dims(1)?);
                (dims.iter().rev().zip(scale.iter().rev())).for_each(|(size, scale)| agree(system, size, scale));
                Some(dims)
            }
            "InstanceNormalization" | "BatchNormalization" | "GroupNormalization" => {
                let (dims, scale) = (self.dims(0)?, self.dims(1)?);
                // older group norms have a scale per group
                if name != "GroupNormalization"
                    || scale.first()? != &Some(Size::known(self.int("num_groups", 0) as usize))
                {
                    agree(system, dims.get(1)?, scale.first()?);
                }
                Some(dims)
            }
            "Concat" => self.concat(system),
            "Transpose" => {
                let dims = self.dims(0)?;
                match self.attribute("perm") {
                    Some(order) => (order.ints.iter())
                        .map(|&axis| dims.get(usize::try_from(axis).ok()?).cloned())
                        .collect(),
                    None => Some(dims.into_iter().rev().collect()),
                }
            }
            "Unsqueeze" => self.unsqueeze(),
            "Squeeze" => {
                let (dims, axes) = (self.dims(0)?, self.ints("axes", 1)?);
                let gone = axes
                    .iter()
                    .map(|&at| axis(at, dims.len()))
                    .collect::<Option<Vec<_>>>()?;
                let kept = dims.into_iter().enumerate().filter(|(at, _)| !gone.contains(at));
                Some(kept.map(|(_, size)| size).collect())
            }
            "Reshape" => {
                let (dims, target) = (self.dims(0)?, self.ints("shape", 1)?);
                let sizes = target.iter().enumerate().map(|(at, &size)| match size {
                    0 if self.int("allowzero", 0) == 0 => dims.get(at).cloned().flatten(),
                    size => usize::try_from(size).ok().map(Size::known),
                });
                Some(sizes.collect())
            }
            "Gather" => {
                let (mut dims, indices) = (self.dims(0)?, self.dims(1)?);
                let at = axis(self.int("axis", 0), dims.len())?;
                dims.splice(at..=at, indices);
                Some(dims)
            }
            "Slice" => {
                let mut dims = self.dims(0)?;
                let count = self.ints("starts", 1).map(|starts| starts.len());
                let axes = self.ints("axes", 3).or_else(|| Some((0..count? as i64).collect()))?;
                let rank = dims.len();
                for at in axes {
                    dims[axis(at, rank)?] = None;
                }
                Some(dims)
            }
            _ => None,
        }
    }

    fn broadcast(&self, system: &mut System) -> Option<Dims> {
        let operands = (0..self.node.input.len()).map(|position| self.dims(position));
        let operands = operands.collect::<Option<Vec<_>>>()?;
        let rank = operands.iter().map(Vec::len).max()?;
        let mut result = vec![Some(Size::known(1)); rank];
        for dims in operands {
            let offset = rank - dims.len();
            for (size, found) in dims.into_iter().zip(&mut result[offset..]) {
                *found = joined(system, found.take(), size);
            }
        }
        Some(result)
    }

    /// A convolution whose weight is operand `weight` and whose input has its channels at an axis.
    fn conv(&self, system: &mut System, weight: usize, channels: usize) -> Option<Dims> {
        let (x, weight) = (self.dims(0)?, self.dims(weight)?);
        let depth = weight.get(channels)?.as_ref()?.number()?;
        let depth = depth.checked_mul(self.int("group", 1))?;
        agree(
            system,
            x.get(channels)?,
            &Some(Size::known(usize::try_from(depth).ok()?)),
        );
        let mut result = vec![None; x.len()];
        result[0] = x[0].clone();
        result[channels] = weight.first()?.clone();
        Some(result)
    }

    fn matmul(&self, system: &mut System, weight: usize) -> Option<Dims> {
        let (a, b) = (self.dims(0)?, self.dims(weight)?);
        let (depth, rows) = a.split_last()?;
        let (columns, rest) = b.split_last()?;
        let (again, batch) = rest.split_last()?;
        agree(system, depth, again);
        let mut result = match batch.len() < rows.len() {
            true => rows.to_vec(),
            false => vec![None; batch.len() + 1],
        };
        result.push(columns.clone());
        Some(result)
    }

    fn gemm(&self, system: &mut System) -> Option<Dims> {
        let turned = |position: usize, name: &str| {
            let mut dims = self.dims(position).filter(|dims| dims.len() == 2)?;
            if self.int(name, 0) != 0 {
                dims.swap(0, 1);
            }
            Some(dims)
        };
        let (a, b) = (turned(0, "transA")?, turned(1, "transB")?);
        agree(system, &a[1], &b[0]);
        Some(vec![a[0].clone(), b[1].clone()])
    }

    fn concat(&self, system: &mut System) -> Option<Dims> {
        let operands = (0..self.node.input.len()).map(|position| self.dims(position));
        let operands = operands.collect::<Option<Vec<_>>>()?;
        let (mut result, others) = operands.split_first().map(|(first, others)| (first.clone(), others))?;
        let along = axis(self.int("axis", 0), result.len())?;
        for other in others {
            if other.len() != result.len() {
                return None;
            }
            for (at, (size, more)) in result.iter_mut().zip(other).enumerate() {
                if at == along {
                    *size = size
                        .as_ref()
                        .zip(more.as_ref())
                        .and_then(|(size, more)| size.plus(more, 1));
                } else {
                    agree(system, size, more);
                    *size = size.take().or_else(|| more.clone());
                }
            }
        }
        Some(result)
    }

    fn unsqueeze(&self) -> Option<Dims> {
        let (dims, axes) = (self.dims(0)?, self.ints("axes", 1)?);
        let rank = dims.len() + axes.len();
        let new = axes.iter().map(|&at| axis(at, rank)).collect::<Option<Vec<_>>>()?;
        let mut rest = dims.into_iter();
        let sizes = (0..rank).map(|at| match new.contains(&at) {
            true => Some(Some(Size::known(1))),
            false => rest.next(),
        });
        sizes.collect()
    }
}

/// Two dimensions are of one size.
fn agree(system: &mut System, a: &Option<Size>, b: &Option<Size>) {
    if let (Some(a), Some(b)) = (a, b) {
        system.equal(a, b);
    }
}

/// The dimension that two broadcast to.
fn joined(system: &mut System, a: Option<Size>, b: Option<Size>) -> Option<Size> {
    let number = |size: &Option<Size>| size.as_ref().and_then(Size::number);
    if number(&a) == Some(1) {
        return b;
    }
    if number(&b) == Some(1) {
        return a;
    }
    if let (Some(a), Some(b)) = (&a, &b) {
        system.meet(a, b);
    }
    [a.clone(), b.clone()]
        .into_iter()
        .find(|size| number(size).is_some())
        .unwrap_or_else(|| a.and(b))
}

fn axis(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}
