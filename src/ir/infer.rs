//! Types of results from types of operands, for the semantic operators.

use std::ops::RangeInclusive;

use fisec_tensor::{DType, Shape};

use crate::{Conv, ConvOperand, Extent, Linear, LinearOperand, Op, ValueType, maps_shape, stats_shape};

/// How many operands the operator takes.
pub fn operand_counts(op: &Op) -> RangeInclusive<usize> {
    let count = match op {
        Op::Onnx(_) => return 0..=usize::MAX,
        Op::Concat(_) => return 2..=usize::MAX,
        Op::Input(_) | Op::CacheRead(_) => 0,
        Op::Conv(conv) => {
            2 + [conv.concat, conv.bias, conv.affine, conv.vector, conv.residual]
                .map(usize::from)
                .iter()
                .sum::<usize>()
        }
        Op::Linear(linear) => {
            2 + usize::from(linear.bias) + 2 * usize::from(linear.layer_norm.is_some()) + usize::from(linear.residual)
        }
        Op::Attention { control, .. } => 3 + 4 * usize::from(control.is_some()),
        Op::GroupNorm(_)
        | Op::GroupNormStatsUpdate { .. }
        | Op::NormCoefficients { .. }
        | Op::LayerNorm { .. }
        | Op::CausalAttention { .. } => 3,
        Op::Affine { .. } | Op::AttentionMaps { .. } | Op::Add | Op::AddVector | Op::Scatter(_) => 2,
        Op::GroupNormStats { .. }
        | Op::Upsample { .. }
        | Op::Tokens
        | Op::Spatial { .. }
        | Op::Geglu
        | Op::Repeat { .. }
        | Op::Activate(_)
        | Op::TimestepEmbedding(_)
        | Op::CacheWrite(_)
        | Op::Gather
        | Op::Output(_) => 1,
    };
    count..=count
}

