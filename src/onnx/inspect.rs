//! A model's signature, with everything that its file refers to checked to be there: no graph is built, no size bound.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::files::ModelFiles;
use crate::model::{declared_inputs, declared_outputs};
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use crate::{Declared, ImportError, element, read, tensor};

/// What a model declares, and the files that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// inputs that are no initializers, in the model's order
    pub inputs: Vec<Declared>,
    /// outputs, in the model's order
    pub outputs: Vec<Declared>,
    /// files of external data, relative to the model's folder
    pub external: Vec<PathBuf>,
    /// rows of the table that an input's values are indices of: the vocabulary of a text encoder
    pub table_rows: Option<usize>,
}

/// Operators that pass indices on.
const PASSES_ON: [&str; 8] = [
    "Cast",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Clip",
    "Expand",
];

/// Reads the model at `path`. Weights stay memory-mapped.
///
/// # Errors
/// Fails when the file is truncated or damaged, when external data is missing or too short, and when a node reads a value
/// that nothing computes. Operators and types are not judged.
pub fn inspect(path: &Path) -> Result<Inspection, ImportError> {
    let (mut files, bytes) = ModelFiles::open(path)?;
    let model = read::model(path, bytes)?;
    if model.opset_import.is_empty() {
        return Err(ImportError::new(
            path,
            "",
            "the file names no operator set: it was cut short behind the graph",
        )
        .hint("export or copy the model again"));
    }
    let graph = model.graph.unwrap_or_default();
    check_tensors(&mut files, &graph)?;
    check_order(path, &graph)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut external: Vec<PathBuf> = files.paths();
    external.retain(|file| file != path);
    Ok(Inspection {
        inputs: declared_inputs(&graph),
        outputs: declared_outputs(&graph),
        external: external
            .iter()
            .map(|file| file.strip_prefix(folder).unwrap_or(file).to_owned())
            .collect(),
        table_rows: table_rows(&graph),
    })
}

/// Every tensor of a graph and of the graphs inside its nodes has as many bytes as its shape needs.
fn check_tensors(files: &mut ModelFiles, graph: &GraphProto) -> Result<(), ImportError> {
    for (index, initializer) in graph.initializer.iter().enumerate() {
        let place = match initializer.name() {
            "" => format!("initializer {index}"),
            name => format!("initializer {name}"),
        };
        check_tensor(files, &place, initializer)?;
    }
    for node in &graph.node {
        let place = format!("node {}", label(node));
        for attribute in &node.attribute {
            check_attribute(files, &place, attribute)?;
        }
    }
    Ok(())
}

fn check_attribute(files: &mut ModelFiles, place: &str, attribute: &AttributeProto) -> Result<(), ImportError> {
    for tensor in attribute.t.iter().chain(&attribute.tensors) {
        check_tensor(files, place, tensor)?;
    }
    for graph in attribute.g.iter().chain(&attribute.graphs) {
        check_tensors(files, graph)?;
    }
    Ok(())
}

fn check_tensor(files: &mut ModelFiles, place: &str, proto: &TensorProto) -> Result<(), ImportError> {
    if element::dtype(proto.data_type()).is_some() {
        return tensor::constant(files, place, proto).map(drop);
    }
    if proto.data_location == Some(DataLocation::External as i32) {
        let entry = |key: &str| {
            let entries = &mut proto.external_data.iter();
            entries
                .find(|entry| entry.key() == key)
                .map(|entry| entry.value().to_owned())
        };
        let number = |key: &str| entry(key).and_then(|text| text.trim().parse::<u64>().ok());
        let location = entry("location").unwrap_or_default();
        files.external(place, &location, number("offset").unwrap_or(0), number("length"))?;
    }
    Ok(())
}

/// Nodes stand behind what they read, and every output is computed.
fn check_order(path: &Path, graph: &GraphProto) -> Result<(), ImportError> {
    let sparse = graph
        .sparse_initializer
        .iter()
        .filter_map(|tensor| tensor.values.as_ref());
    let mut known: HashSet<&str> = graph.initializer.iter().chain(sparse).map(TensorProto::name).collect();
    known.extend(graph.input.iter().map(ValueInfoProto::name));
    let missing = |place: String, name: &str| {
        ImportError::new(path, place, format!("`{name}` is not computed before it is read"))
            .hint("the model is damaged: export or copy it again")
    };
    for node in &graph.node {
        if let Some(name) = node
            .input
            .iter()
            .find(|name| !name.is_empty() && !known.contains(name.as_str()))
        {
            return Err(missing(format!("node {}", label(node)), name));
        }
        known.extend(node.output.iter().map(String::as_str));
    }
    match graph.output.iter().find(|output| !known.contains(output.name())) {
        Some(output) => Err(missing("the outputs".into(), output.name())),
        None if graph.output.is_empty() => Err(ImportError::new(path, "", "the model has no output")),
        None => Ok(()),
    }
}

fn label(node: &NodeProto) -> &str {
    match node.name() {
        "" => node.output.first().map_or("?", String::as_str),
        name => name,
    }
}

/// Rows of the first table of rank 2 that is gathered from by what comes from an input.
fn table_rows(graph: &GraphProto) -> Option<usize> {
    let initializers = graph.initializer.iter();
    let mut tables: HashMap<&str, &[i64]> = initializers.map(|tensor| (tensor.name(), &tensor.dims[..])).collect();
    let inputs = graph.input.iter().map(ValueInfoProto::name);
    let mut indices: HashSet<&str> = inputs.filter(|name| !tables.contains_key(name)).collect();
    for node in &graph.node {
        let operand = |at: usize| node.input.get(at).map_or("", String::as_str);
        let outputs = node.output.iter().map(String::as_str);
        match node.op_type() {
            "Gather" if indices.contains(operand(1)) => {
                if let Some([rows, _]) = tables.get(operand(0)) {
                    return usize::try_from(*rows).ok();
                }
            }
            op if PASSES_ON.contains(&op) && indices.contains(operand(0)) => indices.extend(outputs),
            "DequantizeLinear" | "Cast" | "Identity" => {
                if let Some(&dims) = tables.get(operand(0)) {
                    tables.extend(outputs.map(|output| (output, dims)));
                }
            }
            _ => {}
        }
    }
    None
}
