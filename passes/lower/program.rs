//! Lower one program.

use std::collections::{BTreeMap, HashMap, HashSet};

use fisec_ir::{Extent, Graph, LevelId, NodeId, Op, Origin, Stage, ValueId as IrValue};
use fisec_onnx::Ports;
use fisec_plan::cuda::CHANNELS;
use fisec_plan::{Island, IslandCall, Kernel, Node, Port, Program, Provenance, ValueId};
use fisec_tensor::Mask;

use super::early_constants::own_constants;
use super::islands::{DenseLevels, Unit, by_identity, extract, partition};
use super::values::{Values, plan_stage};
use super::weights::island_file;
use super::{LowerError, PlanBuilder, WeightTarget};
use crate::analysis::{Stages, dense_macs, sparse_macs};
use crate::cost::CostTable;
use crate::roles::Roles;

/// What lowering needs to know beside the graph.
pub struct ProgramLowering<'a> {
    /// names of the graph's inputs
    pub roles: &'a Roles,
    /// active pixels per level at each reference share
    pub masks: &'a [Vec<Mask>; 3],
    /// measured costs
    pub table: &'a CostTable,
    /// whose kernels run what is dense
    pub target: WeightTarget,
    /// what a device leaves to ONNX Runtime although it has kernels for it
    pub remainder: Option<DenseLevels<'a>>,
    /// resolutions of the model
    pub levels: usize,
    /// levels whose rings stand behind them in the plan
    pub rings: &'a [LevelId],
}

/// The program of a graph.
pub fn lower_program(
    graph: &Graph,
    context: &ProgramLowering<'_>,
    builder: &mut PlanBuilder<'_>,
) -> Result<Program, LowerError> {
    let mut stages = context.roles.stages(graph)?;
    let copied = own_constants(graph, &mut stages)?;
    lower_staged(copied.as_ref().unwrap_or(graph), &stages, context, builder)
}

/// The program of a graph whose nodes run at the stages given.
pub(super) fn lower_staged(
    graph: &Graph,
    stages: &Stages,
    context: &ProgramLowering<'_>,
    builder: &mut PlanBuilder<'_>,
) -> Result<Program, LowerError> {
    let units = partition(graph, stages, context.target, context.remainder)?;
    let mut lowering = Lowering::new(graph, stages, context, builder);
    let natives = units.iter().filter_map(|unit| match unit {
        Unit::Native(id) => Some(*id),
        Unit::Island(..) => None,
    });
    lowering.natives = natives.collect();
    for unit in units {
        match unit {
            Unit::Native(id) => lowering.native(id)?,
            Unit::Island(nodes, stage) => lowering.island(&nodes, stage)?,
        }
    }
    Ok(lowering.finish())
}

pub(super) struct Lowering<'a, 'b> {
    pub(super) graph: &'a Graph,
    pub(super) stages: &'a Stages,
    pub(super) context: &'a ProgramLowering<'a>,
    pub(super) builder: &'a mut PlanBuilder<'b>,
    pub(super) values: Values,
    pub(super) gathered: HashMap<(IrValue, Extent), ValueId>,
    /// nodes that another one's call computes
    pub(super) merged: HashSet<NodeId>,
    /// those of the last product
    pub(super) siblings: Vec<NodeId>,
    /// nodes whose call is written
    pub(super) lowered: HashSet<NodeId>,
    natives: HashSet<NodeId>,
    names: HashMap<String, usize>,
    /// outputs of the graph
    output_count: usize,
    /// islands of the step so far
    island_count: usize,
    inputs: BTreeMap<String, ValueId>,
    outputs: BTreeMap<String, ValueId>,
    nodes: Vec<Node>,
}

impl<'a, 'b> Lowering<'a, 'b> {
    fn new(
        graph: &'a Graph,
        stages: &'a Stages,
        context: &'a ProgramLowering<'a>,
        builder: &'a mut PlanBuilder<'b>,
    ) -> Self {
        Lowering {
            graph,
            stages,
            context,
            builder,
            values: Values::new(context.levels, context.rings),
            gathered: HashMap::new(),
            merged: HashSet::new(),
            siblings: Vec::new(),
            lowered: HashSet::new(),
            natives: HashSet::new(),
            names: HashMap::new(),
            output_count: graph.outputs().len(),
            island_count: 0,
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            nodes: Vec::new(),
        }
    }

    fn finish(self) -> Program {
        Program {
            values: self.values.into_table(),
            inputs: self.inputs,
            outputs: self.outputs,
            nodes: self.nodes,
        }
    }

    pub(super) fn value(&mut self, value: IrValue) -> ValueId {
        self.values.get(self.graph, self.stages, value)
    }

    /// Whether a node has a call of its own.
    pub(super) fn is_native(&self, id: NodeId) -> bool {
        self.natives.contains(&id)
    }