/// The type of the operator's one result.
///
/// The extent is that of the active operands, if any: an operator over full operands may be restricted to the active set
/// by its user with [`ValueType::with_extent`], and `gather` must be. Fails with a clause that names the operand at
/// fault; also for operators whose types are given rather than inferred (inputs, cache reads, opaque operators) and for
/// those without a result.
pub fn result_type(op: &Op, operands: &[ValueType]) -> Result<ValueType, String> {
    let counts = operand_counts(op);
    if !counts.contains(&operands.len()) {
        return Err(count_message(op, operands.len()));
    }
    let full = match op {
        Op::Conv(conv) => conv_type(conv, operands)?,
        Op::GroupNorm(norm) => {
            let channels = grouped_channels(&operands[0], norm.groups)?;
            expect("gamma", &operands[1], &[channels])?;
            expect("beta", &operands[2], &[channels])?;
            like(&operands[0])
        }
        Op::GroupNormStats { groups } => {
            grouped_channels(&operands[0], *groups)?;
            ValueType::full(DType::F32, stats_shape(operands[0].shape[0], *groups))
        }
        Op::GroupNormStatsUpdate { groups } => {
            grouped_channels(&operands[0], *groups)?;
            expect("the recorded map", &operands[1], &operands[0].shape)?;
            let stats = stats_shape(operands[0].shape[0], *groups);
            expect("recorded statistics", &operands[2], &stats)?;
            ValueType::full(DType::F32, stats)
        }
        Op::NormCoefficients { groups, .. } => coefficients_type(*groups, operands)?,
        Op::Affine { .. } => {
            let channels = channels(&operands[0])?;
            expect("coefficients", &operands[1], &[operands[0].shape[0], 2, channels])?;
            like(&operands[0])
        }
        Op::Upsample { height, width } => {
            let [n, c, h, w] = map("x", &operands[0])?;
            if h == 0 || w == 0 {
                return Err("`x` is empty".to_owned());
            }
            typed(&operands[0], [n, c, *height, *width])
        }
        Op::Tokens => {
            let [n, c, h, w] = map("x", &operands[0])?;
            typed(&operands[0], [n, h * w, c])
        }
        Op::Spatial { height, width } => {
            let [n, length, c] = tokens("x", &operands[0])?;
            if height.checked_mul(*width) != Some(length) {
                return Err(format!("{length} tokens are not {height}x{width} pixels"));
            }
            typed(&operands[0], [n, c, *height, *width])
        }
        Op::LayerNorm { .. } => {
            let channels = last("x", &operands[0])?;
            expect("gamma", &operands[1], &[channels])?;
            expect("beta", &operands[2], &[channels])?;
            like(&operands[0])
        }
        Op::Linear(linear) => linear_type(linear, operands)?,
        Op::Attention { heads, control, .. } => attention_type(*heads, control.is_some(), operands)?,
        Op::CausalAttention { heads, .. } => {
            expect("k", &operands[1], &operands[0].shape)?;
            attention_type(*heads, false, operands)?
        }
        Op::AttentionMaps { heads, .. } => {
            let [n, rows, keys, _] = attention_dims(*heads, operands)?;
            ValueType::full(DType::F32, maps_shape(n, *heads, rows, keys))
        }
        Op::Geglu => typed(&operands[0], halved(&operands[0])?),
        Op::Activate(_) | Op::Gather => like(&operands[0]),
        Op::Add => {
            same_dtype(operands)?;
            typed(&operands[0], broadcast(&operands[0].shape, &operands[1].shape)?)
        }
        Op::AddVector => {
            let [n, c, ..] = map("x", &operands[0])?;
            expect("vector", &operands[1], &[n, c])?;
            like(&operands[0])
        }
        Op::Repeat { images } => match operands[0].shape[..] {
            [1, ref image @ ..] => typed(
                &operands[0],
                std::iter::once(*images)
                    .chain(image.iter().copied())
                    .collect::<Vec<_>>(),
            ),
            _ => return Err(format!("`x` has shape [{}], expected one image", operands[0].shape)),
        },
        Op::Concat(concat) => concat_type(concat.axis, operands)?,
        Op::TimestepEmbedding(embedding) => {
            let count = operands[0].shape.elements();
            if operands[0].shape.len() > 1 || (count != 1 && count != embedding.rows) {
                return Err(format!(
                    "`t` has shape [{}], expected one timestep or {}",
                    operands[0].shape, embedding.rows
                ));
            }
            if embedding.width % 2 != 0 {
                return Err(format!("width {} is odd", embedding.width));
            }
            ValueType::full(DType::F32, [embedding.rows, embedding.width])
        }
        Op::Scatter(_) => {
            same_dtype(operands)?;
            expect("base", &operands[1], &operands[0].shape)?;
            return Ok(like(&operands[0]));
        }
        Op::Input(_) | Op::CacheRead(_) | Op::Onnx(_) => return Err(format!("the type of `{}` is given", op.name())),
        Op::CacheWrite(_) | Op::Output(_) => return Err(format!("`{}` has no result", op.name())),
    };
    Ok(full.with_extent(result_extent(op, operands)))
}

/// How many operands were asked for and given.
pub(crate) fn count_message(op: &Op, got: usize) -> String {
    let counts = operand_counts(op);
    let wanted = match *counts.end() {
        usize::MAX => format!("at least {}", counts.start()),
        end => end.to_string(),
    };
    format!("`{}` takes {wanted} operands, got {got}", op.name())
}

fn result_extent(op: &Op, operands: &[ValueType]) -> Extent {
    let whole = matches!(
        op,
        Op::GroupNormStats { .. }
            | Op::GroupNormStatsUpdate { .. }
            | Op::NormCoefficients { .. }
            | Op::TimestepEmbedding(_)
            | Op::CausalAttention { .. }
            | Op::AttentionMaps { .. }
    );
    let active = operands
        .iter()
        .map(|operand| operand.extent)
        .find(|extent| *extent != Extent::Full);
    if whole {
        Extent::Full
    } else {
        active.unwrap_or_default()
    }
}

