//! Inputs and outputs as far as their roles can be told from them.

use fisec_ir::{Graph, ValueId};
use fisec_onnx::{Declared, DeclaredSize};
use fisec_tensor::DType;

/// An input or output.
#[derive(Clone, Debug)]
pub struct Port {
    /// its ONNX name
    pub name: String,
    /// its element type, when it is one that the compiler knows
    pub dtype: Option<DType>,
    /// its dimensions where its rank is known; symbols by name
    pub dims: Option<Vec<Size>>,
    /// whether anything reads an input
    pub is_used: bool,
}

/// A dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// a number
    Number(usize),
    /// a symbol
    Symbol(String),
}

impl Port {
    /// Number of dimensions.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// A known dimension.
    pub fn dim(&self, axis: usize) -> Option<usize> {
        match self.dims.as_ref()?.get(axis)? {
            Size::Number(size) => Some(*size),
            Size::Symbol(_) => None,
        }
    }

    /// Whether its elements are floats.
    pub fn is_float(&self) -> bool {
        self.dtype.is_some_and(DType::is_float)
    }

    /// Name, element type and shape, for messages.
    pub fn describe(&self) -> String {
        let dtype = self.dtype.map_or("?".to_owned(), |dtype| dtype.to_string());
        let size = |size: &Size| match size {
            Size::Number(size) => size.to_string(),
            Size::Symbol(symbol) if symbol.is_empty() => "?".to_owned(),
            Size::Symbol(symbol) => symbol.clone(),
        };
        let dims = match &self.dims {
            Some(dims) => dims.iter().map(size).collect::<Vec<_>>().join(","),
            None => "?".to_owned(),
        };
        format!("`{}` {dtype}[{dims}]", self.name)
    }
}

impl From<&Declared> for Port {
    fn from(declared: &Declared) -> Self {
        let size = |size: &DeclaredSize| match size {
            DeclaredSize::Fixed(size) => Size::Number(*size),
            DeclaredSize::Symbol(symbol) => Size::Symbol(symbol.clone()),
        };
        Port {
            name: declared.name.clone(),
            dtype: declared.dtype,
            dims: declared.dims.as_ref().map(|dims| dims.iter().map(size).collect()),
            is_used: declared.is_used,
        }
    }
}

/// The inputs of a graph.
pub fn inputs_of(graph: &Graph) -> Vec<Port> {
    let inputs = graph.inputs().into_iter();
    inputs
        .map(|(id, name)| {
            let value = ValueId { node: id, output: 0 };
            port(name, graph.value_type(value), !graph.users(value).is_empty())
        })
        .collect()
}

/// The outputs of a graph, in its order.
pub fn outputs_of(graph: &Graph) -> Vec<Port> {
    let outputs = graph.outputs().into_iter();
    outputs
        .filter_map(|(id, name)| Some(port(name, &graph.operand_type(graph.operands(id)[0])?, true)))
        .collect()
}

fn port(name: &str, value: &fisec_ir::ValueType, is_used: bool) -> Port {
    Port {
        name: name.to_owned(),
        dtype: Some(value.dtype),
        dims: Some(value.shape.iter().map(|&size| Size::Number(size)).collect()),
        is_used,
    }
}

/// Ports that a message lists at most.
const LISTED: usize = 16;

/// All ports, for messages.
pub fn list<'a>(ports: impl IntoIterator<Item = &'a Port>) -> String {
    let mut ports = ports.into_iter();
    let described: Vec<String> = ports.by_ref().take(LISTED).map(Port::describe).collect();
    match ports.count() {
        0 => described.join(", "),
        more => format!("{} and {more} more", described.join(", ")),
    }
}
