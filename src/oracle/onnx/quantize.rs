//! Integers that stand for numbers: `QuantizeLinear`, `DequantizeLinear` and products with weights of a few bits.

use fisec_tensor::DType;

use super::elementwise::broadcast;
use super::math::matmul;
use super::{Answer, Call, data_type};
use crate::Tensor;

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let result = match (call.op.domain.as_str(), call.op.op_type.as_str()) {
        ("" | "ai.onnx", "QuantizeLinear") => quantize(call),
        (_, "DequantizeLinear") => dequantize(call),
        ("com.microsoft", "MatMulNBits") => matmul_n_bits(call),
        _ => return None,
    };
    Some(result.map(|y| vec![y]))
}

/// For each element of `x` which of the scales counts: the same for all, one per index of an axis, or one per block of
/// indices.
fn scale_of(call: &Call, x: &Tensor, scales: &Tensor) -> Result<impl Fn(usize) -> usize + use<>, String> {
    let shape = x.shape.to_vec();
    let rank = shape.len();
    let block = usize::try_from(call.op.int("block_size", 0)).map_err(|_| "a negative block")?;
    let is_one = block == 0 && scales.data.len() == 1;
    let axis = if is_one { 0 } else { call.axis(1, rank)? };
    let inner: usize = shape.iter().skip(axis + 1).product();
    let size = shape.get(axis).copied().unwrap_or(1);
    let (width, groups) = match block {
        0 => (1, size),
        block => (block, size.div_ceil(block)),
    };
    let outer: usize = shape.iter().take(axis).product();
    let expected = match (is_one, block) {
        (true, _) => 1,
        (false, 0) => size,
        (false, _) => outer * groups * inner,
    };
    if scales.data.len() != expected {
        return Err(format!("scales [{}] for [{}]", scales.shape, x.shape));
    }
    Ok(move |index: usize| match (is_one, block) {
        (true, _) => 0,
        (false, 0) => index / inner % size,
        (false, _) => (index / inner / size * groups + index / inner % size / width) * inner + index % inner,
    })
}

fn zero_point(call: &Call, scales: &Tensor) -> Result<Option<Tensor>, String> {
    let zero = call.optional(2).cloned();
    match zero.as_ref().filter(|zero| zero.data.len() != scales.data.len()) {
        Some(zero) => Err(format!("zero points [{}] for scales [{}]", zero.shape, scales.shape)),
        None => Ok(zero),
    }
}

/// `saturate(round(x / scale) + zero)`, ties to even. The quotient is rounded to the type of `x` first: that decides ties.
fn quantize(call: &Call) -> Result<Tensor, String> {
    let (x, scales) = (call.operand(0)?, call.operand(1)?);
    let zero = zero_point(call, scales)?;
    let declared = match call.op.int("output_dtype", 0) {
        0 => DType::U8,
        code => data_type(code)?,
    };
    let dtype = zero.as_ref().map_or(declared, |zero| zero.dtype);
    let [low, high] = range(dtype)?;
    let place = scale_of(call, x, scales)?;
    let single = x.dtype != DType::F64;
    let element = |(index, &value): (usize, &f64)| {
        let at = place(index);
        let quotient = match single {
            true => f64::from(value as f32 / scales.data[at] as f32),
            false => value / scales.data[at],
        };
        let zero = zero.as_ref().map_or(0.0, |zero| zero.data[at]);
        (quotient.round_ties_even() + zero).clamp(low, high)
    };
    let data = x.data.iter().enumerate().map(element).collect();
    Ok(Tensor::typed(dtype, x.shape.clone(), data))
}

fn range(dtype: DType) -> Result<[f64; 2], String> {
    Ok(match dtype {
        DType::U8 => [0.0, 255.0],
        DType::I8 => [-128.0, 127.0],
        DType::U16 => [0.0, 65535.0],
        DType::I16 => [-32768.0, 32767.0],
        other => return Err(format!("integers of type {other}")),
    })
}

/// `(x - zero) * scale`.
fn dequantize(call: &Call) -> Result<Tensor, String> {
    let (x, scales) = (call.operand(0)?, call.operand(1)?);
    let zero = zero_point(call, scales)?;
    let dtype = match call.op.int("output_dtype", 0) {
        0 => scales.dtype,
        code => data_type(code)?,
    };
    let place = scale_of(call, x, scales)?;
    let element = |(index, &value): (usize, &f64)| {
        let at = place(index);
        (value - zero.as_ref().map_or(0.0, |zero| zero.data[at])) * scales.data[at]
    };
    let data = x.data.iter().enumerate().map(element).collect();
    Ok(Tensor::typed(dtype, x.shape.clone(), data))
}

/// `x[…, K] · w + bias`, with `w[K, N]` in blocks of `block_size` rows: integers of `bits` bits, the first of a byte in its
/// lowest bits.
fn matmul_n_bits(call: &Call) -> Result<Tensor, String> {
    let size = |name: &str, default: i64| {
        let size = usize::try_from(call.op.int(name, default))
            .ok()
            .filter(|&size| size > 0);
        size.ok_or_else(|| format!("no {name}"))
    };
    let (depth, columns, bits, block) = (size("K", 0)?, size("N", 0)?, size("bits", 4)?, size("block_size", 0)?);
    if !matches!(bits, 2 | 4 | 8) {
        return Err(format!("weights of {bits} bits"));
    }
    if call.optional(3).is_some() && call.optional(4).is_some() {
        return Err("zero points of rows in groups, which ONNX Runtime passes over".to_owned());
    }
    let blocks = depth.div_ceil(block);
    let packed = call.operand(1)?;
    let line = blocks * (block * bits).div_ceil(8);
    let scales = call.operand(2)?;
    if packed.data.len() != columns * line || scales.data.len() != columns * blocks {
        return Err(format!("weights [{}], scales [{}]", packed.shape, scales.shape));
    }
    let per_byte = 8 / bits;
    let integer = |bytes: &Tensor, line: usize, column: usize, index: usize| -> Result<f64, String> {
        let byte = bytes
            .data
            .get(column * line + index / per_byte)
            .ok_or("too few bytes")?;
        let shifted = (*byte as u32) >> (index % per_byte * bits);
        Ok(f64::from(shifted & ((1 << bits) - 1)))
    };
    let zero = |column: usize, group: usize| -> Result<f64, String> {
        match call.optional(3) {
            None => Ok(f64::from(1u32 << (bits - 1))),
            Some(points) if points.dtype.is_float() => {
                let point = points.data.get(column * blocks + group);
                point.copied().ok_or_else(|| "too few zero points".to_owned())
            }
            Some(points) => integer(points, (blocks * bits).div_ceil(8), column, group),
        }
    };
    let mut weights = vec![0.0; depth * columns];
    for row in 0..depth {
        let group = match call.optional(4) {
            None => row / block,
            Some(groups) => groups
                .data
                .get(row)
                .map(|&group| group as usize)
                .ok_or("too few groups")?,
        };
        if group >= blocks {
            return Err(format!("group {group} of {blocks}"));
        }
        for column in 0..columns {
            let centred = integer(packed, line, column, row)? - zero(column, group)?;
            weights[row * columns + column] = centred * scales.data[column * blocks + group];
        }
    }
    let x = call.operand(0)?;
    let product = matmul(x, &x.like([depth, columns], weights))?;
    match call.optional(5) {
        Some(bias) => broadcast(&product, bias, |product, bias| product + bias),
        None => Ok(product),
    }
}
