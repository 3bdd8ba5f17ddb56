//! Nodes: attributes, names.

use std::collections::BTreeMap;

use fisec_ir::Attribute;
use fisec_tensor::{Constant, DType, HostTensor};

use crate::ImportError;
use crate::files::ModelFiles;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, NodeProto};
use crate::tensor::constant;

/// A readable name: the node's own, or the module path that dynamo leaves in the metadata with the operator behind it.
pub(crate) fn name(node: &NodeProto, index: usize) -> String {
    let op_type = node.op_type.as_deref().unwrap_or("node");
    let scopes = node
        .metadata_props
        .iter()
        .find(|entry| entry.key.as_deref() == Some("pkg.torch.onnx.name_scopes"))
        .and_then(|entry| entry.value.as_deref());
    if let Some(path) = scopes.and_then(module_path) {
        return format!("{path}/{op_type}");
    }
    match node.name.as_deref() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => match node.output.first() {
            Some(output) if !output.is_empty() => output.clone(),
            _ => format!("{op_type}_{index}"),
        },
    }
}

/// `['', 'mid', 'mid.attn.0', 'linear_3']` gives `/mid/attn.0`: the last entry names the traced operator.
fn module_path(scopes: &str) -> Option<String> {
    let entries: Vec<&str> = scopes
        .trim()
        .strip_prefix('[')?
        .strip_suffix(']')?
        .split(',')
        .map(|entry| entry.trim().trim_matches(['\'', '"']))
        .collect();
    let (_, modules) = entries.split_last()?;
    let mut path = String::new();
    let mut parent = "";
    for module in modules.iter().filter(|module| !module.is_empty()) {
        let own = module.strip_prefix(parent).unwrap_or(module);
        path.push('/');
        path.push_str(own.trim_start_matches('.'));
        parent = module;
    }
    (!path.is_empty()).then_some(path)
}

/// The names that a node reads, those that its branches and bodies read among them.
pub(crate) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names = Vec::new();
    let mut pending = vec![node];
    while let Some(node) = pending.pop() {
        names.extend(node.input.iter().map(String::as_str));
        let attributes = node.attribute.iter();
        for graph in attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
            pending.extend(&graph.node);
            names.extend(graph.output.iter().filter_map(|output| output.name.as_deref()));
        }
    }
    names
}

/// All attributes of a node. `place` names it in errors.
pub(crate) fn attributes(
    files: &mut ModelFiles,
    place: &str,
    node: &NodeProto,
) -> Result<BTreeMap<String, Attribute>, ImportError> {
    node.attribute
        .iter()
        .map(|attribute| {
            let name = attribute.name.clone().unwrap_or_default();
            let value = value(files, &format!("{place}, attribute {name}"), attribute)?;
            Ok((name, value))
        })
        .collect()
}

fn value(files: &mut ModelFiles, place: &str, attribute: &AttributeProto) -> Result<Attribute, ImportError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kind = attribute.r#type.and_then(|kind| AttributeType::try_from(kind).ok());
    Ok(match kind.unwrap_or_else(|| implied(attribute)) {
        AttributeType::Float => Attribute::Float(attribute.f.unwrap_or(0.0)),
        AttributeType::Int => Attribute::Int(attribute.i.unwrap_or(0)),
        AttributeType::String => Attribute::String(text(attribute.s.as_deref().unwrap_or_default())),
        AttributeType::Ints => Attribute::Ints(attribute.ints.clone()),
        AttributeType::Floats => Attribute::Floats(attribute.floats.clone()),
        AttributeType::Strings => Attribute::Strings(attribute.strings.iter().map(|s| text(s)).collect()),
        AttributeType::Tensor => {
            let tensor = attribute.t.clone().unwrap_or_default();
            Attribute::Tensor(constant(files, place, &tensor)?.materialize())
        }
        AttributeType::Graph | AttributeType::Graphs => {
            return Err(
                ImportError::new(files.model(), place, "control flow (If, Loop, Scan) is not supported").hint(
                    "export in evaluation mode with fixed control flow, or simplify the model, e.g. with onnxsim",
                ),
            );
        }
        other => {
            let message = format!(
                "attributes of type {} are not supported",
                other.as_str_name().to_lowercase()
            );
            return Err(ImportError::new(files.model(), place, message));
        }
    })
}

/// The type of an attribute of the first IR version, which did not write it down.
fn implied(attribute: &AttributeProto) -> AttributeType {
    if attribute.f.is_some() {
        AttributeType::Float
    } else if attribute.i.is_some() {
        AttributeType::Int
    } else if attribute.s.is_some() {
        AttributeType::String
    } else if attribute.t.is_some() {
        AttributeType::Tensor
    } else if attribute.g.is_some() || !attribute.graphs.is_empty() {
        AttributeType::Graph
    } else if !attribute.floats.is_empty() {
        AttributeType::Floats
    } else if !attribute.strings.is_empty() {
        AttributeType::Strings
    } else {
        AttributeType::Ints
    }
}

/// The value of a `Constant` node, however it is written. Tensors stay mapped.
pub(crate) fn constant_value(files: &mut ModelFiles, place: &str, node: &NodeProto) -> Result<Constant, ImportError> {
    let Some(attribute) = node.attribute.first() else {
        return Err(ImportError::new(files.model(), place, "a constant without a value"));
    };
    if let Some(tensor) = &attribute.t {
        return constant(files, place, tensor);
    }
    let floats = |shape: Vec<usize>, values: &[f32]| HostTensor::from_f32(shape, values.to_vec());
    let tensor = match (attribute.name.as_deref(), value(files, place, attribute)?) {
        (Some("value_int"), Attribute::Int(value)) => HostTensor::from_i64(vec![], vec![value]),
        (Some("value_ints"), Attribute::Ints(values)) => HostTensor::from_i64(vec![values.len()], values),
        (Some("value_float"), Attribute::Float(value)) => floats(vec![], &[value]),
        (Some("value_floats"), Attribute::Floats(values)) => floats(vec![values.len()], &values),
        (name, _) => {
            let message = format!("a constant given as `{}` is not supported", name.unwrap_or_default());
            return Err(ImportError::new(files.model(), place, message));
        }
    };
    debug_assert!(matches!(tensor.dtype(), DType::I64 | DType::F32));
    Ok(tensor.into())
}