    fn native(&mut self, id: NodeId) -> Result<(), LowerError> {
        if self.merged.contains(&id) {
            return Ok(());
        }
        self.lowered.insert(id);
        match self.graph.op(id) {
            Op::Input(name) => {
                let value = self.value(IrValue { node: id, output: 0 });
                self.inputs
                    .insert(self.context.roles.program_name(name).to_owned(), value);
                Ok(())
            }
            Op::Output(_) => self.output(id),
            _ => match self.kernel(id)? {
                Some(kernel) => {
                    let computed = self.computed_by(id, &kernel);
                    let dense = computed.iter().map(|&id| dense_macs(self.graph, id)).sum();
                    let sparse =
                        |masks: &Vec<Mask>| computed.iter().map(|&id| sparse_macs(self.graph, id, masks)).sum();
                    let predicted = [0, 1, 2].map(|share| sparse(&self.context.masks[share]));
                    let stage = self.stages.get(id);
                    let origin = match computed[..] {
                        [_] => self.graph.origin(id).clone(),
                        _ => Origin::merged("merge_products", computed.iter().map(|&id| self.graph.origin(id)))
                            .because("products of the same rows"),
                    };
                    self.push(kernel, &origin, stage, dense, predicted);
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    /// The nodes that a call computes.
    fn computed_by(&self, id: NodeId, kernel: &Kernel) -> Vec<NodeId> {
        match kernel {
            Kernel::Linear(_) => std::iter::once(id).chain(self.siblings.iter().copied()).collect(),
            _ => vec![id],
        }
    }

    /// The prediction leaves as a full map: active pixels over zeros.
    fn output(&mut self, id: NodeId) -> Result<(), LowerError> {
        let Some(result) = self.graph.operands(id)[0].value() else {
            return Err(self.unsupported(id, "the output is a constant"));
        };
        let mut value = self.value(result);
        let value_type = self.graph.value_type(result);
        if value_type.extent != fisec_ir::Extent::Full {
            let full = self
                .values
                .anonymous(&value_type.with_extent(fisec_ir::Extent::Full), Stage::Step);
            let kernel = Kernel::Scatter {
                rows: value,
                base: None,
                output: full,
            };
            let origin = self
                .graph
                .origin(id)
                .clone()
                .because("the sampler reads the active pixels only");
            self.push(kernel, &origin, Stage::Step, 0, [0; 3]);
            value = full;
        }
        if let (Op::Output(name), true) = (self.graph.op(id), self.output_count > 1) {
            self.outputs.insert(name.clone(), value);
        }
        // what every program has: the only output, or one of several
        self.outputs.entry("prediction".into()).or_insert(value);
        Ok(())
    }

    pub(super) fn push(&mut self, kernel: Kernel, origin: &Origin, stage: Stage, dense: u64, predicted: [u64; 3]) {
        let label = if origin.label().is_empty() {
            "node"
        } else {
            origin.label()
        };
        let label = label.trim_start_matches('/');
        let copies = self.names.entry(label.to_owned()).or_insert(0);
        *copies += 1;
        let name = if *copies == 1 {
            label.to_owned()
        } else {
            format!("{label}#{copies}")
        };
        let provenance = Provenance {
            origin: origin.names.clone(),
            pass: origin.pass.clone(),
            reason: origin.reason.clone(),
        };
        let (macs_dense, macs_predicted) = (dense, predicted);
        self.nodes.push(Node {
            name,
            kernel,
            stage: plan_stage(stage),
            provenance,
            macs_dense,
            macs_predicted,
        });
    }

    fn island(&mut self, nodes: &[NodeId], stage: Stage) -> Result<(), LowerError> {
        // what runs before the steps is the same in every program, also where their steps are walked in other orders
        let canonical = by_identity(self.graph, nodes);
        let nodes = if stage == Stage::Step { nodes } else { &canonical };
        let name = match stage {
            Stage::Constant | Stage::Timestep => "timestep".to_owned(),
            Stage::Prompt => "prompt".to_owned(),
            Stage::Step => format!("{}-{}", self.graph.name(), self.island_count),
        };
        let extracted = extract(self.graph, nodes, &name);
        // earlier stages run on the host, wherever the steps do
        let layout = match (stage, self.context.target) {
            (Stage::Step, WeightTarget::Cuda) => Ports::DeviceRows { vector: CHANNELS },
            _ => Ports::ChannelsLast,
        };
        let port = |prefix: &str, index: usize, value: IrValue| {
            let outside = layout.outside(self.graph.value_type(value));
            Port {
                name: format!("{prefix}{index}"),
                dtype: outside.dtype,
                shape: outside.shape,
            }
        };
        let ports = |prefix: &str, values: &[IrValue]| -> Vec<Port> {
            values
                .iter()
                .enumerate()
                .map(|(index, &value)| port(prefix, index, value))
                .collect()
        };
        let origin = Origin::merged("split_islands", nodes.iter().map(|&id| self.graph.origin(id)));
        let macs: u64 = nodes.iter().map(|&id| dense_macs(self.graph, id)).sum();
        let describe = Island {
            file: island_file(&name),
            name: name.clone(),
            inputs: ports("i", &extracted.inputs),
            outputs: ports("o", &extracted.outputs),
            nodes: origin.names.clone(),
            macs,
        };
        let island = self.builder.island(&extracted.graph, layout, describe)?;
        if stage == Stage::Prompt {
            self.builder.prompt_island(island, extracted.graph.clone());
        }
        let call = IslandCall {
            island,
            inputs: extracted.inputs.iter().map(|&value| self.value(value)).collect(),
            outputs: extracted.outputs.iter().map(|&value| self.value(value)).collect(),
        };
        let reason = match stage {
            Stage::Step => "dense: runs in ONNX Runtime",
            Stage::Prompt => "depends on the text only: once per prompt",
            _ => "depends on the timestep only: once per schedule",
        };
        let origin = Origin {
            names: vec![name],
            pass: "split_islands".into(),
            reason: reason.into(),
        };
        self.island_count += usize::from(stage == Stage::Step);
        self.push(Kernel::Island(call), &origin, stage, macs, [macs; 3]);
        Ok(())
    }

    pub(super) fn unsupported(&self, id: NodeId, message: &str) -> LowerError {
        LowerError::Unsupported {
            node: self.graph.origin(id).label().to_owned(),
            message: message.to_owned(),
        }
    }
}
