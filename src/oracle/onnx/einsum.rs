//! `Einsum`: sums of products over labelled axes.

use fisec_ir::{Attribute, Equation, Label};
use fisec_tensor::Shape;
use rayon::prelude::*;

use super::{Answer, Call, checked_elements};
use crate::Tensor;

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    (call.op.op_type == "Einsum").then(|| einsum(call).map(|y| vec![y]))
}

fn einsum(call: &Call) -> Result<Tensor, String> {
    let Some(Attribute::String(text)) = call.op.attributes.get("equation") else {
        return Err("no equation is given".to_owned());
    };
    let operands: Vec<&Tensor> = (0..call.operands.len())
        .map(|position| call.operand(position))
        .collect::<Result<_, _>>()?;
    let ranks: Vec<usize> = operands.iter().map(|x| x.shape.len()).collect();
    let equation = Equation::parse(text, &ranks)?;
    let shapes: Vec<&Shape> = operands.iter().map(|x| &x.shape).collect();
    let sizes = equation.sizes(&shapes)?;
    let summed = equation.summed();
    let lengths = |labels: &[Label]| labels.iter().map(|label| sizes[label]).collect::<Vec<usize>>();
    let (result, inner) = (lengths(&equation.result), lengths(&summed));
    let strides = |labels: &[Label]| -> Vec<Vec<usize>> {
        let of = |(x, own): (&&Tensor, &Vec<Label>)| labels.iter().map(|label| stride(x, own, *label)).collect();
        operands.iter().zip(&equation.operands).map(of).collect()
    };
    let (outer_strides, inner_strides) = (strides(&equation.result), strides(&summed));
    let terms = checked_elements(&inner)?;
    let element = |index: usize| {
        let starts: Vec<usize> = outer_strides
            .iter()
            .map(|strides| offset(index, &result, strides))
            .collect();
        let term = |term: usize| {
            let factors = operands.iter().zip(&starts).zip(&inner_strides);
            factors
                .map(|((x, start), strides)| x.data[start + offset(term, &inner, strides)])
                .product::<f64>()
        };
        (0..terms).map(term).sum()
    };
    let count = checked_elements(&result)?;
    let data: Vec<f64> = (0..count).into_par_iter().map(element).collect();
    Ok(operands[0].like(result, data))
}

/// How far apart neighbours along a label stand; a label that is named twice walks the diagonal.
fn stride(x: &Tensor, labels: &[Label], wanted: Label) -> usize {
    let axes = labels.iter().zip(x.shape.strides()).zip(x.shape.iter());
    let own = axes.filter(|((label, _), size)| **label == wanted && **size != 1);
    own.map(|((_, stride), _)| stride).sum()
}

fn offset(mut index: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut offset = 0;
    for (size, stride) in shape.iter().zip(strides).rev() {
        offset += index % size * stride;
        index /= size;
    }
    offset
}
