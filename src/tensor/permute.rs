//! Tensors with their axes in another order.

use bytes::Bytes;

use crate::{HostTensor, Shape};

/// Elements of the innermost output axis that are written together: a cache line of two-byte elements.
const BLOCK: usize = 32;

/// One axis of the output.
#[derive(Clone, Copy)]
struct Axis {
    length: usize,
    /// distance of neighbours in the input and in the output, elements
    from: usize,
    to: usize,
}

/// `output[i0, i1, …] = input[…]` with output axis `a` being input axis `permutation[a]`.
pub(crate) fn permute(input: &HostTensor, permutation: &[usize]) -> HostTensor {
    let shape: Shape = permutation.iter().map(|&axis| input.shape()[axis]).collect();
    let data = match input.dtype().size() {
        1 => elements::<1>(input, permutation, &shape),
        2 => elements::<2>(input, permutation, &shape),
        4 => elements::<4>(input, permutation, &shape),
        8 => elements::<8>(input, permutation, &shape),
        size => unreachable!("no element has {size} bytes"),
    };
    HostTensor::new(input.dtype(), shape, data).expect("same number of elements")
}

fn elements<const SIZE: usize>(input: &HostTensor, permutation: &[usize], shape: &Shape) -> Bytes {
    let (input_strides, output_strides) = (input.shape().strides(), shape.strides());
    let mut axes: Vec<Axis> = (0..shape.len())
        .map(|axis| Axis {
            length: shape[axis],
            from: input_strides[permutation[axis]],
            to: output_strides[axis],
        })
        .collect();
    let (from, _) = input.data().as_chunks::<SIZE>();
    let mut to = vec![[0; SIZE]; from.len()];
    let inner = axes.pop().unwrap_or(Axis {
        length: 1,
        from: 1,
        to: 1,
    });
    // reading in the order of the input keeps each of the block's rows in one stream
    axes.sort_by_key(|axis| std::cmp::Reverse(axis.from));
    let block = if inner.from == 1 { inner.length.max(1) } else { BLOCK };
    for start in (0..inner.length).step_by(block) {
        let block = Axis {
            length: block.min(inner.length - start),
            ..inner
        };
        copy(from, &mut to, &axes, block, [start * inner.from, start * inner.to]);
    }
    Bytes::from(to.into_flattened())
}

fn copy<T: Copy>(from: &[T], to: &mut [T], axes: &[Axis], block: Axis, [source, target]: [usize; 2]) {
    let [axis, rest @ ..] = axes else {
        let to = &mut to[target..target + block.length];
        if block.from == 1 {
            return to.copy_from_slice(&from[source..source + block.length]);
        }
        for (value, at) in to.iter_mut().zip((source..).step_by(block.from)) {
            *value = from[at];
        }
        return;
    };
    for index in 0..axis.length {
        copy(
            from,
            to,
            rest,
            block,
            [source + index * axis.from, target + index * axis.to],
        );
    }
}
