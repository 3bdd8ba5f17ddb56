//! Products, convolutions, reductions and resizing.

use fisec_tensor::{DType, Shape};
use rayon::prelude::*;

use super::elementwise::broadcast;
use super::views::permuted;
use super::{Answer, Call, axes, checked_elements};
use crate::Tensor;
use crate::math::{matmul as multiply, softmax as normalise, transpose};
use crate::semantic::{Window, convolve};

pub(super) fn evaluate(call: &Call) -> Option<Answer> {
    let result = match call.op.op_type.as_str() {
        "MatMul" => call.operand(0).and_then(|a| matmul(a, call.operand(1)?)),
        "Gemm" => gemm(call),
        "Conv" => conv(call),
        "Softmax" => softmax(call),
        "Resize" | "Upsample" => resize(call),
        "ArgMax" => argmax(call),
        "ReduceMean" => reduce(call, |row| row.iter().sum::<f64>() / row.len() as f64),
        "ReduceSum" => reduce(call, |row| row.iter().sum()),
        "ReduceMax" => reduce(call, |row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        "ReduceMin" => reduce(call, |row| row.iter().copied().fold(f64::INFINITY, f64::min)),
        "ReduceProd" => reduce(call, |row| row.iter().product()),
        "ReduceL2" => reduce(call, |row| row.iter().map(|value| value * value).sum::<f64>().sqrt()),
        _ => return None,
    };
    Some(result.map(|y| vec![y]))
}

/// Matrix product over the last two axes, the others broadcast.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    if a.shape.is_empty() || b.shape.is_empty() {
        return Err("a product of scalars".to_owned());
    }
    let mut a_shape = a.shape.to_vec();
    let mut b_shape = b.shape.to_vec();
    if a.shape.len() == 1 {
        a_shape.insert(0, 1);
    }
    if b.shape.len() == 1 {
        b_shape.push(1);
    }
    let ([a_outer @ .., m, k], [b_outer @ .., inner, n]) = (&a_shape[..], &b_shape[..]) else {
        unreachable!()
    };
    if k != inner {
        return Err(format!("[{}] times [{}]", a.shape, b.shape));
    }
    let outer = fisec_ir::broadcast(&a_outer.into(), &b_outer.into())?;
    let (m, k, n) = (*m, *k, *n);
    let data = if b_outer.iter().all(|&dim| dim == 1) && a_outer == outer.dims() {
        multiply(&a.data, &b.data, [outer.elements() * m, k, n])
    } else {
        let blocks = |shape: &[usize]| {
            let count = shape.iter().product();
            let numbers = Tensor::new(shape, (0..count).map(|index| index as f64).collect());
            super::elementwise::expanded(&numbers, &outer)
        };
        let (a_blocks, b_blocks) = (blocks(a_outer)?.integers(), blocks(b_outer)?.integers());
        let product = |(a_block, b_block): (&i64, &i64)| {
            let (a_start, b_start) = (*a_block as usize * m * k, *b_block as usize * k * n);
            multiply(
                &a.data[a_start..a_start + m * k],
                &b.data[b_start..b_start + k * n],
                [m, k, n],
            )
        };
        a_blocks.par_iter().zip(&b_blocks).flat_map_iter(product).collect()
    };
    let mut shape = outer.to_vec();
    shape.extend((a.shape.len() > 1).then_some(m));
    shape.extend((b.shape.len() > 1).then_some(n));
    Ok(a.like(shape, data))
}

fn gemm(call: &Call) -> Result<Tensor, String> {
    let turned = |position: usize, attribute: &str| {
        let x = call.operand(position)?;
        match (x.shape.dims(), call.op.int(attribute, 0)) {
            ([_, _], 0) => Ok(x.clone()),
            ([rows, columns], _) => Ok(x.like([*columns, *rows], transpose(&x.data, *rows, *columns))),
            _ => Err(format!("operand {position} is not a matrix")),
        }
    };
    let (alpha, beta) = (call.float("alpha", 1.0), call.float("beta", 1.0));
    let product = matmul(&turned(0, "transA")?, &turned(1, "transB")?)?.map(|value| alpha * value);
    match call.optional(2) {
        Some(addend) => broadcast(&product, addend, |product, addend| product + beta * addend),
        None => Ok(product),
    }
}

fn conv(call: &Call) -> Result<Tensor, String> {
    let (x, weight) = (call.operand(0)?, call.operand(1)?);
    let window = window(call, x, weight)?;
    if let Some(bias) = call.optional(2) {
        super::expect("the bias", bias, &weight.shape[..1])?;
    }
    Ok(convolve(x, weight, call.optional(2), &window))
}

