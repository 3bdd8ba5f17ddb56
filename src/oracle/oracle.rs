use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use fisec_ir::{Extent, Graph, NodeId, Op, Operand, RING, SlotId, ValueId, ValueType};
use fisec_tensor::Mask;

use crate::masks::select;
use crate::{OracleError, POISON, Tensor, onnx, semantic};

/// Evaluates a graph on given data.
pub struct Oracle<'g> {
    graph: &'g Graph,
    inputs: BTreeMap<String, Tensor>,
    slots: BTreeMap<SlotId, Tensor>,
    masks: Vec<Mask>,
    /// the same with the rings around them
    around: Vec<Mask>,
    keep: HashSet<ValueId>,
}

/// What an evaluation gives.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// graph outputs by name
    pub outputs: BTreeMap<String, Tensor>,
    /// what the graph recorded
    pub slots: BTreeMap<SlotId, Tensor>,
    /// the values that [`Oracle::keep`] asked for
    pub values: HashMap<ValueId, Tensor>,
}

impl<'g> Oracle<'g> {
    /// An evaluation of `graph`, without data so far.
    pub fn new(graph: &'g Graph) -> Self {
        Oracle {
            graph,
            inputs: BTreeMap::new(),
            slots: BTreeMap::new(),
            masks: Vec::new(),
            around: Vec::new(),
            keep: HashSet::new(),
        }
    }

    /// Graph inputs by name.
    pub fn inputs(mut self, inputs: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        self.inputs.extend(inputs);
        self
    }

    /// What `cache.read` finds.
    pub fn slots(mut self, slots: impl IntoIterator<Item = (SlotId, Tensor)>) -> Self {
        self.slots.extend(slots);
        self
    }

    /// The active set of each level, finest first; see [`crate::levels`].
    pub fn masks(mut self, masks: &[Mask]) -> Self {
        self.masks = masks.to_vec();
        self.around = masks.iter().map(|mask| mask.dilated(RING)).collect();
        self
    }

    /// Also returns these values.
    pub fn keep(mut self, values: impl IntoIterator<Item = ValueId>) -> Self {
        self.keep.extend(values);
        self
    }

    /// Evaluates everything that an output, a recorded slot or a kept value depends on.
    pub fn run(self) -> Result<Run, OracleError> {
        let order = self.graph.ordered()?;
        let mut pending = self.uses(&order);
        let mut live: HashMap<ValueId, Tensor> = HashMap::new();
        let mut run = Run::default();
        for id in order {
            if !pending.needed.contains(&id) {
                continue;
            }
            let results = self
                .node(id, &live, &mut run)
                .map_err(|message| self.error(id, message))?;
            for operand in self.graph.operands(id) {
                let Operand::Value(value) = operand else { continue };
                let uses = pending.uses.get_mut(value).expect("counted");
                *uses -= 1;
                if *uses == 0 {
                    live.remove(value);
                }
            }
            for (output, result) in results.into_iter().enumerate() {
                let value = ValueId {
                    node: id,
                    output: output as u32,
                };
                if self.keep.contains(&value) {
                    run.values.insert(value, result.clone());
                }
                if pending.uses.contains_key(&value) {
                    live.insert(value, result);
                }
            }
        }
        Ok(run)
    }

    fn uses(&self, order: &[NodeId]) -> Pending {
        let mut needed: HashSet<NodeId> = self.keep.iter().map(|value| value.node).collect();
        let mut uses: HashMap<ValueId, usize> = HashMap::new();
        for &id in order.iter().rev() {
            if !matches!(self.graph.op(id), Op::Output(_) | Op::CacheWrite(_)) && !needed.contains(&id) {
                continue;
            }
            needed.insert(id);
            for value in self.graph.operands(id).iter().filter_map(|operand| operand.value()) {
                needed.insert(value.node);
                *uses.entry(value).or_default() += 1;
            }
        }
        Pending { needed, uses }
    }

