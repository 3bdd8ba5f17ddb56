//! The ONNX operators that exported Stable Diffusion pipelines use.

mod contrib;
mod einsum;
mod elementwise;
mod math;
mod norm;
mod order;
mod quantize;
mod scatter;
mod shapes;
mod views;

use fisec_ir::{Attribute, OnnxOp};
use fisec_tensor::DType;

use crate::Tensor;

pub(crate) use elementwise::broadcast;

/// One node: its operator, attributes and operands.
struct Call<'a> {
    op: &'a OnnxOp,
    operands: &'a [Option<&'a Tensor>],
    outputs: usize,
}

type Answer = Result<Vec<Tensor>, String>;

/// All outputs of an ONNX operator; there may be more than the node names.
pub(crate) fn evaluate(op: &OnnxOp, operands: &[Option<&Tensor>], outputs: usize) -> Answer {
    let call = Call { op, operands, outputs };
    let found = match op.domain.as_str() {
        "" | "ai.onnx" => {
            let rooms = [
                elementwise::evaluate,
                shapes::evaluate,
                views::evaluate,
                math::evaluate,
                norm::evaluate,
                einsum::evaluate,
                quantize::evaluate,
                order::evaluate,
                scatter::evaluate,
            ];
            rooms.into_iter().find_map(|room| room(&call))
        }
        "com.microsoft" => contrib::evaluate(&call).or_else(|| quantize::evaluate(&call)),
        _ => None,
    };
    found.unwrap_or_else(|| {
        Err(format!(
            "the oracle does not know `{}` of domain `{}`",
            op.op_type, op.domain
        ))
    })
}

impl<'a> Call<'a> {
    fn operand(&self, position: usize) -> Result<&'a Tensor, String> {
        self.optional(position)
            .ok_or_else(|| format!("operand {position} is missing"))
    }

    fn optional(&self, position: usize) -> Option<&'a Tensor> {
        self.operands.get(position).copied().flatten()
    }

    /// Integers that are an operand in some operator sets and an attribute in others.
    fn integers(&self, position: usize, attribute: &str) -> Option<Vec<i64>> {
        let operand = self.optional(position).map(Tensor::integers);
        operand.or_else(|| self.op.ints(attribute).map(<[i64]>::to_vec))
    }

    fn text(&self, name: &str, default: &'a str) -> &'a str {
        match self.op.attributes.get(name) {
            Some(Attribute::String(text)) => text,
            _ => default,
        }
    }

    /// A float attribute, as written: 1e-5 and not the `f32` nearest to it.
    fn float(&self, name: &str, default: f64) -> f64 {
        match self.op.attributes.get(name) {
            Some(Attribute::Float(value)) => f64::from(*value),
            _ => default,
        }
    }

    /// A non-negative axis of a tensor with `rank` axes.
    fn axis(&self, default: i64, rank: usize) -> Result<usize, String> {
        axis(self.op.int("axis", default), rank)
    }
}

fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    let inside = usize::try_from(counted).ok().filter(|&counted| counted < rank);
    inside.ok_or_else(|| format!("axis {axis} of {rank}"))
}

fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let axes = list
        .iter()
        .map(|&index| axis(index, rank))
        .collect::<Result<Vec<_>, _>>()?;
    match (1..axes.len()).find(|&later| axes[..later].contains(&axes[later])) {
        Some(again) => Err(format!("axis {} is named twice", axes[again])),
        None => Ok(axes),
    }
}

/// The element type of ONNX's numbering.
fn data_type(code: i64) -> Result<DType, String> {
    Ok(match code {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        _ => return Err(format!("element type {code}")),
    })
}

/// Fails where an operand has another shape than the operator takes.
fn expect(what: &str, x: &Tensor, shape: &[usize]) -> Result<(), String> {
    match x.shape.dims() == shape {
        true => Ok(()),
        false => Err(format!("{what} has shape [{}], expected {shape:?}", x.shape)),
    }
}

/// Most elements of a result whose size an operand decides.
const LARGEST: usize = 1 << 31;

fn checked_elements(shape: &[usize]) -> Result<usize, String> {
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    count
        .filter(|&count| count <= LARGEST)
        .ok_or_else(|| format!("a tensor of shape {shape:?} is too large"))
}
