//! A model as a graph: one [`Op::Onnx`] per node, initializers and constants as weights, input sizes bound.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use fisec_ir::{Graph, OnnxOp, Op, Operand, Origin, ValueId, ValueType, WeightInfo};
use fisec_tensor::DType;

use crate::files::ModelFiles;
use crate::proto::tensor_shape_proto::Dimension;
use crate::proto::tensor_shape_proto::dimension::Value as Size;
use crate::proto::{GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, type_proto};
use crate::{Bindings, ImportError, element, node, read, tensor};

/// An imported model.
#[derive(Debug)]
pub struct Import {
    /// the model as `Op::Onnx` nodes; types of computed values are [`unknown_type`] until shapes are inferred
    pub graph: Graph,
    /// program and version that wrote the model
    pub producer: String,
    /// operator set versions by domain; the standard domain is empty
    pub opsets: BTreeMap<String, i64>,
    /// the model and every file of external data
    pub model_files: Vec<PathBuf>,
}

/// The type of a value whose shape is not yet inferred. No real value has it: nothing is a tensor of no Booleans.
pub fn unknown_type() -> ValueType {
    ValueType::full(DType::Bool, [0])
}

/// Reads the model at `path` with the sizes that `bindings` gives its symbolic inputs.
///
/// Weights stay memory-mapped. Fails on damaged files, on control flow and model-local functions, and on symbolic
/// inputs without a size; operators are not judged.
pub fn import(path: &Path, bindings: &Bindings) -> Result<Import, ImportError> {
    let (files, bytes) = ModelFiles::open(path)?;
    let model = read::model(path, bytes)?;
    if let Some(function) = model.functions.first() {
        let place = format!("function {}", function.name.as_deref().unwrap_or("?"));
        return Err(ImportError::new(path, place, "model-local functions are not supported")
            .hint("inline them when exporting, e.g. with onnx.inliner.inline_local_functions"));
    }
    let opsets = opsets(&model);
    let producer = [&model.producer_name, &model.producer_version]
        .map(|part| part.as_deref().unwrap_or_default())
        .join(" ");
    let proto = model.graph.unwrap_or_default();
    let mut importer = Importer {
        files,
        graph: Graph::new("record"),
        values: HashMap::new(),
        sizes: HashMap::new(),
        declared: HashMap::new(),
        packed: HashSet::new(),
        opsets,
    };
    importer.initializers(&proto)?;
    importer.inputs(&proto.input, bindings)?;
    importer.declarations(&proto);
    importer.nodes(&proto.node)?;
    importer.outputs(&proto.output)?;
    Ok(Import {
        graph: importer.graph,
        producer: producer.trim().to_owned(),
        opsets: importer.opsets,
        model_files: importer.files.paths(),
    })
}

fn opsets(model: &ModelProto) -> BTreeMap<String, i64> {
    let domain = |name: &str| {
        if name == "ai.onnx" {
            String::new()
        } else {
            name.to_owned()
        }
    };
    model
        .opset_import
        .iter()
        .map(|set| {
            (
                domain(set.domain.as_deref().unwrap_or_default()),
                set.version.unwrap_or(1),
            )
        })
        .collect()
}

struct Importer {
    files: ModelFiles,
    graph: Graph,
    values: HashMap<String, Operand>,
    /// sizes that symbols of the inputs are bound to
    sizes: HashMap<String, usize>,
    /// types that the file declares for computed values, where all sizes are known
    declared: HashMap<String, ValueType>,
    /// initializers of 4-bit integers
    packed: HashSet<String>,
    opsets: BTreeMap<String, i64>,
}

impl Importer {
    fn fail(&self, place: impl Into<String>, message: impl Into<String>) -> ImportError {
        ImportError::new(self.files.model(), place, message)
    }

    fn define(&mut self, name: &str, operand: Operand, place: &str) -> Result<(), ImportError> {
        if self.values.insert(name.to_owned(), operand).is_some() {
            return Err(self.fail(place, format!("`{name}` is defined twice")));
        }
        Ok(())
    }

    fn initializers(&mut self, proto: &GraphProto) -> Result<(), ImportError> {
        if !proto.sparse_initializer.is_empty() {
            return Err(self.fail("", "sparse initializers are not supported"));
        }
        for (index, initializer) in proto.initializer.iter().enumerate() {
            let name = initializer.name.clone().unwrap_or_default();
            let place = if name.is_empty() {
                format!("initializer {index}")
            } else {
                format!("initializer {name}")
            };
            let data = tensor::constant(&mut self.files, &place, initializer)?;
            if element::packed_integer(initializer.data_type.unwrap_or(0)).is_some() {
                self.packed.insert(name.clone());
            }
            let weight = self.graph.add_weight(WeightInfo {
                name: name.clone(),
                data,
            });
            self.define(&name, weight.into(), &place)?;
        }
        Ok(())
    }

