//! The verifier: what every graph must satisfy between passes.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use fisec_tensor::Shape;

use crate::dependence::is_pixelwise;
use crate::infer::{count_message, operand_counts, result_type};
use crate::text::Printer;
use crate::{Extent, Graph, LevelId, NodeId, Op, Operand, SlotId, ValueType};

/// One thing that is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// the node at fault; `None` when the graph as a whole is
    pub node: Option<NodeId>,
    /// what is wrong, in lower case
    pub message: String,
    /// the offending line of IR text, with its origin
    pub line: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  --> {}", self.message, self.line)
    }
}

impl std::error::Error for VerifyError {}

/// Checks the graph: operand counts, result types, extents, slots, names, and that there is no cycle.
///
/// Of opaque operators only the existence of the operands is checked: their types are ONNX's affair.
pub fn verify(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let mut checker = Checker {
        graph,
        faults: Vec::new(),
        levels: BTreeMap::new(),
        inputs: HashSet::new(),
        outputs: HashSet::new(),
    };
    if let Err(cycle) = graph.ordered() {
        checker.faults.push((None, cycle.to_string()));
    }
    checker.slots();
    for id in graph.ids() {
        checker.node(id);
    }
    checker.level_sizes();
    if checker.faults.is_empty() {
        return Ok(());
    }
    let printer = Printer::new(graph);
    let whole = format!("graph {}", graph.name());
    let faults = checker.faults.into_iter().map(|(node, message)| VerifyError {
        node,
        message,
        line: node.map_or_else(|| whole.clone(), |node| printer.line(node)),
    });
    Err(faults.collect())
}

struct Checker<'g> {
    graph: &'g Graph,
    faults: Vec<(Option<NodeId>, String)>,
    levels: BTreeMap<LevelId, Level<'g>>,
    inputs: HashSet<&'g str>,
    outputs: HashSet<&'g str>,
}

/// What active values say about their level: the size of its maps, and the number of tokens.
#[derive(Default)]
struct Level<'g> {
    map: Option<(NodeId, &'g [usize])>,
    tokens: Option<(NodeId, usize)>,
}

impl<'g> Checker<'g> {
    fn fault(&mut self, id: NodeId, message: impl Into<String>) {
        self.faults.push((Some(id), message.into()));
    }

    fn slots(&mut self) {
        let mut names = HashSet::new();
        for (index, slot) in self.graph.slots().iter().enumerate() {
            if !names.insert(slot.name.as_str()) {
                self.faults
                    .push((None, format!("slot s{index}: the name `{}` is taken", slot.name)));
            }
            if slot.value_type.extent != Extent::Full {
                self.faults.push((
                    None,
                    format!("slot s{index}: recorded values are full, not {}", slot.value_type),
                ));
            }
        }
    }

    fn node(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        if let Some(fault) = node.operands().iter().find_map(|&operand| self.missing(operand)) {
            return self.fault(id, fault);
        }
        if matches!(node.op(), Op::Onnx(_)) {
            return self.opaque(id);
        }
        if !operand_counts(node.op()).contains(&node.operands().len()) {
            return self.fault(id, count_message(node.op(), node.operands().len()));
        }
        let operands: Option<Vec<ValueType>> = node
            .operands()
            .iter()
            .map(|&operand| self.graph.operand_type(operand))
            .collect();
        let Some(operands) = operands else {
            return self.fault(id, format!("`{}` has no optional operands", node.op().name()));
        };
        let results = usize::from(!matches!(node.op(), Op::Output(_) | Op::CacheWrite(_)));
        if node.outputs().len() != results {
            return self.fault(
                id,
                format!(
                    "`{}` has {results} results, not {}",
                    node.op().name(),
                    node.outputs().len()
                ),
            );
        }
        let before = self.faults.len();
        self.types(id, &operands);
        if self.faults.len() > before {
            return;
        }
        if let Err(message) = check_extents(self.graph, id, &operands) {
            return self.fault(id, message);
        }
        self.note_level(id);
    }

    /// An opaque operator reads and writes whole values.
    fn opaque(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let operands = node
            .operands()
            .iter()
            .filter_map(|&operand| self.graph.operand_type(operand));
        let mut values = operands.chain(node.outputs().iter().cloned());
        if let Some(part) = values.find(|value| value.extent != Extent::Full) {
            self.fault(
                id,
                format!("an opaque operator reads and writes every pixel, not {part}"),
            );
        }
    }

