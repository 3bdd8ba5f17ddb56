//! Constants that are transformed on demand.

use fisec_tensor::{Constant, DType, HostTensor, Shape, Transform};
use half::f16;
use proptest::prelude::*;

/// Elements of `dtype` that count upwards.
fn counting(dtype: DType, shape: &[usize]) -> Constant {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|index| (index % 120) as f64).collect();
    HostTensor::from_f64(dtype, shape.to_vec(), &values).unwrap().into()
}

/// `output[i0, i1, …] = input[…]`, element by element.
fn permuted(input: &HostTensor, order: &[usize]) -> Vec<f64> {
    let shape: Shape = order.iter().map(|&axis| input.shape()[axis]).collect();
    let (values, from, to) = (input.to_f64_vec(), input.shape().strides(), shape.strides());
    let source = |index: usize| -> usize {
        let along = |axis: usize| index / to[axis] % shape[axis];
        (0..shape.len()).map(|axis| along(axis) * from[order[axis]]).sum()
    };
    (0..values.len()).map(|index| values[source(index)]).collect()
}

proptest! {
    #[test]
    fn permuting_moves_every_element(
        (shape, order) in prop::collection::vec(1usize..40, 1..4)
            .prop_flat_map(|shape| (Just(shape.clone()), Just((0..shape.len()).collect::<Vec<_>>()).prop_shuffle())),
        dtype in prop::sample::select(vec![DType::U8, DType::F16, DType::F32, DType::I64]),
    ) {
        let constant = counting(dtype, &shape);
        let turned = constant.transformed(Transform::Permute(order.clone())).materialize();
        prop_assert_eq!(turned.to_f64_vec(), permuted(&constant.materialize(), &order));
        prop_assert_eq!(turned.dtype(), dtype);
    }
}

#[test]
fn empty_tensors_can_be_permuted() {
    for shape in [vec![2, 0], vec![0, 3, 2], vec![]] {
        let constant = counting(DType::F32, &shape);
        let order: Vec<usize> = (0..shape.len()).rev().collect();
        let turned = constant.transformed(Transform::Permute(order)).materialize();
        assert_eq!(turned.shape().elements(), constant.shape().elements());
    }
}

#[test]
fn widened_constants_know_their_halves_in_every_layout() {
    let halves = counting(DType::F16, &[4, 6]);
    let layouts = [
        Transform::Permute(vec![1, 0]),
        Transform::Reshape([8, 3].into()),
        Transform::Slice {
            axis: 1,
            start: 1,
            length: 3,
        },
    ];
    for layout in layouts {
        let wide = Transform::Cast(DType::F32);
        let before = halves.transformed(wide.clone()).transformed(layout.clone());
        let after = halves.transformed(layout).transformed(wide);
        for constant in [before, after] {
            let unwidened = constant.unwidened().unwrap();
            assert_eq!((unwidened.dtype(), unwidened.shape()), (DType::F16, constant.shape()));
            assert_eq!(unwidened.materialize().cast(DType::F32), constant.materialize());
        }
    }
}

#[test]
fn what_was_rounded_or_never_narrow_has_no_halves() {
    let wide = counting(DType::F32, &[4, 6]);
    let rounded = wide.transformed(Transform::Cast(DType::F16));
    assert!(wide.unwidened().is_none() && rounded.unwidened().is_none());
    let narrowed_again = rounded.transformed(Transform::Cast(DType::F32));
    let unwidened = narrowed_again.unwidened().unwrap().materialize();
    assert_eq!(unwidened.as_pod::<f16>(DType::F16).unwrap()[5], f16::from_f32(5.0));
}

#[test]
fn the_same_bytes_through_the_same_transformations_are_the_same() {
    let (a, equal) = (counting(DType::F32, &[4, 6]), counting(DType::F32, &[4, 6]));
    let turn = || Transform::Permute(vec![1, 0]);
    assert!(a.is_same(&a.clone()) && a.transformed(turn()).is_same(&a.clone().transformed(turn())));
    assert_eq!(a.address(), a.transformed(turn()).address());
    assert!(!a.is_same(&equal), "other bytes");
    assert!(!a.transformed(turn()).is_same(&a), "another layout");
    let reshaped = a.transformed(Transform::Reshape([6, 4].into()));
    assert!(
        !a.transformed(turn()).is_same(&reshaped),
        "another transformation to the same shape"
    );
    let filled = |value| Constant::filled(DType::F32, [3], value);
    assert!(filled(1.0).is_same(&filled(1.0)) && !filled(1.0).is_same(&filled(2.0)));
}

