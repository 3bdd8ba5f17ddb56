//! A model opened in ONNX Runtime.

use std::path::Path;

use ::ort::environment::Environment;
use ::ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ::ort::session::{OutputSelector, RunOptions, SessionInputValue, SessionOutputs};
use ::ort::value::ValueType;
use fisec_tensor::{DType, HostTensor};

use super::Provider;
use super::provider::Stream;
use super::tensor::{aligned_copy, element_type, from_value, to_value};
use crate::RuntimeError;

/// A model ready to run.
#[derive(Debug)]
pub struct Session {
    session: ::ort::session::Session,
    model: String,
    inputs: Vec<Outlet>,
    outputs: Vec<Outlet>,
    provider: Provider,
    fallback: Option<String>,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// name in the model
    pub name: String,
    /// element type
    pub dtype: DType,
    /// dimensions; `None` where the model leaves them open
    pub dims: Vec<Option<usize>>,
}

impl Session {
    pub(super) fn open(
        environment: &Environment,
        model: &Path,
        threads: usize,
        wanted: Provider,
        stream: Option<Stream>,
    ) -> Result<Self, RuntimeError> {
        let name = model.display().to_string();
        let fail = |error: ::ort::Error| RuntimeError::OnnxRuntime {
            action: format!("cannot open `{name}`"),
            reason: error.to_string(),
        };
        fisec_files::open(model).map_err(|error| RuntimeError::OnnxRuntime {
            action: format!("cannot open `{name}`"),
            reason: error.to_string(),
        })?;
        let (provider, builder, fallback) = first_usable(environment, threads, wanted, stream).map_err(fail)?;
        let session = { builder }.commit_from_file(model).map_err(fail)?;
        let inputs = session.inputs().iter().map(outlet).collect::<Result<_, _>>()?;
        let outputs = session.outputs().iter().map(outlet).collect::<Result<_, _>>()?;
        Ok(Session {
            session,
            model: name,
            inputs,
            outputs,
            provider,
            fallback,
        })
    }

    /// Path of the model.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn inner_mut(&mut self) -> &mut ::ort::session::Session {
        &mut self.session
    }

    /// What the model is computed with.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Why that is not the provider that was asked for.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Inputs in the model's order.
    pub fn inputs(&self) -> &[Outlet] {
        &self.inputs
    }

    /// Outputs in the model's order.
    pub fn outputs(&self) -> &[Outlet] {
        &self.outputs
    }

    /// Runs the model on named inputs and returns the named outputs, in the order asked for.
    pub fn run(&mut self, inputs: &[(&str, &HostTensor)], outputs: &[&str]) -> Result<Vec<HostTensor>, RuntimeError> {
        let model = &self.model;
        let fail = |error: ::ort::Error| RuntimeError::OnnxRuntime {
            action: format!("cannot run `{model}`"),
            reason: error.to_string(),
        };
        let aligned: Vec<HostTensor> = inputs.iter().map(|(_, tensor)| aligned(tensor)).collect();
        let values = inputs
            .iter()
            .zip(&aligned)
            .map(|((name, _), tensor)| Ok((*name, to_value(tensor)?)))
            .collect::<::ort::Result<Vec<(&str, SessionInputValue<'_>)>>>()
            .map_err(fail)?;
        let selector = outputs
            .iter()
            .fold(OutputSelector::no_default(), |selector, name| selector.with(*name));
        let options = RunOptions::new().map_err(fail)?.with_outputs(selector);
        let results: SessionOutputs<'_> = self.session.run_with_options(values, &options).map_err(fail)?;
        outputs
            .iter()
            .map(|name| {
                let value = results.get(name).ok_or_else(|| RuntimeError::OnnxRuntime {
                    action: format!("cannot run `{model}`"),
                    reason: format!("it has no output `{name}`"),
                })?;
                from_value(value).map_err(fail)
            })
            .collect()
    }
}

/// A session's options with the first provider that can be registered, and why those before it cannot.
fn first_usable(
    environment: &Environment,
    threads: usize,
    wanted: Provider,
    stream: Option<Stream>,
) -> ::ort::Result<(Provider, SessionBuilder, Option<String>)> {
    let mut refusals = Vec::new();
    for &provider in wanted.fallbacks() {
        let registered = match provider.is_offered() {
            true => configure(environment, threads)?
                .with_execution_providers(provider.dispatches(stream))
                .map_err(|error| error.to_string()),
            false => Err("this build of fisec or of ONNX Runtime does not have it".to_owned()),
        };
        match registered {
            Ok(builder) => return Ok((provider, builder, (!refusals.is_empty()).then(|| refusals.join("; ")))),
            Err(reason) => refusals.push(format!("{provider}: {reason}")),
        }
    }
    Err(::ort::Error::new(refusals.join("; ")))
}

/// Threads that wait for work sleep: between two islands the cores belong to fisec's own kernels.
fn configure(environment: &Environment, threads: usize) -> ::ort::Result<SessionBuilder> {
    Ok(::ort::session::Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        // Stored int8 weights are constants to fold: left in place, they make products in int8 arithmetic.
        .with_quant_qdq(false)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_intra_threads(threads)?)
}

/// The tensor with its bytes aligned to its elements, as ONNX Runtime needs them.
fn aligned(tensor: &HostTensor) -> HostTensor {
    if tensor.data().as_ptr().addr().is_multiple_of(tensor.dtype().size()) {
        return tensor.clone();
    }
    HostTensor::new(tensor.dtype(), tensor.shape().clone(), aligned_copy(tensor.data())).expect("the same bytes")
}

pub(super) fn outlet(outlet: &::ort::value::Outlet) -> Result<Outlet, RuntimeError> {
    let refuse = |reason: &str| RuntimeError::OnnxRuntime {
        action: format!("cannot use `{}`", outlet.name()),
        reason: reason.to_string(),
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(refuse("it is no tensor"));
    };
    Ok(Outlet {
        name: outlet.name().to_string(),
        dtype: element_type(*ty).ok_or_else(|| refuse("its element type is not supported"))?,
        dims: shape.iter().map(|&dim| usize::try_from(dim).ok()).collect(),
    })
}