fn conv_type(conv: &Conv, operands: &[ValueType]) -> Result<ValueType, String> {
    let operand = |name| conv.operand_index(name).map(|position| &operands[position]);
    let [n, mut inputs, height, width] = map("x", &operands[0])?;
    if let Some(second) = operand(ConvOperand::SecondInput) {
        let [_, more, ..] = map("x2", second)?;
        expect("x2", second, &[n, more, height, width])?;
        inputs += more;
    }
    let weight = operand(ConvOperand::Weight).expect("always present");
    let [outputs, ..] = map("w", weight)?;
    expect("w", weight, &[outputs, inputs, conv.kernel[0], conv.kernel[1]])?;
    if let Some(bias) = operand(ConvOperand::Bias) {
        expect("bias", bias, &[outputs])?;
    }
    if let Some(coefficients) = operand(ConvOperand::Coefficients) {
        expect("coefficients", coefficients, &[n, 2, inputs])?;
    }
    if let Some(vector) = operand(ConvOperand::Vector) {
        expect("vector", vector, &[n, outputs])?;
    }
    if conv.stride.contains(&0) {
        return Err("stride is zero".to_owned());
    }
    let [rows, columns] = conv
        .output_size(height, width)
        .ok_or_else(|| format!("{height}x{width} is smaller than the kernel"))?;
    let result = typed(&operands[0], [n, outputs, rows, columns]);
    if let Some(residual) = operand(ConvOperand::Residual) {
        expect("residual", residual, &result.shape)?;
    }
    Ok(result)
}

fn coefficients_type(groups: usize, operands: &[ValueType]) -> Result<ValueType, String> {
    let [n, ..] = dims::<3>("statistics", &operands[0])?;
    expect("statistics", &operands[0], &stats_shape(n, groups))?;
    let [channels] = dims("gamma", &operands[1])?;
    expect("beta", &operands[2], &[channels])?;
    if groups == 0 || channels % groups != 0 {
        return Err(format!("{channels} channels do not split into {groups} groups"));
    }
    Ok(ValueType::full(DType::F32, [n, 2, channels]))
}

fn linear_type(linear: &Linear, operands: &[ValueType]) -> Result<ValueType, String> {
    let operand = |name| linear.operand_index(name).map(|position| &operands[position]);
    let inputs = last("x", &operands[0])?;
    let weight = operand(LinearOperand::Weight).expect("always present");
    let [_, mut outputs] = dims("w", weight)?;
    expect("w", weight, &[inputs, outputs])?;
    for (name, which, length) in [
        ("bias", LinearOperand::Bias, outputs),
        ("gamma", LinearOperand::Gamma, inputs),
        ("beta", LinearOperand::Beta, inputs),
    ] {
        if let Some(vector) = operand(which) {
            expect(name, vector, &[length])?;
        }
    }
    if linear.geglu {
        if outputs % 2 != 0 {
            return Err(format!("{outputs} columns do not halve"));
        }
        outputs /= 2;
    }
    let mut shape = operands[0].shape.to_vec();
    shape[operands[0].shape.len() - 1] = outputs;
    let result = typed(&operands[0], shape);
    if let Some(residual) = operand(LinearOperand::Residual) {
        expect("residual", residual, &result.shape)?;
    }
    Ok(result)
}

fn attention_type(heads: usize, control: bool, operands: &[ValueType]) -> Result<ValueType, String> {
    let [n, rows, keys, _] = attention_dims(heads, operands)?;
    expect("v", &operands[2], &operands[1].shape)?;
    if control {
        expect("recorded maps", &operands[3], &maps_shape(n, heads, rows, keys))?;
        expect("mapper", &operands[4], &[keys, keys])?;
        expect("blend", &operands[5], &[keys])?;
        expect("weight", &operands[6], &[keys])?;
    }
    Ok(like(&operands[0]))
}