#[test]
fn integers_are_unpacked_from_the_lowest_bits_on() {
    let bytes = |values: Vec<u8>| Constant::from(HostTensor::from_pod(DType::U8, [1, values.len()], values));
    let unpacked = |bits, signed| {
        let constant = bytes(vec![0b1110_0111, 0b0000_1000]).transformed(Transform::Unpack { bits, signed });
        (
            constant.dtype(),
            constant.shape().to_vec(),
            constant.materialize().to_i64_vec(),
        )
    };
    assert_eq!(unpacked(4, false), (DType::U8, vec![1, 4], vec![7, 14, 8, 0]));
    assert_eq!(unpacked(4, true), (DType::I8, vec![1, 4], vec![7, -2, -8, 0]));
    assert_eq!(
        unpacked(2, false),
        (DType::U8, vec![1, 8], vec![3, 1, 2, 3, 0, 2, 0, 0])
    );
    assert_eq!(unpacked(8, false), (DType::U8, vec![1, 2], vec![0b1110_0111, 8]));
}

#[test]
fn groups_of_an_axis_have_their_own_scales() {
    let integers = HostTensor::from_f64(
        DType::I8,
        [2, 5],
        &[1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -2.0, -3.0, -4.0, -5.0],
    );
    let constant = Constant::from(integers.unwrap()).transformed(Transform::DequantizeGroups {
        axis: 1,
        groups: std::sync::Arc::new(vec![0, 0, 1, 1, 0]),
        scales: HostTensor::from_f32([2, 2], vec![1.0, 10.0, 0.5, 2.0]),
        zero_points: Some(HostTensor::from_f32([2, 2], vec![0.0, 1.0, -1.0, 0.0])),
        dtype: DType::F32,
    });
    let expected = [1.0, 2.0, 20.0, 30.0, 5.0, 0.0, -0.5, -6.0, -8.0, -2.0];
    assert_eq!(constant.materialize().to_f32_vec(), expected);
}

proptest! {
    /// Two transformations of one kind are kept as one, and mean what they meant one after the other.
    #[test]
    fn transformations_of_one_kind_are_joined(
        (shape, first, second) in prop::collection::vec(1usize..6, 3)
            .prop_flat_map(|shape| (Just(shape), Just(vec![0usize, 1, 2]).prop_shuffle(), Just(vec![0usize, 1, 2]).prop_shuffle())),
        cut in 0usize..3,
    ) {
        let constant = counting(DType::F32, &shape);
        let apart = |constant: &Constant, transform: Transform| Constant::from(constant.transformed(transform).materialize());
        let permutes = [Transform::Permute(first), Transform::Permute(second)];
        let (axis, length) = (cut, shape[cut]);
        let start = usize::from(length > 1);
        let left = length - start;
        let slices = [
            Transform::Slice { axis, start, length: left },
            Transform::Slice { axis, start: left / 2, length: left - left / 2 },
        ];
        let elements: usize = shape.iter().product();
        let reshapes = [Transform::Reshape([elements].into()), Transform::Reshape([1, elements].into())];
        for [one, two] in [permutes, slices, reshapes] {
            let joined = constant.transformed(one.clone()).transformed(two.clone());
            prop_assert!(joined.pending() <= 1);
            prop_assert_eq!(joined.materialize(), apart(&apart(&constant, one), two).materialize());
        }
    }
}

#[test]
fn constants_that_are_the_same_have_one_fingerprint() {
    let (a, equal) = (counting(DType::F32, &[4, 6]), counting(DType::F32, &[4, 6]));
    let turn = || Transform::Permute(vec![1, 0]);
    let cut = |start: usize| Transform::Slice {
        axis: 0,
        start,
        length: 2,
    };
    assert_eq!(
        a.transformed(turn()).fingerprint(),
        a.clone().transformed(turn()).fingerprint()
    );
    let distinct = [
        a.clone(),
        equal,
        a.transformed(turn()),
        a.transformed(cut(0)),
        a.transformed(cut(1)),
    ];
    let prints: std::collections::HashSet<u64> = distinct.iter().map(Constant::fingerprint).collect();
    assert_eq!(prints.len(), distinct.len());
}

#[test]
fn a_fill_is_rounded_to_the_type_that_it_is_cast_to() {
    let cast = |value: f64, dtype: DType| {
        let fill = Constant::filled(DType::F32, [3], value).transformed(Transform::Cast(dtype));
        assert_eq!(fill.source_bytes(), 0);
        fill.fill_value().unwrap()
    };
    assert_eq!(cast(2.7, DType::I64), 2.0);
    assert_eq!(cast(0.5, DType::Bool), 1.0);
    assert_eq!(cast(0.25, DType::F16), 0.25);
}

#[test]
fn constants_know_their_bytes() {
    let halves = counting(DType::F16, &[4, 6]);
    let wide = halves.transformed(Transform::Cast(DType::F32));
    assert_eq!((halves.bytes(), wide.bytes(), wide.source_bytes()), (48, 96, 48));
    assert_eq!((halves.work(), wide.work()), (0, 96 + 24 * 8));
    let part = Transform::Slice {
        axis: 0,
        start: 0,
        length: 1,
    };
    assert_eq!(
        wide.transformed(part).work(),
        24 + 96 + 24 * 8,
        "the whole is converted for a part"
    );
    assert_eq!(Constant::filled(DType::F32, [usize::MAX, 2], 0.0).bytes(), usize::MAX);
}