/// The geometry that the attributes of a convolution of `x[N, C, H, W]` with `weight[O, C/groups, kh, kw]` ask for.
pub(super) fn window(call: &Call, x: &Tensor, weight: &Tensor) -> Result<Window, String> {
    let ([_, inputs, height, width], [outputs, group_inputs, kernel_rows, kernel_columns]) =
        (&x.shape[..], &weight.shape[..])
    else {
        return Err(format!("a convolution of [{}] with [{}]", x.shape, weight.shape));
    };
    let groups = usize::try_from(call.op.int("group", 1))
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or("no groups")?;
    if inputs / groups != *group_inputs || inputs % groups != 0 || outputs % groups != 0 {
        return Err(format!(
            "{inputs} channels, weights for {group_inputs} in {groups} groups"
        ));
    }
    let pair = |name: &str, default: usize| -> Result<[usize; 2], String> {
        match call.op.ints(name) {
            None => Ok([default; 2]),
            Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok([rows as usize, columns as usize]),
            Some(list) => Err(format!("{name} {list:?}")),
        }
    };
    let (stride, dilation) = (pair("strides", 1)?, pair("dilations", 1)?);
    let size = [*height, *width];
    let reach = [
        kernel_rows.saturating_sub(1) * dilation[0] + 1,
        kernel_columns.saturating_sub(1) * dilation[1] + 1,
    ];
    let pads = padding(call, size, reach, stride)?;
    let mut output = [0; 2];
    for axis in 0..2 {
        let padded = size[axis] + pads[axis] + pads[axis + 2];
        output[axis] = padded
            .checked_sub(reach[axis])
            .ok_or("the image is smaller than the kernel")?
            / stride[axis]
            + 1;
    }
    Ok(Window {
        stride,
        dilation,
        before: [pads[0], pads[1]],
        output,
        groups,
    })
}

fn padding(call: &Call, size: [usize; 2], reach: [usize; 2], stride: [usize; 2]) -> Result<[usize; 4], String> {
    let mode = call.text("auto_pad", "NOTSET");
    if !mode.starts_with("SAME") {
        return match (call.op.ints("pads"), mode) {
            (_, "VALID") | (None, _) => Ok([0; 4]),
            (Some(list), _) => super::shapes::dims(list)?.try_into().map_err(|_| "pads".to_owned()),
        };
    }
    let mut pads = [0; 4];
    for axis in 0..2 {
        let total = (size[axis].div_ceil(stride[axis]).saturating_sub(1) * stride[axis] + reach[axis])
            .saturating_sub(size[axis]);
        let small = total / 2;
        let before = if mode == "SAME_UPPER" { small } else { total - small };
        (pads[axis], pads[axis + 2]) = (before, total - before);
    }
    Ok(pads)
}

fn softmax(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let rank = x.shape.len();
    if call.op.opset < 13 {
        let axis = call.axis(1, rank)?;
        let width: usize = x.shape[axis..].iter().product();
        return Ok(over_rows(x, width));
    }
    let axis = call.axis(-1, rank)?;
    let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
    order.push(axis);
    let rows = over_rows(&permuted(x, &order), x.shape[axis]);
    let back: Vec<usize> = (0..rank)
        .map(|axis| order.iter().position(|&other| other == axis).expect("all"))
        .collect();
    Ok(permuted(&rows, &back))
}

fn over_rows(x: &Tensor, width: usize) -> Tensor {
    let mut y = x.clone();
    y.data.par_chunks_mut(width.max(1)).for_each(normalise);
    y
}

fn argmax(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let axis = call.axis(0, x.shape.len())?;
    let last = call.op.int("select_last_index", 0) != 0;
    let keep = call.op.int("keepdims", 1) != 0;
    let found = reduced(x, &[axis], keep, |row| {
        let better = |best: usize, at: usize| row[at] > row[best] || (last && row[at] == row[best]);
        (1..row.len()).fold(0, |best, at| if better(best, at) { at } else { best }) as f64
    });
    Ok(Tensor {
        dtype: DType::I64,
        ..found
    })
}

fn reduce(call: &Call, function: impl Fn(&[f64]) -> f64) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    let rank = x.shape.len();
    let over = match call.integers(1, "axes") {
        Some(list) if !list.is_empty() => axes(&list, rank)?,
        _ if call.op.int("noop_with_empty_axes", 0) != 0 => return Ok(x.clone()),
        _ => (0..rank).collect(),
    };
    Ok(reduced(x, &over, call.op.int("keepdims", 1) != 0, function))
}

