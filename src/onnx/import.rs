//! A model as a graph: one [`Op::Onnx`] per node, initializers and constants as weights, input sizes bound.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use fisec_ir::{Graph, OnnxOp, Op, Operand, Origin, ValueId, ValueType, WeightInfo};
use fisec_tensor::DType;

use crate::files::ModelFiles;
use crate::proto::tensor_shape_proto::dimension::Value as Size;
use crate::proto::{GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, type_proto};
use crate::solve::{Sizes, declared_dims};
use crate::{Bindings, ImportError, Model, element, functions, node, order, tensor};

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

/// Branches of branches of branches beyond this depth are no model.
const DEEPEST_BRANCH: usize = 32;

/// The type of a value whose shape is not yet inferred. No real value has it: nothing is a tensor of no Booleans.
pub fn unknown_type() -> ValueType {
    ValueType::full(DType::Bool, [0])
}

/// Reads the model at `path` with the sizes that `bindings` gives its symbolic inputs, and those that the graph fixes.
///
/// Weights stay memory-mapped. Fails on damaged files, on control flow that depends on the inputs, and on symbolic
/// inputs without a size; operators are not judged.
pub fn import(path: &Path, bindings: &Bindings) -> Result<Import, ImportError> {
    Model::open(path)?.import(bindings, &mut |_, _| None)
}

/// Decides the condition of an `If`, a value of the graph that is built so far; `None` where it depends on the inputs.
pub type Decide<'a> = dyn FnMut(&Graph, ValueId) -> Option<bool> + 'a;

/// [`import`] of a file that is read.
pub(crate) fn bind_and_import(
    files: ModelFiles,
    mut model: ModelProto,
    bindings: &Bindings,
    decide: &mut Decide<'_>,
) -> Result<Import, ImportError> {
    functions::inline(&mut model).map_err(|(place, message)| {
        ImportError::new(files.model(), place, message)
            .hint("inline functions when exporting, e.g. with onnx.inliner.inline_local_functions")
    })?;
    let opsets = opsets(&model);
    let producer = [&model.producer_name, &model.producer_version]
        .map(|part| part.as_deref().unwrap_or_default())
        .join(" ");
    let proto = model.graph.unwrap_or_default();
    let order = order::execution_order(&proto.node).map_err(|node| {
        let place = format!("node {}", node::name(&proto.node[node], node));
        ImportError::new(files.model(), place, "the graph has a cycle")
    })?;
    let sizes = Sizes::of(&proto, &order, bindings);
    let mut importer = Importer {
        files,
        graph: Graph::new("record"),
        scopes: vec![HashMap::new()],
        read: read_names(&proto),
        sizes,
        declared: HashMap::new(),
        packed: HashSet::new(),
        opsets,
        decide,
    };
    importer.initializers(&proto)?;
    importer.inputs(&proto.input, bindings)?;
    importer.symbols_exist(&proto.input, bindings)?;
    importer.declarations(&proto);
    for index in order {
        importer.node(&proto.node[index], index)?;
    }
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

/// The inputs' names that something reads.
fn read_names(proto: &GraphProto) -> HashSet<String> {
    let inputs: HashSet<&str> = proto.input.iter().filter_map(|input| input.name.as_deref()).collect();
    let nodes = proto.node.iter().flat_map(node::reads);
    let outputs = proto.output.iter().filter_map(|output| output.name.as_deref());
    let read = nodes.chain(outputs).filter(|name| inputs.contains(name));
    read.map(str::to_owned).collect()
}

struct Importer<'d> {
    files: ModelFiles,
    graph: Graph,
    /// values by name: the model's, then those of the branches that are being imported
    scopes: Vec<HashMap<String, Operand>>,
    /// names that nodes or outputs read
    read: HashSet<String>,
    /// sizes of symbolic dimensions
    sizes: Sizes,
    /// types that the file declares for computed values, where all sizes are known
    declared: HashMap<String, ValueType>,
    /// initializers of 4-bit integers
    packed: HashSet<String>,
    opsets: BTreeMap<String, i64>,
    decide: &'d mut Decide<'d>,
}