    fn missing(&self, operand: Operand) -> Option<String> {
        match operand {
            Operand::Value(value) if !self.graph.contains(value.node) => Some("reads a removed node".to_owned()),
            Operand::Value(value) => {
                let outputs = self.graph.node(value.node).outputs().len();
                let label = self.graph.origin(value.node).label();
                (value.output as usize >= outputs)
                    .then(|| format!("reads output {} of `{label}`, which has {outputs}", value.output))
            }
            Operand::Weight(weight) => (weight.0 as usize >= self.graph.weights().len())
                .then(|| format!("reads weight {} of {}", weight.0, self.graph.weights().len())),
            Operand::Absent => None,
        }
    }

    fn types(&mut self, id: NodeId, operands: &[ValueType]) {
        let graph = self.graph;
        let node = graph.node(id);
        match node.op() {
            Op::Input(name) if !self.inputs.insert(name) => self.fault(id, format!("two inputs are called `{name}`")),
            Op::Output(name) if !self.outputs.insert(name) => {
                self.fault(id, format!("two outputs are called `{name}`"));
            }
            Op::Input(_) | Op::Output(_) => {}
            Op::CacheRead(slot) => self.slot_type(id, *slot, &node.outputs()[0]),
            Op::CacheWrite(slot) => self.slot_type(id, *slot, &operands[0]),
            op => match result_type(op, operands) {
                Err(message) => self.fault(id, message),
                Ok(result) => {
                    let declared = &node.outputs()[0];
                    let any_float = matches!(op, Op::TimestepEmbedding(_)) && declared.dtype.is_float();
                    if result.shape != declared.shape || (result.dtype != declared.dtype && !any_float) {
                        self.fault(id, format!("the result is {}[{}]", result.dtype, result.shape));
                    }
                }
            },
        }
    }

    fn slot_type(&mut self, id: NodeId, slot: SlotId, value: &ValueType) {
        match self.graph.slots().get(slot.0 as usize) {
            None => self.fault(id, format!("there is no slot {slot}")),
            Some(info) if info.value_type != *value => {
                self.fault(id, format!("slot {slot} holds {}, not {value}", info.value_type));
            }
            Some(_) => {}
        }
    }

    fn note_level(&mut self, id: NodeId) {
        for output in self.graph.node(id).outputs() {
            let Some(level) = output.extent.level() else { continue };
            let noted = self.levels.entry(level).or_default();
            let agrees = match output.shape.dims() {
                [_, _, size @ ..] if size.len() == 2 => noted.map.get_or_insert((id, size)).1 == size,
                [_, tokens, _] => noted.tokens.get_or_insert((id, *tokens)).1 == *tokens,
                _ => {
                    self.fault(
                        id,
                        format!("[{}] is neither a map nor tokens, it cannot be active", output.shape),
                    );
                    continue;
                }
            };
            if !agrees {
                self.fault(id, format!("level {level} has another size elsewhere"));
            }
        }
    }

    fn level_sizes(&mut self) {
        let levels = std::mem::take(&mut self.levels);
        for (level, noted) in &levels {
            let Some((_, size)) = noted.map else { continue };
            if let Some((id, tokens)) = noted
                .tokens
                .filter(|(_, tokens)| *tokens != size.iter().product::<usize>())
            {
                self.fault(
                    id,
                    format!("level {level} has {}x{} pixels, not {tokens} tokens", size[0], size[1]),
                );
            }
            let coarser = levels
                .get(&LevelId(level.0.saturating_add(1)))
                .and_then(|coarser| coarser.map);
            let halved: Vec<usize> = size.iter().map(|side| side.div_ceil(2)).collect();
            if let Some((id, _)) = coarser.filter(|(_, coarse)| *coarse != halved) {
                let halved = Shape::from(halved);
                self.fault(
                    id,
                    format!(
                        "level a{} must have {halved} rows and columns, half of {level}",
                        level.0 + 1
                    ),
                );
            }
        }
    }
}

/// How an operator reads one operand when only some pixels or tokens are defined.
#[derive(Clone, Copy, PartialEq)]
enum Reach {
    /// the pixel or token itself
    Same,
    /// attention keys: the active ones, wherever they are
    Keys,
    /// the pixel's parent on the next coarser level
    Parent,
    /// other pixels too: every value must be there
    Around,
}