fn reduced(x: &Tensor, over: &[usize], keep: bool, function: impl Fn(&[f64]) -> f64) -> Tensor {
    let rank = x.shape.len();
    let kept: Vec<usize> = (0..rank).filter(|axis| !over.contains(axis)).collect();
    let order: Vec<usize> = kept.iter().chain(over).copied().collect();
    let rows = permuted(x, &order);
    let width: usize = over.iter().map(|&axis| x.shape[axis]).product();
    let count: usize = kept.iter().map(|&axis| x.shape[axis]).product();
    let data: Vec<f64> = (0..count)
        .map(|row| function(&rows.data[row * width..(row + 1) * width]))
        .collect();
    let shape: Shape = match keep {
        true => (0..rank)
            .map(|axis| if over.contains(&axis) { 1 } else { x.shape[axis] })
            .collect(),
        false => kept.iter().map(|&axis| x.shape[axis]).collect(),
    };
    x.like(shape, data)
}

/// Nearest-neighbour resizing by scales or to sizes.
fn resize(call: &Call) -> Result<Tensor, String> {
    let x = call.operand(0)?;
    if call.text("mode", "nearest") != "nearest" {
        return Err(format!("resizing of mode `{}`", call.text("mode", "nearest")));
    }
    let old_form = call.op.op_type == "Upsample" || call.op.opset < 11;
    let given = |position: usize| call.optional(position).filter(|list| !list.data.is_empty());
    let scales = given(if old_form { 1 } else { 2 });
    let sizes = given(3);
    let mut shape = x.shape.to_vec();
    let mut factors = vec![1.0; shape.len()];
    for axis in 0..shape.len() {
        let missing = || "scales or sizes for every axis are missing".to_owned();
        let length = x.shape[axis] as f64;
        if let Some(sizes) = sizes {
            shape[axis] = *sizes.data.get(axis).ok_or_else(missing)? as usize;
            factors[axis] = shape[axis] as f64 / length;
        } else {
            factors[axis] = *scales.and_then(|scales| scales.data.get(axis)).ok_or_else(missing)?;
            shape[axis] = (length * factors[axis]).floor() as usize;
        }
    }
    checked_elements(&shape)?;
    let coordinates = call.text(
        "coordinate_transformation_mode",
        if old_form { "asymmetric" } else { "half_pixel" },
    );
    let rounding = call.text("nearest_mode", if old_form { "floor" } else { "round_prefer_floor" });
    if x.data.is_empty() {
        return Err(format!("[{}] has nothing to resize", x.shape));
    }
    let mut y = x.clone();
    for (axis, factor) in factors.iter().enumerate() {
        let sources = (0..shape[axis])
            .map(|index| source_index(index, *factor, [x.shape[axis], shape[axis]], coordinates, rounding))
            .collect::<Result<Vec<_>, _>>()?;
        y = picked(&y, axis, &sources);
    }
    Ok(y)
}

fn source_index(
    index: usize,
    scale: f64,
    [from, to]: [usize; 2],
    coordinates: &str,
    rounding: &str,
) -> Result<usize, String> {
    let index = index as f64;
    let place = match coordinates {
        "asymmetric" => index / scale,
        "half_pixel" => (index + 0.5) / scale - 0.5,
        "pytorch_half_pixel" if to > 1 => (index + 0.5) / scale - 0.5,
        "pytorch_half_pixel" => 0.0,
        "align_corners" if to > 1 => index * (from as f64 - 1.0) / (to as f64 - 1.0),
        "align_corners" => 0.0,
        other => return Err(format!("coordinates by `{other}`")),
    };
    let nearest = match rounding {
        "floor" => place.floor(),
        "ceil" => place.ceil(),
        "round_prefer_floor" => (place - 0.5).ceil(),
        "round_prefer_ceil" => (place + 0.5).floor(),
        other => return Err(format!("rounding by `{other}`")),
    };
    Ok(nearest.clamp(0.0, from as f64 - 1.0) as usize)
}

/// The slices of `axis` at these indices.
fn picked(x: &Tensor, axis: usize, indices: &[usize]) -> Tensor {
    let inner: usize = x.shape[axis + 1..].iter().product();
    let mut shape = x.shape.to_vec();
    let mut data = Vec::new();
    for block in x.data.chunks_exact((shape[axis] * inner).max(1)) {
        for index in indices {
            data.extend_from_slice(&block[index * inner..(index + 1) * inner]);
        }
    }
    shape[axis] = indices.len();
    x.like(shape, data)
}
