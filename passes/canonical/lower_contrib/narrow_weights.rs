//! Products with weights of a few bits: `MatMulNBits`.

use std::sync::Arc;

use fisec_ir::{NodeId, OnnxOp, Operand, ValueType, WeightInfo};
use fisec_tensor::{Constant, DType, HostTensor, Shape, Transform};

use super::given;
use crate::canonical::pattern::{Rewriter, constant, result, standard, value_at, weight_ints};

/// Columns, depth and blocks of a product's weights.
#[derive(Clone, Copy)]
struct Sizes {
    columns: usize,
    depth: usize,
    block: usize,
    blocks: usize,
    bits: usize,
}

impl Sizes {
    fn of(op: &OnnxOp) -> Option<Self> {
        let size = |name: &str| usize::try_from(op.int(name, 0)).ok().filter(|&size| size > 0);
        let (depth, block) = (size("K")?, size("block_size")?);
        let bits = usize::try_from(op.int("bits", 4)).ok()?;
        matches!(bits, 2 | 4 | 8).then_some(Sizes {
            columns: size("N")?,
            depth,
            block,
            blocks: depth.div_ceil(block),
            bits,
        })
    }
}

/// `x, weights[N, blocks, bytes], scales[N, blocks], zero points?, group of each row?, bias[N]?` to a product with the
/// weights as numbers. The weights are read when they are written, not here.
pub(super) fn product(rewriter: &mut Rewriter, id: NodeId, op: &OnnxOp) -> Option<()> {
    let sizes = Sizes::of(op)?;
    let x = value_at(rewriter.graph, id, 0)?;
    let old = rewriter.graph.value_type(result(id)).clone();
    let name = rewriter
        .graph
        .weight(given(rewriter.graph, id, 1)?.weight()?)
        .name
        .clone();
    let bias = match given(rewriter.graph, id, 5) {
        Some(bias) => Some(Operand::from(bias.weight()?)),
        None => None,
    };
    let data = weights(rewriter, id, sizes, old.dtype)?;
    let weight: Operand = rewriter.graph.add_weight(WeightInfo { name, data }).into();
    let product = standard("MatMul", &[]);
    match bias {
        None => rewriter.replace(result(id), product, vec![x.into(), weight], &[id]),
        Some(bias) => {
            let ty = ValueType::full(old.dtype, old.shape);
            let made = rewriter.add(product, vec![x.into(), weight], ty, &[id]);
            rewriter.replace(result(id), standard("Add", &[]), vec![made.into(), bias], &[id])
        }
    };
    Some(())
}

/// The weights `[K, N]`.
fn weights(rewriter: &Rewriter, id: NodeId, sizes: Sizes, dtype: DType) -> Option<Constant> {
    let graph = &*rewriter.graph;
    let operand = |position: usize| constant(graph, given(graph, id, position)?);
    let Sizes {
        columns,
        depth,
        block,
        blocks,
        bits,
    } = sizes;
    let packed = operand(1).filter(|packed| packed.dtype() == DType::U8)?;
    let line = (block * bits).div_ceil(8);
    if packed.shape().elements() != columns * blocks * line {
        return None;
    }
    let integers = shaped(packed, &[columns, blocks * line]).transformed(Transform::Unpack { bits, signed: false });
    let integers = first(&integers, depth);
    let scales = operand(2).filter(|scales| scales.shape().elements() == columns * blocks)?;
    // ONNX Runtime passes over the zero points of rows in groups, its documentation does not: it computes these itself
    if given(graph, id, 3).is_some() && given(graph, id, 4).is_some() {
        return None;
    }
    let zero_points = match given(graph, id, 3) {
        None => Constant::filled(DType::F32, [columns, blocks], f64::from(1u32 << (bits - 1))),
        Some(points) => zero_points(constant(graph, points)?, sizes)?,
    };
    let groups: Vec<u32> = match given(graph, id, 4) {
        None => (0..depth).map(|row| (row / block) as u32).collect(),
        Some(list) => {
            let list = weight_ints(graph, list)?;
            let known = |group: &i64| (0..blocks as i64).contains(group);
            let groups = list.get(..depth).filter(|list| list.iter().all(known))?;
            groups.iter().map(|&group| group as u32).collect()
        }
    };
    let numbers = integers.transformed(Transform::DequantizeGroups {
        axis: 1,
        groups: Arc::new(groups),
        scales: tensor(scales, &[columns, blocks]),
        zero_points: Some(tensor(&zero_points, &[columns, blocks])),
        dtype,
    });
    Some(numbers.transformed(Transform::Permute(vec![1, 0])))
}

/// Zero points `[N, blocks]`: packed like the weights, every column beginning with a byte, or numbers.
fn zero_points(given: &Constant, sizes: Sizes) -> Option<Constant> {
    let Sizes {
        columns, blocks, bits, ..
    } = sizes;
    if given.dtype().is_float() {
        return (given.shape().elements() == columns * blocks).then(|| shaped(given, &[columns, blocks]));
    }
    let line = (blocks * bits).div_ceil(8);
    if given.dtype() != DType::U8 || given.shape().elements() != columns * line {
        return None;
    }
    let all = shaped(given, &[columns, line]).transformed(Transform::Unpack { bits, signed: false });
    Some(first(&all, blocks))
}

/// The first columns of a matrix.
fn first(matrix: &Constant, length: usize) -> Constant {
    matrix.transformed(Transform::Slice {
        axis: 1,
        start: 0,
        length,
    })
}

fn shaped(constant: &Constant, shape: &[usize]) -> Constant {
    constant.transformed(Transform::Reshape(Shape::from(shape)))
}

fn tensor(constant: &Constant, shape: &[usize]) -> HostTensor {
    shaped(constant, shape).materialize()
}
