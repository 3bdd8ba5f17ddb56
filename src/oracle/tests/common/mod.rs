//! Small graphs written in IR text, and data for them.
#![allow(dead_code)]

use std::collections::BTreeMap;

use fisec_ir::text::parse;
use fisec_ir::{Graph, SlotId};
use fisec_oracle::{Oracle, OracleError, Run, Tensor};
use fisec_tensor::Mask;

/// Reproducible numbers in -1..1.
pub fn noise(shape: &[usize], seed: u64) -> Tensor {
    let count = shape.iter().product();
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    Tensor::new(shape, (0..count).map(|_| next()).collect())
}

pub fn graph(source: &str) -> Graph {
    parse(source).unwrap_or_else(|error| panic!("{error}"))
}

pub fn run(graph: &Graph, inputs: &[(&str, &Tensor)]) -> Run {
    try_run(graph, inputs, &[], &[]).unwrap_or_else(|error| panic!("{error}"))
}

pub fn try_run(
    graph: &Graph,
    inputs: &[(&str, &Tensor)],
    slots: &[&Tensor],
    masks: &[Mask],
) -> Result<Run, OracleError> {
    let inputs: BTreeMap<String, Tensor> = inputs
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), (*tensor).clone()))
        .collect();
    let slots = slots
        .iter()
        .enumerate()
        .map(|(id, tensor)| (SlotId(id as u32), (*tensor).clone()));
    Oracle::new(graph).inputs(inputs).slots(slots).masks(masks).run()
}

/// One operator over inputs called `a`, `b`, …, all given: `line` is what stands behind `=`.
pub fn apply(line: &str, operands: &[&Tensor]) -> Tensor {
    let mut source = String::from("graph g\n");
    let names: Vec<String> = (0..operands.len())
        .map(|index| char::from(b'a' + index as u8).to_string())
        .collect();
    for (name, operand) in names.iter().zip(operands) {
        source += &format!("%{name} = input \"{name}\" : f64[{}]\n", operand.shape);
    }
    source += &format!("%y = {line}\noutput %y, \"y\"\n");
    let inputs: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(operands.iter().copied()).collect();
    run(&graph(&source), &inputs).outputs["y"].clone()
}

pub fn close(found: &Tensor, expected: &Tensor) {
    let apart = fisec_oracle::difference(found, expected).unwrap();
    assert!(
        apart.relative < 1e-12,
        "{apart:?}\n{:?}\n{:?}",
        found.data,
        expected.data
    );
    assert!(
        expected.data.iter().all(|value| !value.is_nan()),
        "the reference is defined throughout"
    );
}

/// A tensor from a formula over indices.
pub fn tensor(shape: &[usize], formula: impl Fn(&[usize]) -> f64) -> Tensor {
    let count: usize = shape.iter().product();
    let element = |mut flat: usize| {
        let mut index = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            index[axis] = flat % shape[axis];
            flat /= shape[axis];
        }
        formula(&index)
    };
    Tensor::new(shape, (0..count).map(element).collect())
}

/// The element at `index`.
pub fn at(x: &Tensor, index: &[usize]) -> f64 {
    let flat = index
        .iter()
        .zip(x.shape.iter())
        .fold(0, |flat, (index, dim)| flat * dim + index);
    x.data[flat]
}