    fn node(&self, id: NodeId, live: &HashMap<ValueId, Tensor>, run: &mut Run) -> Result<Vec<Tensor>, String> {
        let node = self.graph.node(id);
        let operands = node
            .operands()
            .iter()
            .map(|operand| self.operand(*operand, live))
            .collect::<Result<Vec<_>, _>>()?;
        let operand = |position: usize| {
            let operand = operands.get(position).and_then(Option::as_deref);
            operand.ok_or_else(|| format!("operand {position} is missing"))
        };
        let results = match node.op() {
            Op::Input(name) => vec![self.input(name, &node.outputs()[0])?],
            Op::CacheRead(slot) => vec![self.slot(*slot, &node.outputs()[0])?],
            Op::CacheWrite(slot) => {
                run.slots.insert(*slot, operand(0)?.clone());
                return Ok(Vec::new());
            }
            Op::Output(name) => {
                run.outputs.insert(name.clone(), operand(0)?.clone());
                return Ok(Vec::new());
            }
            Op::Onnx(op) => {
                let operands: Vec<Option<&Tensor>> = operands.iter().map(Option::as_deref).collect();
                onnx::evaluate(op, &operands, node.outputs().len())?
            }
            op => {
                let operands = (0..operands.len()).map(operand).collect::<Result<Vec<_>, _>>()?;
                let active = node.operands().iter().map(|operand| self.operand_mask(*operand));
                let active = active.collect::<Result<Vec<_>, _>>()?;
                let result = semantic::evaluate(op, &operands, &active)?;
                let declared = &node.outputs()[0];
                if result.shape != declared.shape {
                    return Err(format!(
                        "the result has shape [{}], declared [{}]",
                        result.shape, declared.shape
                    ));
                }
                vec![result]
            }
        };
        if results.len() < node.outputs().len() {
            return Err(format!(
                "the oracle computes {} of {} outputs",
                results.len(),
                node.outputs().len()
            ));
        }
        results
            .into_iter()
            .zip(node.outputs())
            .map(|(result, declared)| self.restricted(result, declared))
            .collect()
    }

    /// Poison outside the active set of an active value.
    fn restricted(&self, value: Tensor, declared: &ValueType) -> Result<Tensor, String> {
        match declared.extent {
            Extent::Full => Ok(value),
            extent => select(self.mask(extent)?, &value, |_| POISON),
        }
    }

    fn operand<'l>(
        &self,
        operand: Operand,
        live: &'l HashMap<ValueId, Tensor>,
    ) -> Result<Option<Cow<'l, Tensor>>, String> {
        Ok(match operand {
            Operand::Absent => None,
            Operand::Value(value) => {
                let tensor = live
                    .get(&value)
                    .ok_or_else(|| format!("output {} was not computed", value.output))?;
                Some(Cow::Borrowed(tensor))
            }
            Operand::Weight(weight) => Some(Cow::Owned(Tensor::from_host(
                &self.graph.weight(weight).data.materialize(),
            ))),
        })
    }

    fn operand_mask(&self, operand: Operand) -> Result<Option<&Mask>, String> {
        let Operand::Value(value) = operand else {
            return Ok(None);
        };
        match self.graph.value_type(value).extent {
            Extent::Full => Ok(None),
            extent => self.mask(extent).map(Some),
        }
    }

    fn mask(&self, extent: Extent) -> Result<&Mask, String> {
        let masks = match extent {
            Extent::Around(_) => &self.around,
            Extent::Full | Extent::Active(_) => &self.masks,
        };
        let mask = extent.level().and_then(|level| masks.get(level.0 as usize));
        mask.ok_or_else(|| format!("no mask is given for {extent}"))
    }

    fn input(&self, name: &str, declared: &ValueType) -> Result<Tensor, String> {
        let tensor = self
            .inputs
            .get(name)
            .ok_or_else(|| format!("no data is given for input `{name}`"))?;
        fitting(tensor, declared)
    }

    fn slot(&self, slot: SlotId, declared: &ValueType) -> Result<Tensor, String> {
        let tensor = self
            .slots
            .get(&slot)
            .ok_or_else(|| format!("no data is given for slot {slot}"))?;
        fitting(tensor, declared)
    }

    fn error(&self, id: NodeId, message: String) -> OracleError {
        let node = self.graph.node(id);
        let op = match node.op() {
            Op::Onnx(onnx) => onnx.op_type.clone(),
            op => op.name().to_owned(),
        };
        OracleError::Node {
            node: node.origin().label().to_owned(),
            op,
            message,
        }
    }
}

struct Pending {
    needed: HashSet<NodeId>,
    uses: HashMap<ValueId, usize>,
}

fn fitting(tensor: &Tensor, declared: &ValueType) -> Result<Tensor, String> {
    if tensor.shape != declared.shape {
        return Err(format!(
            "the data have shape [{}], declared is [{}]",
            tensor.shape, declared.shape
        ));
    }
    Ok(Tensor {
        dtype: declared.dtype,
        ..tensor.clone()
    })
}