/// `[N, L, S, C]` of queries and keys.
fn attention_dims(heads: usize, operands: &[ValueType]) -> Result<[usize; 4], String> {
    let [n, rows, width] = tokens("q", &operands[0])?;
    let [_, keys, _] = tokens("k", &operands[1])?;
    expect("k", &operands[1], &[n, keys, width])?;
    if heads == 0 || width % heads != 0 {
        return Err(format!("{width} channels do not split into {heads} heads"));
    }
    Ok([n, rows, keys, width])
}

fn concat_type(axis: usize, operands: &[ValueType]) -> Result<ValueType, String> {
    same_dtype(operands)?;
    let mut shape = operands[0].shape.to_vec();
    if axis >= shape.len() {
        return Err(format!("axis {axis} of a value with {} axes", shape.len()));
    }
    shape[axis] = 0;
    for (position, operand) in operands.iter().enumerate() {
        let agrees = operand.shape.len() == shape.len()
            && (0..shape.len()).all(|other| other == axis || operand.shape[other] == shape[other]);
        if !agrees {
            return Err(format!(
                "operand {position} has shape [{}], which does not continue [{}] along axis {axis}",
                operand.shape, operands[0].shape
            ));
        }
        shape[axis] += operand.shape[axis];
    }
    Ok(typed(&operands[0], shape))
}

fn halved(x: &ValueType) -> Result<Shape, String> {
    let width = last("x", x)?;
    if width % 2 != 0 {
        return Err(format!("{width} channels do not halve"));
    }
    let mut shape = x.shape.to_vec();
    shape[x.shape.len() - 1] = width / 2;
    Ok(shape.into())
}

/// The shape that two shapes broadcast to, as ONNX and NumPy have it.
pub fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let rank = a.len().max(b.len());
    let dim = |shape: &Shape, axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => Err(format!("shapes [{a}] and [{b}] do not broadcast")),
        })
        .collect()
}

fn same_dtype(operands: &[ValueType]) -> Result<(), String> {
    match operands.iter().find(|operand| operand.dtype != operands[0].dtype) {
        Some(other) => Err(format!("operands are {} and {}", operands[0].dtype, other.dtype)),
        None => Ok(()),
    }
}

fn grouped_channels(x: &ValueType, groups: usize) -> Result<usize, String> {
    let channels = channels(x)?;
    if groups == 0 || channels % groups != 0 {
        return Err(format!("{channels} channels do not split into {groups} groups"));
    }
    Ok(channels)
}

fn channels(x: &ValueType) -> Result<usize, String> {
    match x.shape.len() {
        0 | 1 => Err(format!("`x` has shape [{}], not a map's", x.shape)),
        _ => Ok(x.shape[1]),
    }
}

fn last(name: &str, x: &ValueType) -> Result<usize, String> {
    x.shape.last().copied().ok_or_else(|| format!("`{name}` is a scalar"))
}

fn map(name: &str, x: &ValueType) -> Result<[usize; 4], String> {
    dims(name, x)
}

fn tokens(name: &str, x: &ValueType) -> Result<[usize; 3], String> {
    dims(name, x)
}

fn dims<const RANK: usize>(name: &str, x: &ValueType) -> Result<[usize; RANK], String> {
    x.shape
        .dims()
        .try_into()
        .map_err(|_| format!("`{name}` has shape [{}], expected {RANK} axes", x.shape))
}

fn expect(name: &str, x: &ValueType, shape: &[usize]) -> Result<(), String> {
    if x.shape.dims() == shape {
        return Ok(());
    }
    Err(format!(
        "`{name}` has shape [{}], expected [{}]",
        x.shape,
        Shape::from(shape)
    ))
}

fn typed(x: &ValueType, shape: impl Into<Shape>) -> ValueType {
    ValueType::full(x.dtype, shape)
}

fn like(x: &ValueType) -> ValueType {
    x.with_extent(Extent::Full)
}
