//! Types of operators that the compiler does not know: asked of the runtime that will run them.
//!
//! The compiler knows nothing of a runtime. It writes the one node as a model, whose inputs have the types of the node's
//! operands, and asks.

use fisec_ir::{Graph, NodeId, Op, Operand, Origin, ValueId, ValueType};
use fisec_onnx::{Location, Ports, SinkError, WeightSink, export, unknown_type};
use fisec_tensor::{Constant, HostTensor, Shape};

/// Weights with more bytes are inputs of the question: their values hardly decide about types, and they would be copied.
const LARGEST_WEIGHT: usize = 1024;

/// An output of a model that was asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// its type
    pub value_type: ValueType,
    /// its value, where the model has no inputs
    pub value: Option<HostTensor>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// the reason, lower case, no trailing period
    pub reason: String,
    /// what the user can do
    pub hint: Option<String>,
}

/// What runs operators that the compiler does not know, and so knows their types.
pub trait Types {
    /// The outputs of a small ONNX model, in its order. `model` is a whole file; its inputs have fixed shapes.
    ///
    /// # Errors
    /// The runtime refuses the model, cannot be had, or the shapes depend on the values of the inputs.
    fn of(&mut self, model: &[u8]) -> Result<Vec<Answer>, Refusal>;
}

/// Knows nothing: what the compiler does not infer is an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTypes;

impl Types for NoTypes {
    fn of(&mut self, _model: &[u8]) -> Result<Vec<Answer>, Refusal> {
        Err(Refusal {
            reason: String::new(),
            hint: None,
        })
    }
}

/// The answers for the outputs of `id` that are used, by output; `None` for those that are not.
pub(super) fn ask(graph: &Graph, id: NodeId, types: &mut dyn Types) -> Result<Vec<Option<Answer>>, Refusal> {
    let used: Vec<bool> = (0..graph.node(id).outputs().len() as u32)
        .map(|output| output == 0 || !graph.users(ValueId { node: id, output }).is_empty())
        .collect();
    let model = question(graph, id, &used).map_err(|reason| Refusal { reason, hint: None })?;
    let mut answers = types.of(&model)?.into_iter();
    Ok(used
        .into_iter()
        .map(|used| used.then(|| answers.next()).flatten())
        .collect())
}

/// The node as a model of its own.
fn question(graph: &Graph, id: NodeId, used: &[bool]) -> Result<Vec<u8>, String> {
    let mut model = Graph::new("question");
    let mut operands = Vec::new();
    for &operand in graph.operands(id) {
        operands.push(match operand {
            Operand::Absent => Operand::Absent,
            Operand::Weight(weight) if is_small(&graph.weight(weight).data) => {
                let name = format!("w{}", operands.len());
                let data = graph.weight(weight).data.clone();
                model.add_weight(fisec_ir::WeightInfo { name, data }).into()
            }
            Operand::Weight(_) | Operand::Value(_) => {
                let value_type = graph.operand_type(operand).unwrap_or_else(unknown_type);
                let input = Op::Input(format!("i{}", operands.len()));
                model
                    .add_value(
                        input,
                        vec![],
                        ValueType::full(value_type.dtype, value_type.shape),
                        Origin::default(),
                    )
                    .into()
            }
        });
    }
    let outputs = vec![unknown_type(); used.len()];
    let node = model.add(graph.op(id).clone(), operands, outputs, Origin::default());
    for (output, _) in used.iter().enumerate().filter(|(_, used)| **used) {
        let value = ValueId {
            node,
            output: output as u32,
        };
        model.add(
            Op::Output(format!("o{output}")),
            vec![value.into()],
            vec![],
            Origin::default(),
        );
    }
    export(&model, Ports::Plain, &mut NoFiles).map_err(|error| error.to_string())
}

fn is_small(data: &Constant) -> bool {
    bytes(data.shape(), data.dtype().size()) <= LARGEST_WEIGHT
}

fn bytes(shape: &Shape, size: usize) -> usize {
    shape.elements().saturating_mul(size)
}

/// All weights of a question stand in it.
struct NoFiles;

impl WeightSink for NoFiles {
    fn place(&mut self, name: &str, _data: &Constant) -> Result<Location, SinkError> {
        Err(SinkError::new(format!("`{name}` is too large for a question")))
    }
}
