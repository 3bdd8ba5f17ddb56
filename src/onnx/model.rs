//! A model file before its sizes are bound.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fisec_tensor::DType;

use crate::files::ModelFiles;
use crate::import::{Decide, bind_and_import};
use crate::proto::tensor_shape_proto::dimension::Value;
use crate::proto::{GraphProto, ModelProto, ValueInfoProto, type_proto};
use crate::solve::{declared_dims, real_inputs};
use crate::{Bindings, Import, ImportError, element, node, read};

/// A readable ONNX model, its weights memory-mapped.
#[derive(Debug)]
pub struct Model {
    files: ModelFiles,
    proto: ModelProto,
}

/// An input or output as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// its name
    pub name: String,
    /// its element type, when it is a tensor of a type that the compiler knows
    pub dtype: Option<DType>,
    /// its dimensions, when it is a tensor of known rank
    pub dims: Option<Vec<DeclaredSize>>,
    /// whether anything reads an input; always for an output
    pub is_used: bool,
}

/// A dimension as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclaredSize {
    /// a number
    Fixed(usize),
    /// a symbol, empty where it has no name
    Symbol(String),
}

impl Model {
    /// Opens the model at `path`.
    ///
    /// # Errors
    /// Fails when the file cannot be read or is no ONNX model.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let (files, bytes): (ModelFiles, Bytes) = ModelFiles::open(path)?;
        let proto = read::model(path, bytes)?;
        Ok(Model { files, proto })
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.files.model().to_owned()
    }

    /// The inputs, initializers not among them.
    pub fn inputs(&self) -> Vec<Declared> {
        self.proto.graph.as_ref().map(declared_inputs).unwrap_or_default()
    }

    /// The outputs.
    pub fn outputs(&self) -> Vec<Declared> {
        self.proto.graph.as_ref().map(declared_outputs).unwrap_or_default()
    }

    /// The model as a graph, with the sizes that `bindings` gives its symbolic inputs and those that follow. `decide` says
    /// which branch an `If` takes.
    ///
    /// # Errors
    /// As [`import`](crate::import).
    pub fn import(self, bindings: &Bindings, decide: &mut Decide<'_>) -> Result<Import, ImportError> {
        bind_and_import(self.files, self.proto, bindings, decide)
    }
}

impl Declared {
    /// The dimensions that are numbers; `None` for symbols, and for an unknown rank.
    pub fn fixed_dims(&self) -> Option<Vec<Option<usize>>> {
        let fixed = |size: &DeclaredSize| match size {
            DeclaredSize::Fixed(size) => Some(*size).filter(|&size| size > 0),
            DeclaredSize::Symbol(_) => None,
        };
        self.dims.as_ref().map(|dims| dims.iter().map(fixed).collect())
    }
}

/// The inputs of a graph, initializers not among them.
pub(crate) fn declared_inputs(graph: &GraphProto) -> Vec<Declared> {
    let mut used: HashSet<&str> = HashSet::new();
    graph.node.iter().for_each(|node| used.extend(node::reads(node)));
    used.extend(graph.output.iter().filter_map(|output| output.name.as_deref()));
    let inputs = real_inputs(graph).into_iter();
    inputs
        .map(|input| declared(input, used.contains(input.name.as_deref().unwrap_or_default())))
        .collect()
}

/// The outputs of a graph.
pub(crate) fn declared_outputs(graph: &GraphProto) -> Vec<Declared> {
    graph.output.iter().map(|output| declared(output, true)).collect()
}

fn declared(value: &ValueInfoProto, is_used: bool) -> Declared {
    let tensor = match value.r#type.as_ref().and_then(|declared| declared.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    };
    let size = |value: &Option<Value>| match value {
        Some(Value::DimValue(size)) => DeclaredSize::Fixed(usize::try_from(*size).unwrap_or(0)),
        Some(Value::DimParam(symbol)) => DeclaredSize::Symbol(symbol.clone()),
        None => DeclaredSize::Symbol(String::new()),
    };
    Declared {
        name: value.name.clone().unwrap_or_default(),
        dtype: tensor.and_then(|tensor| element::dtype(tensor.elem_type.unwrap_or(0))),
        dims: declared_dims(value).map(|dims| dims.iter().map(|dim| size(&dim.value)).collect()),
        is_used,
    }
}
