//! Model-local functions: each call is replaced by the function's nodes.

use std::collections::{BTreeMap, HashMap};

use crate::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

/// More nodes than this are no model: functions that call functions may double at every level.
const MOST_NODES: usize = 1 << 20;
/// Functions that call functions beyond this depth are taken for recursive.
const DEEPEST: usize = 64;

/// Replaces the calls of functions in the model's graph. The error names the function and says what is wrong.
pub(crate) fn inline(model: &mut ModelProto) -> Result<(), (String, String)> {
    let functions = std::mem::take(&mut model.functions);
    if functions.is_empty() {
        return Ok(());
    }
    let Some(graph) = &mut model.graph else { return Ok(()) };
    let domain = |set: &OperatorSetIdProto| match set.domain.as_deref() {
        None | Some("ai.onnx") => String::new(),
        Some(domain) => domain.to_owned(),
    };
    let mut versions: BTreeMap<String, i64> = BTreeMap::new();
    for set in &model.opset_import {
        versions.insert(domain(set), set.version.unwrap_or(1));
    }
    for function in &functions {
        for set in &function.opset_import {
            let version = set.version.unwrap_or(1);
            if *versions.entry(domain(set)).or_insert(version) != version {
                let message = "the function is written in another operator set than the model".to_owned();
                return Err((title(function), message));
            }
        }
    }
    let known: Vec<String> = model.opset_import.iter().map(domain).collect();
    for (domain, version) in versions.into_iter().filter(|(domain, _)| !known.contains(domain)) {
        model.opset_import.push(OperatorSetIdProto {
            domain: Some(domain),
            version: Some(version),
        });
    }
    let by_name = functions.iter().map(|function| (key_of(function), function)).collect();
    let mut inliner = Inliner {
        functions: by_name,
        nodes: 0,
        calls: 0,
    };
    graph.node = inliner.expanded(std::mem::take(&mut graph.node), 0)?;
    Ok(())
}

fn title(function: &FunctionProto) -> String {
    format!("function {}", function.name.as_deref().unwrap_or("?"))
}

/// Domain, name and overload.
type Key = [String; 3];

fn key_of(function: &FunctionProto) -> Key {
    [&function.domain, &function.name, &function.overload].map(|part| part.clone().unwrap_or_default())
}

struct Inliner<'a> {
    functions: HashMap<Key, &'a FunctionProto>,
    nodes: usize,
    calls: usize,
}

impl Inliner<'_> {
    fn expanded(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>, (String, String)> {
        let mut result = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            let key = [&node.domain, &node.op_type, &node.overload].map(|part| part.clone().unwrap_or_default());
            let Some(function) = self.functions.get(&key).copied() else {
                for graph in node.attribute.iter_mut().flat_map(graphs_of) {
                    graph.node = self.expanded(std::mem::take(&mut graph.node), depth)?;
                }
                result.push(node);
                continue;
            };
            self.nodes += function.node.len();
            if depth >= DEEPEST || self.nodes > MOST_NODES {
                return Err((
                    title(function),
                    "the functions of the model call each other without end".into(),
                ));
            }
            self.calls += 1;
            let body = body(function, &node, self.calls);
            result.extend(self.expanded(body, depth + 1)?);
        }
        Ok(result)
    }
}

fn graphs_of(attribute: &mut AttributeProto) -> impl Iterator<Item = &mut GraphProto> {
    attribute.g.iter_mut().chain(&mut attribute.graphs)
}

/// The nodes of a call, their values named apart from those of other calls.
fn body(function: &FunctionProto, call: &NodeProto, number: usize) -> Vec<NodeProto> {
    let outside = |names: &[String], given: &[String]| -> Vec<(String, String)> {
        let given = given.iter().cloned().chain(std::iter::repeat(String::new()));
        names.iter().cloned().zip(given).collect()
    };
    let mut names: HashMap<String, String> = outside(&function.input, &call.input).into_iter().collect();
    for (inner, outer) in outside(&function.output, &call.output) {
        // an output that the call does not name is an inner value
        if !outer.is_empty() {
            names.insert(inner, outer);
        }
    }
    let scope = Scope {
        names,
        prefix: format!("{}@{number}/", call.name.as_deref().unwrap_or_default()),
        given: call
            .attribute
            .iter()
            .map(|each| (each.name.clone().unwrap_or_default(), each))
            .collect(),
        defaults: function
            .attribute_proto
            .iter()
            .map(|each| (each.name.clone().unwrap_or_default(), each))
            .collect(),
    };
    let mut nodes = function.node.clone();
    nodes.iter_mut().for_each(|node| scope.rewrite(node));
    // an output that is an input goes through unchanged
    for (inner, outer) in outside(&function.output, &call.output) {
        let passes = function.input.contains(&inner) && !outer.is_empty();
        if passes {
            let position = function.input.iter().position(|input| *input == inner).unwrap_or(0);
            nodes.push(NodeProto {
                op_type: Some("Identity".into()),
                input: call.input.get(position).cloned().into_iter().collect(),
                output: vec![outer],
                ..NodeProto::default()
            });
        }
    }
    nodes
}

struct Scope<'a> {
    names: HashMap<String, String>,
    prefix: String,
    given: HashMap<String, &'a AttributeProto>,
    defaults: HashMap<String, &'a AttributeProto>,
}

impl Scope<'_> {
    fn name(&self, name: &str) -> String {
        match self.names.get(name) {
            _ if name.is_empty() => String::new(),
            Some(outer) => outer.clone(),
            None => format!("{}{name}", self.prefix),
        }
    }

    fn rewrite(&self, node: &mut NodeProto) {
        for name in node.input.iter_mut().chain(&mut node.output) {
            *name = self.name(name);
        }
        let label = node.name.take().filter(|name| !name.is_empty());
        node.name = label.map(|label| format!("{}{label}", self.prefix));
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes
            .into_iter()
            .filter_map(|attribute| self.attribute(attribute))
            .collect();
    }

    /// The attribute with references to the call's filled in; `None` where the call does not give it.
    fn attribute(&self, mut attribute: AttributeProto) -> Option<AttributeProto> {
        let reference = attribute.ref_attr_name.take().filter(|name| !name.is_empty());
        if let Some(reference) = reference {
            let value = self.given.get(&reference).or_else(|| self.defaults.get(&reference))?;
            return Some(AttributeProto {
                name: attribute.name,
                ..(*value).clone()
            });
        }
        for graph in graphs_of(&mut attribute) {
            self.graph(graph);
        }
        Some(attribute)
    }

    fn graph(&self, graph: &mut GraphProto) {
        graph.node.iter_mut().for_each(|node| self.rewrite(node));
        for initializer in &mut graph.initializer {
            initializer.name = initializer.name.as_deref().map(|name| self.name(name));
        }
        for value in graph.input.iter_mut().chain(&mut graph.output) {
            value.name = value.name.as_deref().map(|name| self.name(name));
        }
        graph.value_info.clear();
    }
}