fn check_extents(graph: &Graph, id: NodeId, operands: &[ValueType]) -> Result<(), String> {
    let (op, result) = (graph.op(id), graph.node(id).outputs().first());
    match op {
        Op::Output(_) => return Ok(()),
        Op::CacheWrite(_) if operands[0].extent != Extent::Full => {
            return Err("only full values are recorded".to_owned());
        }
        Op::Scatter(_) => return check_scatter(operands, result),
        Op::Gather => return check_gather(operands, result),
        Op::GroupNormStatsUpdate { .. } => {
            let recorded_full = operands[1..].iter().all(|operand| operand.extent == Extent::Full);
            return recorded_full
                .then_some(())
                .ok_or_else(|| "what was recorded is full".to_owned());
        }
        _ => {}
    }
    let Some(result) = result else { return Ok(()) };
    match result.extent {
        Extent::Full => match operands.iter().position(|operand| operand.extent != Extent::Full) {
            Some(position) => Err(format!(
                "a full result reads operand {position}, which is {}",
                operands[position]
            )),
            None => Ok(()),
        },
        _ => check_active(graph, id, operands, result.extent),
    }
}

fn check_active(graph: &Graph, id: NodeId, operands: &[ValueType], extent: Extent) -> Result<(), String> {
    let op = graph.op(id);
    if !may_be_active(op) {
        return Err(format!("the result of `{}` is always full", op.name()));
    }
    if let Op::Concat(concat) = op {
        let channels = if operands[0].shape.len() == 4 {
            1
        } else {
            operands[0].shape.len().saturating_sub(1)
        };
        if concat.axis != channels {
            return Err("active values are concatenated along channels only".to_owned());
        }
    }
    for (position, operand) in operands.iter().enumerate() {
        if operand.extent == Extent::Full {
            continue;
        }
        let sound = match (reach(graph, id, position), extent, operand.extent) {
            (Reach::Same, ..) => operand.extent == extent,
            (Reach::Keys, Extent::Active(_), _) => operand.extent == extent,
            (Reach::Parent, Extent::Active(level), Extent::Active(read)) => read.0 == level.0 + 1,
            (Reach::Around, Extent::Active(level), Extent::Around(read)) => read == level && reads_neighbours(op),
            _ => false,
        };
        if !sound {
            return Err(format!(
                "a result at {extent} cannot read operand {position}, which is only there at {}",
                operand.extent
            ));
        }
    }
    Ok(())
}

fn may_be_active(op: &Op) -> bool {
    matches!(
        op,
        Op::Conv(_)
            | Op::GroupNorm(_)
            | Op::Affine { .. }
            | Op::Upsample { .. }
            | Op::Tokens
            | Op::Spatial { .. }
            | Op::LayerNorm { .. }
            | Op::Linear(_)
            | Op::Attention { .. }
            | Op::Geglu
            | Op::Activate(_)
            | Op::Add
            | Op::AddVector
            | Op::Repeat { .. }
            | Op::Concat(_)
    )
}

fn reach(graph: &Graph, id: NodeId, position: usize) -> Reach {
    match graph.op(id) {
        Op::Upsample { .. } => Reach::Parent,
        Op::Attention { .. } if position > 0 => Reach::Keys,
        _ if is_pixelwise(graph, id, position) => Reach::Same,
        _ => Reach::Around,
    }
}

/// A convolution that reads no farther than the ring around what it computes.
fn reads_neighbours(op: &Op) -> bool {
    matches!(op, Op::Conv(conv) if conv.reads_neighbours())
}

fn check_scatter(operands: &[ValueType], result: Option<&ValueType>) -> Result<(), String> {
    if operands[0].extent == Extent::Full {
        return Err("`scatter` takes an active value".to_owned());
    }
    if operands[1].extent != Extent::Full {
        return Err("the base of `scatter` is full".to_owned());
    }
    match result {
        Some(result) if result.extent != Extent::Full => Err("the result of `scatter` is full".to_owned()),
        _ => Ok(()),
    }
}

fn check_gather(operands: &[ValueType], result: Option<&ValueType>) -> Result<(), String> {
    if operands[0].extent != Extent::Full {
        return Err("`gather` takes a full value".to_owned());
    }
    match result {
        Some(result) if result.extent == Extent::Full => Err("the result of `gather` is active".to_owned()),
        _ => Ok(()),
    }
}