    /// Four-bit integers are held as 8-bit ones, which only an operator that reads their values takes for the same.
    fn check_packed(&self, proto: &NodeProto, place: &str) -> Result<(), ImportError> {
        let reads_values = proto.op_type.as_deref() == Some("DequantizeLinear");
        match proto.input.iter().find(|input| self.packed.contains(*input)) {
            Some(input) if !reads_values => Err(self.fail(
                place,
                format!("`{input}` holds 4-bit integers, which only DequantizeLinear may read"),
            )),
            _ => Ok(()),
        }
    }

    fn inputs(&mut self, inputs: &[ValueInfoProto], bindings: &Bindings) -> Result<(), ImportError> {
        for input in inputs {
            let name = input.name.clone().unwrap_or_default();
            if self.values.contains_key(&name) {
                continue; // up to IR version 3 initializers are listed as inputs too
            }
            let value_type = self.input_type(&name, input, bindings)?;
            let value = self
                .graph
                .add_value(Op::Input(name.clone()), vec![], value_type, Origin::imported(&name));
            self.define(&name, value.into(), &format!("input {name}"))?;
        }
        Ok(())
    }

    fn input_type(
        &mut self,
        name: &str,
        input: &ValueInfoProto,
        bindings: &Bindings,
    ) -> Result<ValueType, ImportError> {
        let place = format!("input {name}");
        let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            return Err(self.fail(place, "an input that is no tensor"));
        };
        let number = tensor.elem_type.unwrap_or(0);
        let Some(dtype) = element::dtype(number) else {
            return Err(self.fail(place, format!("inputs of element type {number} are not supported")));
        };
        let Some(shape) = &tensor.shape else {
            return Err(self
                .fail(place, "an input of unknown rank")
                .hint("export with declared input shapes"));
        };
        Ok(ValueType::full(dtype, self.input_shape(name, shape, bindings)?))
    }

    /// Keeps the declared types of computed values, for operators whose shape cannot be inferred.
    fn declarations(&mut self, proto: &GraphProto) {
        for value in proto.value_info.iter().chain(&proto.output) {
            let declared = value.r#type.as_ref().and_then(|declared| declared.value.as_ref());
            let Some(type_proto::Value::TensorType(tensor)) = declared else {
                continue;
            };
            let size = |dim: &Dimension| match &dim.value {
                Some(Size::DimValue(size)) => usize::try_from(*size).ok(),
                Some(Size::DimParam(symbol)) => self.sizes.get(symbol).copied(),
                None => None,
            };
            let dims = tensor
                .shape
                .as_ref()
                .and_then(|shape| shape.dim.iter().map(size).collect::<Option<Vec<_>>>());
            if let (Some(dims), Some(dtype)) = (dims, element::dtype(tensor.elem_type.unwrap_or(0))) {
                let name = value.name.clone().unwrap_or_default();
                self.declared.insert(name, ValueType::full(dtype, dims));
            }
        }
    }

    fn input_shape(
        &mut self,
        name: &str,
        shape: &TensorShapeProto,
        bindings: &Bindings,
    ) -> Result<Vec<usize>, ImportError> {
        let rank = shape.dim.len();
        let place = format!("input {name}");
        let mut dims = Vec::with_capacity(rank);
        for (axis, dim) in shape.dim.iter().enumerate() {
            let asked = bindings.size(name, rank, axis);
            let size = match &dim.value {
                Some(Size::DimValue(fixed)) => {
                    let fixed = usize::try_from(*fixed)
                        .map_err(|_| self.fail(&place, format!("dimension {axis} has the impossible size {fixed}")))?;
                    // One timestep serves a whole batch.
                    let shared = rank == 1 && fixed == 1;
                    if !shared && asked.is_some_and(|asked| asked != fixed) {
                        let asked = asked.unwrap_or_default();
                        let message = format!("dimension {axis} is fixed at {fixed}, {asked} is asked for");
                        return Err(self
                            .fail(&place, message)
                            .hint("compile for the size the model was exported at, or export it with dynamic axes"));
                    }
                    fixed
                }
                symbolic => {
                    let symbol = match symbolic {
                        Some(Size::DimParam(symbol)) => symbol.as_str(),
                        _ => "",
                    };
                    let bound = bindings.symbol_size(symbol).or(asked);
                    let bound = bound.ok_or_else(|| self.unbound(&place, axis, symbol))?;
                    self.sizes.insert(symbol.to_owned(), bound);
                    bound
                }
            };
            dims.push(size);
        }
        let elements = dims.iter().try_fold(8usize, |product, &dim| product.checked_mul(dim));
        if elements.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(self.fail(place, format!("the shape {dims:?} is too large")));
        }
        Ok(dims)
    }

    fn unbound(&self, place: &str, axis: usize, symbol: &str) -> ImportError {
        self.fail(place, format!("dimension {axis} has the symbolic size `{symbol}`"))
            .hint("give the size to compile for, e.g. `--size 768`")
    }

    fn nodes(&mut self, nodes: &[NodeProto]) -> Result<(), ImportError> {
        for index in self.execution_order(nodes)? {
            self.node(&nodes[index], index)?;
        }
        Ok(())
    }

    /// Indices of the nodes so that producers come first; ONNX asks for that order, not every tool keeps it.
    fn execution_order(&self, nodes: &[NodeProto]) -> Result<Vec<usize>, ImportError> {
        let mut producers: HashMap<&str, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            producers.extend(node.output.iter().map(|output| (output.as_str(), index)));
        }
        producers.remove("");
        let depends = |index: usize| -> Vec<usize> {
            let produced = nodes[index]
                .input
                .iter()
                .filter_map(|input| producers.get(input.as_str()));
            produced.copied().collect()
        };
        let mut users = vec![Vec::new(); nodes.len()];
        let mut missing: Vec<usize> = vec![0; nodes.len()];
        for (index, missing) in missing.iter_mut().enumerate() {
            for producer in depends(index) {
                users[producer].push(index);
                *missing += 1;
            }
        }
        let mut ready: std::collections::BTreeSet<usize> =
            (0..nodes.len()).filter(|&index| missing[index] == 0).collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(index) = ready.pop_first() {
            order.push(index);
            for &user in &users[index] {
                missing[user] -= 1;
                if missing[user] == 0 {
                    ready.insert(user);
                }
            }
        }
        match (0..nodes.len()).find(|&index| missing[index] > 0) {
            Some(index) => Err(self.fail(
                format!("node {}", node::name(&nodes[index], index)),
                "the graph has a cycle",
            )),
            None => Ok(order),
        }
    }

    fn node(&mut self, proto: &NodeProto, index: usize) -> Result<(), ImportError> {
        let name = node::name(proto, index);
        let place = format!("node {name}");
        let domain = match proto.domain.as_deref() {
            None | Some("ai.onnx") => "",
            Some(domain) => domain,
        };
        let op_type = proto.op_type.clone().unwrap_or_default();
        self.check_packed(proto, &place)?;
        let operands = self.operands(proto, &place)?;
        let standard = domain.is_empty();
        if standard && op_type == "Constant" {
            return self.constant(proto, &place);
        }
        if let ("Identity", true, [operand]) = (op_type.as_str(), standard, &operands[..]) {
            let output = proto.output.first().cloned().unwrap_or_default();
            return self.define(&output, *operand, &place);
        }
        let op = Op::Onnx(OnnxOp {
            attributes: node::attributes(&mut self.files, &place, proto)?,
            opset: self.opsets.get(domain).copied().unwrap_or(1),
            domain: domain.to_owned(),
            op_type,
        });
        let known = |output: &String| self.declared.get(output).cloned().unwrap_or_else(unknown_type);
        let outputs = proto.output.iter().map(known).collect();
        let id = self.graph.add(op, operands, outputs, Origin::imported(&name));
        for (output, value) in proto.output.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            let defined = ValueId {
                node: id,
                output: output as u32,
            };
            self.define(value, defined.into(), &place)?;
        }
        Ok(())
    }

    fn operands(&self, proto: &NodeProto, place: &str) -> Result<Vec<Operand>, ImportError> {
        let operand = |name: &String| match self.values.get(name) {
            _ if name.is_empty() => Ok(Operand::Absent),
            Some(operand) => Ok(*operand),
            None => Err(self.fail(place, format!("input `{name}` is not defined anywhere"))),
        };
        proto.input.iter().map(operand).collect()
    }

    fn constant(&mut self, proto: &NodeProto, place: &str) -> Result<(), ImportError> {
        let data = node::constant_value(&mut self.files, place, proto)?;
        let name = proto.output.first().cloned().unwrap_or_default();
        let is_packed = |tensor: &TensorProto| element::packed_integer(tensor.data_type.unwrap_or(0)).is_some();
        if proto
            .attribute
            .iter()
            .any(|attribute| attribute.t.as_ref().is_some_and(is_packed))
        {
            self.packed.insert(name.clone());
        }
        let weight = self.graph.add_weight(WeightInfo {
            name: name.clone(),
            data,
        });
        self.define(&name, weight.into(), place)
    }

    fn outputs(&mut self, outputs: &[ValueInfoProto]) -> Result<(), ImportError> {
        for output in outputs {
            let name = output.name.clone().unwrap_or_default();
            let Some(&operand) = self.values.get(&name) else {
                return Err(self.fail(format!("output {name}"), "the output is not computed by any node"));
            };
            self.graph
                .add(Op::Output(name.clone()), vec![operand], vec![], Origin::imported(&name));
        }
        Ok(())
    }
}
