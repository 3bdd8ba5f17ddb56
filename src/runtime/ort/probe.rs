//! What a small model gives, asked of ONNX Runtime: types of its outputs, and their values where it has no inputs.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ::ort::session::RunOptions;
use ::ort::session::builder::GraphOptimizationLevel;
use fisec_tensor::{DType, HostTensor, Shape};

use super::OnnxRuntime;
use super::session::{Outlet, outlet};
use super::tensor::{from_value, to_value};
use crate::RuntimeError;

/// Most bytes that the inputs of a probe, or one of its outputs, may have.
const MOST_BYTES: usize = 256 << 20;
/// Values with more bytes are not returned.
const LARGEST_VALUE: usize = 1 << 20;
/// A probe is stopped between two operators after this time.
const LONGEST: Duration = Duration::from_secs(10);

/// An output of a probed model.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    /// element type
    pub dtype: DType,
    /// dimensions
    pub shape: Shape,
    /// what the model computes without inputs, when it is small
    pub value: Option<HostTensor>,
}

/// What stands in the inputs of a probe.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Zeros,
    Ones,
    /// zeros and ones in turns
    Mixed,
}

impl OnnxRuntime {
    /// The outputs of a model in memory, whose inputs have fixed shapes. Shapes that ONNX Runtime does not infer are those of
    /// its results on made-up inputs.
    ///
    /// # Errors
    /// ONNX Runtime refuses the model, its tensors would be too large, or the shape of an output depends on values.
    pub fn probe(&self, model: &[u8]) -> Result<Vec<Probed>, RuntimeError> {
        let refuse = |error: ::ort::Error| RuntimeError::Probe(reason(&error));
        let mut session = ::ort::session::Session::builder(&self.environment)
            .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::Disable)?))
            .and_then(|builder| Ok(builder.with_intra_threads(1)?))
            .and_then(|mut builder| builder.commit_from_memory(model))
            .map_err(refuse)?;
        let describe = |found: &[::ort::value::Outlet]| found.iter().map(outlet).collect::<Result<Vec<_>, _>>();
        let (inputs, outputs) = (describe(session.inputs())?, describe(session.outputs())?);
        let fixed: Option<Vec<Probed>> = outputs.iter().map(inferred).collect();
        if let Some(fixed) = &fixed {
            let is_large = |output: &&Probed| bytes(output.dtype, &output.shape) > MOST_BYTES;
            // nothing is computed: a value of a U-Net may be large
            if !inputs.is_empty() || fixed.iter().any(|output| is_large(&output)) {
                return Ok(fixed.clone());
            }
        }
        let run = |fill: Fill, session: &mut ::ort::session::Session| results(session, &inputs, &outputs, fill);
        let found = run(Fill::Zeros, &mut session)?;
        if !inputs.is_empty() {
            // made-up values may be refused, e.g. as indices; all of them only where they decide about the shape
            let again: Vec<Vec<HostTensor>> = [Fill::Ones, Fill::Mixed]
                .into_iter()
                .filter_map(|fill| run(fill, &mut session).ok())
                .collect();
            let shapes =
                |values: &[HostTensor]| -> Vec<Shape> { values.iter().map(|value| value.shape().clone()).collect() };
            if again.is_empty() || again.iter().any(|other| shapes(other) != shapes(&found)) {
                return Err(RuntimeError::Probe(
                    "its shape depends on the values that it reads".into(),
                ));
            }
        }
        let is_constant = inputs.is_empty();
        let probed = found.into_iter().map(|value| Probed {
            dtype: value.dtype(),
            shape: value.shape().clone(),
            value: Some(value).filter(|value| is_constant && value.data().len() <= LARGEST_VALUE),
        });
        Ok(probed.collect())
    }
}

/// The type of an output whose dimensions ONNX Runtime knows without computing it.
fn inferred(output: &Outlet) -> Option<Probed> {
    let dims: Option<Vec<usize>> = output.dims.iter().copied().collect();
    Some(Probed {
        dtype: output.dtype,
        shape: dims?.into(),
        value: None,
    })
}

fn results(
    session: &mut ::ort::session::Session,
    inputs: &[Outlet],
    outputs: &[Outlet],
    fill: Fill,
) -> Result<Vec<HostTensor>, RuntimeError> {
    let refuse = |error: ::ort::Error| RuntimeError::Probe(reason(&error));
    let mut total = 0usize;
    let mut tensors = Vec::new();
    for input in inputs {
        let dims: Option<Vec<usize>> = input.dims.iter().copied().collect();
        let shape: Shape = dims
            .ok_or_else(|| RuntimeError::Probe(format!("input `{}` has no fixed shape", input.name)))?
            .into();
        total = total.saturating_add(bytes(input.dtype, &shape));
        if total > MOST_BYTES {
            return Err(RuntimeError::Probe(format!(
                "ONNX Runtime does not infer it, and its operands are too large to try: more than {} MiB",
                MOST_BYTES >> 20
            )));
        }
        tensors.push(filled(input.dtype, &shape, fill));
    }
    let mut values = Vec::new();
    for (input, tensor) in inputs.iter().zip(&tensors) {
        values.push((input.name.as_str(), to_value(tensor).map_err(refuse)?));
    }
    let options = RunOptions::new().map_err(refuse)?;
    thread::scope(|scope| {
        let (done, waiting) = mpsc::channel::<()>();
        let options = &options;
        scope.spawn(move || {
            if waiting.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout) {
                // the run ends with an error, which is reported
                let _ = options.terminate();
            }
        });
        let found = session.run_with_options(values, options).map_err(refuse)?;
        drop(done);
        let values = outputs.iter().map(|output| {
            let value = found
                .get(&output.name)
                .ok_or_else(|| RuntimeError::Probe(format!("it has no output `{}`", output.name)))?;
            from_value(value).map_err(refuse)
        });
        values.collect()
    })
}

fn filled(dtype: DType, shape: &Shape, fill: Fill) -> HostTensor {
    let elements = shape.elements();
    let value = |index: usize| match fill {
        Fill::Zeros => 0.0,
        Fill::Ones => 1.0,
        Fill::Mixed => (index % 2) as f64,
    };
    match fill {
        Fill::Mixed => {
            let values: Vec<f32> = (0..elements).map(|index| value(index) as f32).collect();
            HostTensor::from_f32(shape.clone(), values).cast(dtype)
        }
        _ => fisec_tensor::Constant::filled(dtype, shape.clone(), value(0)).materialize(),
    }
}

fn bytes(dtype: DType, shape: &Shape) -> usize {
    let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    elements.unwrap_or(usize::MAX).saturating_mul(dtype.size())
}

/// The first line of what ONNX Runtime says, without its brackets.
fn reason(error: &::ort::Error) -> String {
    let text = error.to_string();
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no reason given");
    let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
    let line = line.trim_start_matches("Fatal error: ");
    format!("ONNX Runtime refuses it: {}", line.trim().trim_end_matches('.'))
}