impl Importer<'_> {
    fn fail(&self, place: impl Into<String>, message: impl Into<String>) -> ImportError {
        ImportError::new(self.files.model(), place, message)
    }

    fn define(&mut self, name: &str, operand: Operand, place: &str) -> Result<(), ImportError> {
        let scope = self.scopes.last_mut().expect("the model's own");
        if scope.insert(name.to_owned(), operand).is_some() {
            return Err(self.fail(place, format!("`{name}` is defined twice")));
        }
        Ok(())
    }

    /// The value of a name in the innermost scope that has it.
    fn value(&self, name: &str) -> Option<Operand> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).copied()
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
            if self.value(&name).is_some() {
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

    /// Refuses sizes for symbols that no input has.
    fn symbols_exist(&self, inputs: &[ValueInfoProto], bindings: &Bindings) -> Result<(), ImportError> {
        let dims = |input| declared_dims(input).into_iter().flatten().enumerate();
        let known: BTreeSet<String> = inputs
            .iter()
            .flat_map(|input| {
                let name = input.name.as_deref().unwrap_or_default();
                dims(input).flat_map(move |(axis, dim)| match &dim.value {
                    Some(Size::DimParam(symbol)) => vec![symbol.clone(), format!("{name}:{axis}")],
                    Some(Size::DimValue(_)) => vec![],
                    None => vec![format!("{name}:{axis}")],
                })
            })
            .collect();
        match bindings.symbols().find(|symbol| !known.contains(*symbol)) {
            None => Ok(()),
            Some(symbol) => Err(self
                .fail("", format!("no input has the symbolic size `{symbol}`"))
                .hint(match known.is_empty() {
                    true => "all sizes of the model are fixed: leave out `--bind`".to_owned(),
                    false => format!("the model has {}", known.into_iter().collect::<Vec<_>>().join(", ")),
                })),
        }
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
            let shape = tensor.shape.as_ref();
            let dims = shape.and_then(|shape| {
                let sizes = shape.dim.iter().map(|dim| self.sizes.declared(dim));
                sizes.collect::<Option<Vec<_>>>()
            });
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
            let is_read = self.read.contains(name);
            let asked = bindings.size(name, rank, axis).filter(|_| is_read);
            let size = match &dim.value {
                Some(Size::DimValue(fixed)) => {
                    let fixed = usize::try_from(*fixed)
                        .map_err(|_| self.fail(&place, format!("dimension {axis} has the impossible size {fixed}")))?;
                    // One timestep serves a whole batch.
                    let shared = rank == 1 && fixed == 1;
                    if let Some(asked) = asked.filter(|&asked| !shared && asked != fixed) {
                        return Err(self.fixed(&place, axis, fixed, asked));
                    }
                    fixed
                }
                symbolic => {
                    let symbol = match symbolic {
                        Some(Size::DimParam(symbol)) => symbol.as_str(),
                        _ => "",
                    };
                    let solved = self.sizes.axis(name, axis).or((!is_read).then_some(1));
                    solved.ok_or_else(|| self.unbound(name, axis, symbol))?
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

    fn fixed(&self, place: &str, axis: usize, fixed: usize, asked: usize) -> ImportError {
        let message = format!("dimension {axis} is fixed at {fixed}, {asked} is asked for");
        let hint = match (axis, fixed) {
            (0, 1) => {
                "guidance computes two images per step and this model one: export it with a dynamic batch axis or for a \
                 batch of 2; or compile with `--batch 1` and run without guidance, `--guidance 1`"
            }
            (0, _) => "compile with `--batch` as the model was exported, or export it with a dynamic batch axis",
            _ => "compile for the size the model was exported at, or export it with dynamic axes",
        };
        self.fail(place, message).hint(hint)
    }

    fn unbound(&self, input: &str, axis: usize, symbol: &str) -> ImportError {
        let (what, name) = match symbol {
            "" => ("a size without a name".to_owned(), format!("{input}:{axis}")),
            symbol => (format!("the symbolic size `{symbol}`"), symbol.to_owned()),
        };
        let message = format!("dimension {axis} has {what}, which nothing in the model fixes");
        self.fail(format!("input {input}"), message).hint(format!(
            "give it, e.g. `--bind {name}=4`; height and width follow from the size of the image, e.g. `--size 768`"
        ))
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
        if standard && op_type == "If" && self.branch(proto, &operands, &place)? {
            return Ok(());
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
        // optional outputs at the end that the model leaves out
        let last = proto.output.iter().rposition(|output| !output.is_empty()).unwrap_or(0);
        let outputs = proto.output.iter().take(last + 1).map(known).collect();
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

    /// Imports the branch that an `If` takes, where that is known; `false` where it is not.
    fn branch(&mut self, proto: &NodeProto, operands: &[Operand], place: &str) -> Result<bool, ImportError> {
        let Some(taken) = self.condition(operands) else {
            return Ok(false);
        };
        let name = if taken { "then_branch" } else { "else_branch" };
        let attribute = proto.attribute.iter().find(|each| each.name.as_deref() == Some(name));
        let Some(branch) = attribute.and_then(|attribute| attribute.g.as_ref()) else {
            return Err(self.fail(place, format!("an If without {name}")));
        };
        if self.scopes.len() > DEEPEST_BRANCH {
            return Err(self.fail(place, format!("branches are nested more than {DEEPEST_BRANCH} deep")));
        }
        self.scopes.push(HashMap::new());
        self.initializers(branch)?;
        let order = order::execution_order(&branch.node).map_err(|_| self.fail(place, "a branch has a cycle"))?;
        for index in order {
            self.node(&branch.node[index], index)?;
        }
        let results = branch.output.iter().map(|output| {
            let name = output.name.as_deref().unwrap_or_default();
            let missing = || self.fail(place, format!("its result `{name}` is not defined anywhere"));
            self.value(name).ok_or_else(missing)
        });
        let results = results.collect::<Result<Vec<_>, _>>()?;
        self.scopes.pop();
        for (name, result) in proto.output.iter().zip(results).filter(|(name, _)| !name.is_empty()) {
            self.define(name, result, place)?;
        }
        Ok(true)
    }

    fn condition(&mut self, operands: &[Operand]) -> Option<bool> {
        match *operands.first()? {
            Operand::Weight(weight) => {
                let data = &self.graph.weight(weight).data;
                (data.shape().elements() == 1).then(|| data.materialize().to_f64_vec()[0] != 0.0)
            }
            Operand::Value(value) => (self.decide)(&self.graph, value),
            Operand::Absent => None,
        }
    }

    fn operands(&self, proto: &NodeProto, place: &str) -> Result<Vec<Operand>, ImportError> {
        let operand = |name: &String| match self.value(name) {
            _ if name.is_empty() => Ok(Operand::Absent),
            Some(operand) => Ok(operand),
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
            let Some(operand) = self.value(&name) else {
                return Err(self.fail(format!("output {name}"), "the output is not computed by any node"));
            };
            self.graph
                .add(Op::Output(name.clone()), vec![operand], vec![], Origin::imported(&name));
        }
        Ok(())
    }
}
