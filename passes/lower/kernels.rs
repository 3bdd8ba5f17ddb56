//! The kernel call of each native operator.

use std::collections::HashMap;

use fisec_ir::{
    Activation, Conv, ConvOperand, Demand, Extent, Graph, Linear, LinearOperand, NodeId, Op, Operand, SlotId as IrSlot,
    ValueId as IrValue, WeightId as IrWeight,
};
use fisec_plan::{
    AttentionKernel, AttentionMapsKernel, CausalKernel, ControlledAttentionKernel, ConvKernel, ConvSource, Kernel,
    LinearKernel, NormKernel, ResidualSource, SlotId, StatsUpdate, ValueId, WeightId,
};

use super::LowerError;
use super::islands::repeats_slot;
use super::native::Embedding;
use super::program::Lowering;
use super::weights::{WeightLayout, WeightTarget};
use crate::analysis::is_doubled;
use crate::cost::candidates;

type Lowered<T> = Result<T, LowerError>;

impl Lowering<'_, '_> {
    /// The call that computes a node; `None` for nodes that cost nothing.
    pub(super) fn kernel(&mut self, id: NodeId) -> Lowered<Option<Kernel>> {
        let output = IrValue { node: id, output: 0 };
        Ok(Some(match self.graph.op(id).clone() {
            Op::Conv(conv) => self.conv(id, &conv)?,
            Op::Linear(linear) => self.linear(id, linear)?,
            Op::Attention {
                heads,
                scale,
                control: None,
            } => self.attention(id, heads, scale)?,
            Op::Attention {
                heads,
                scale,
                control: Some(_),
            } => self.controlled_attention(id, heads, scale)?,
            Op::AttentionMaps { heads, scale } => Kernel::AttentionMaps(AttentionMapsKernel {
                q: self.operand_value(id, 0)?,
                k: self.operand_value(id, 1)?,
                heads,
                scale,
                output: self.value(output),
            }),
            Op::LayerNorm { epsilon } => Kernel::LayerNorm {
                input: self.rows(id, 0)?,
                gamma: self.weight(id, 1, WeightLayout::Vector)?,
                beta: self.weight(id, 2, WeightLayout::Vector)?,
                epsilon,
                output: self.value(output),
            },
            Op::Geglu => Kernel::Geglu {
                input: self.rows(id, 0)?,
                output: self.value(output),
            },
            Op::Activate(Activation::Silu) => Kernel::Silu {
                input: self.rows(id, 0)?,
                output: self.value(output),
            },
            Op::Activate(activation @ (Activation::Gelu | Activation::QuickGelu)) => Kernel::Gelu {
                input: self.rows(id, 0)?,
                quick: activation == Activation::QuickGelu,
                output: self.value(output),
            },
            Op::CausalAttention { heads, scale } => Kernel::CausalAttention(CausalKernel {
                q: self.rows(id, 0)?,
                k: self.rows(id, 1)?,
                v: self.rows(id, 2)?,
                heads,
                scale,
                output: self.value(output),
            }),
            Op::Onnx(_) => self.embedding(id)?,
            Op::Add => self.add(id)?,
            Op::Affine { activation } => Kernel::Affine {
                input: self.rows(id, 0)?,
                coefficients: self.operand_value(id, 1)?,
                silu: is_silu(activation),
                output: self.value(output),
            },
            Op::Repeat { .. } if repeats_slot(self.graph, id) && !self.is_read_whole(id) => return Ok(None),
            Op::Repeat { .. } => Kernel::Repeat {
                input: self.rows(id, 0)?,
                output: self.value(output),
            },
            Op::Concat(_) => {
                let inputs = (0..self.graph.operands(id).len())
                    .map(|at| self.rows(id, at))
                    .collect::<Lowered<_>>()?;
                Kernel::Concat {
                    inputs,
                    output: self.value(output),
                }
            }
            Op::GroupNormStats { groups } => Kernel::GroupNormStats {
                input: self.source(id, 0)?,
                groups,
                output: self.value(output),
            },
            Op::GroupNormStatsUpdate { groups } => self.stats_update(id, groups)?,
            Op::NormCoefficients { groups, epsilon } => Kernel::NormCoefficients(NormKernel {
                stats: self.operand_value(id, 0)?,
                gamma: self.weight(id, 1, WeightLayout::Vector)?,
                beta: self.weight(id, 2, WeightLayout::Vector)?,
                groups,
                epsilon,
                output: self.value(output),
            }),
            Op::Tokens | Op::Spatial { .. } => {
                let rows = self.rows(id, 0)?;
                self.values.alias(output, rows);
                return Ok(None);
            }
            Op::CacheRead(slot) if self.is_read_whole(id) => Kernel::ReadSlot {
                slot: plan_slot(slot),
                output: self.value(output),
            },
            Op::CacheRead(_) => return Ok(None),
            Op::CacheWrite(slot) => Kernel::WriteSlot {
                input: self.operand_value(id, 0)?,
                slot: plan_slot(slot),
            },
            Op::Gather => Kernel::Gather {
                input: self.operand_value(id, 0)?,
                output: self.value(output),
            },
            Op::Scatter(_) if self.is_materialized(id) => self.scatter(id)?,
            Op::Scatter(_) => return Ok(None),
            _ => return Err(self.unsupported(id, "no kernel computes it")),
        }))
    }

    fn conv(&mut self, id: NodeId, conv: &Conv) -> Lowered<Kernel> {
        let output = IrValue { node: id, output: 0 };
        let output_type = self.graph.value_type(output).clone();
        let input_type = self
            .graph
            .operand_type(self.graph.operands(id)[0])
            .expect("a map is given");
        let mut sources = vec![self.source(id, 0)?];
        if conv.concat {
            sources.push(self.source(id, 1)?);
        }
        let at = |which| conv.operand_index(which);
        let weight_at = at(ConvOperand::Weight).expect("a convolution has weights");
        let weight_type = self
            .graph
            .operand_type(self.graph.operands(id)[weight_at])
            .expect("weights are given");
        let mut whole_input = input_type.clone();
        let mut dims = whole_input.shape.to_vec();
        dims[1] = weight_type.shape[1];
        whole_input.shape = dims.into();
        let candidates = match output_type.extent {
            // a device computes exactly the active pixels
            Extent::Active(_) | Extent::Around(_) if self.context.target == WeightTarget::Cpu => {
                candidates(conv, &whole_input, &output_type, self.context.table)
            }
            _ => Vec::new(),
        };
        let channels: Vec<usize> = sources
            .iter()
            .map(|source| self.values.channels(source.value))
            .collect();
        let weight = self.weight(id, weight_at, WeightLayout::ConvRows(channels.clone()))?;
        let input_size = [input_type.shape[2], input_type.shape[3]];
        let by_parity = match (is_doubled(conv, input_size), self.context.target) {
            (false, _) => None,
            (true, WeightTarget::Cpu) => Some(weight),
            (true, WeightTarget::Cuda) => Some(self.weight(id, weight_at, WeightLayout::ByParity(channels))?),
        };
        Ok(Kernel::Conv(ConvKernel {
            sources,
            input_size,
            upsample: conv.upsample,
            output_size: [output_type.shape[2], output_type.shape[3]],
            weight,
            by_parity,
            bias: self.optional_weight(id, at(ConvOperand::Bias), WeightLayout::Vector)?,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: [conv.padding.top, conv.padding.left],
            coefficients: self.optional_value(id, at(ConvOperand::Coefficients))?,
            silu: is_silu(conv.activation),
            vector: self.optional_value(id, at(ConvOperand::Vector))?,
            residual: self
                .optional_value(id, at(ConvOperand::Residual))?
                .map(|value| ResidualSource { value }),
            output: self.value(output),
            candidates,
        }))
    }

    fn linear(&mut self, id: NodeId, linear: Linear) -> Lowered<Kernel> {
        let at = |which| linear.operand_index(which);
        let layer_norm = match (linear.layer_norm, at(LinearOperand::Gamma), at(LinearOperand::Beta)) {
            (Some(epsilon), Some(gamma), Some(beta)) => {
                let gamma = self.weight(id, gamma, WeightLayout::Vector)?;
                Some((gamma, self.weight(id, beta, WeightLayout::Vector)?, epsilon))
            }
            _ => None,
        };
        let group = self.siblings(id, linear);
        let parts = group.iter().map(|&id| self.product_part(id));
        let parts = parts.collect::<Lowered<Vec<(IrWeight, Option<IrWeight>)>>>()?;
        let (weight, bias) = self.builder.product(self.graph, &parts, linear.geglu)?;
        let siblings = group[1..].iter().map(|&id| self.value(IrValue { node: id, output: 0 }));
        let siblings = siblings.collect();
        self.merged.extend(&group[1..]);
        self.siblings = group[1..].to_vec();
        Ok(Kernel::Linear(LinearKernel {
            input: self.rows(id, 0)?,
            layer_norm,
            weight,
            bias,
            geglu: linear.geglu,
            residual: self
                .optional_value(id, at(LinearOperand::Residual))?
                .map(|value| ResidualSource { value }),
            output: self.value(IrValue { node: id, output: 0 }),
            siblings,
        }))
    }

    /// Products that a device computes at once, this one first: plain ones of the same rows, e.g. queries, keys and
    /// values.
    fn siblings(&self, id: NodeId, linear: Linear) -> Vec<NodeId> {
        let plain = |linear: &Linear| !linear.geglu && !linear.residual && linear.layer_norm.is_none();
        let Some(input) = self.graph.operands(id)[0].value() else {
            return vec![id];
        };
        if self.context.target == WeightTarget::Cpu || !plain(&linear) {
            return vec![id];
        }
        let extent = self.graph.node(id).outputs()[0].extent;
        let users = self.graph.uses(input);
        let others = users.filter(|&(user, position)| {
            let is_plain = matches!(self.graph.op(user), Op::Linear(linear) if plain(linear));
            let is_new = user != id && position == 0 && !self.merged.contains(&user) && !self.lowered.contains(&user);
            is_plain && is_new && self.graph.node(user).outputs()[0].extent == extent && self.is_native(user)
        });
        std::iter::once(id).chain(others.map(|(user, _)| user)).collect()
    }

    fn product_part(&self, id: NodeId) -> Lowered<(IrWeight, Option<IrWeight>)> {
        let Op::Linear(linear) = self.graph.op(id) else {
            unreachable!("siblings are linears")
        };
        let operand = |at: usize| self.graph.operands(id)[at].weight();
        let missing = || self.unsupported(id, "a value stands where a weight is expected");
        let bias = linear.operand_index(LinearOperand::Bias);
        let bias = bias.map(|at| operand(at).ok_or_else(missing)).transpose()?;
        Ok((operand(1).ok_or_else(missing)?, bias))
    }

    fn attention(&mut self, id: NodeId, heads: usize, scale: f64) -> Lowered<Kernel> {
        let (k, v) = (self.source(id, 1)?, self.source(id, 2)?);
        Ok(Kernel::Attention(AttentionKernel {
            q: self.rows(id, 0)?,
            k: k.value,
            v: v.value,
            k_outside: k.outside,
            v_outside: v.outside,
            heads,
            scale,
            output: self.value(IrValue { node: id, output: 0 }),
        }))
    }

    fn controlled_attention(&mut self, id: NodeId, heads: usize, scale: f64) -> Lowered<Kernel> {
        Ok(Kernel::ControlledAttention(ControlledAttentionKernel {
            q: self.operand_value(id, 0)?,
            k: self.operand_value(id, 1)?,
            v: self.operand_value(id, 2)?,
            recorded: self.operand_value(id, 3)?,
            mapper: self.operand_value(id, 4)?,
            blend: self.operand_value(id, 5)?,
            weight: self.operand_value(id, 6)?,
            heads,
            scale,
            output: self.value(IrValue { node: id, output: 0 }),
        }))
    }

    /// Ids to rows of a table, or rows with a constant added.
    fn embedding(&mut self, id: NodeId) -> Lowered<Kernel> {
        let output = IrValue { node: id, output: 0 };
        match Embedding::of(self.graph, id) {
            Some(Embedding::Lookup) => Ok(Kernel::Lookup {
                ids: self.operand_value(id, 1)?,
                table: self.weight(id, 0, WeightLayout::Rows)?,
                output: self.value(output),
            }),
            Some(Embedding::Sum { value, constant }) => Ok(Kernel::AddConstant {
                input: self.rows(id, value)?,
                constant: self.weight(id, constant, WeightLayout::Rows)?,
                output: self.value(output),
            }),
            None => Err(self.unsupported(id, "no kernel computes it")),
        }
    }

    /// The first summand has the result's extent.
    fn add(&mut self, id: NodeId) -> Lowered<Kernel> {
        let extent = self.graph.node(id).outputs()[0].extent;
        let has_extent = |at: usize| {
            self.graph
                .operand_type(self.graph.operands(id)[at])
                .is_some_and(|value| value.extent == extent)
        };
        let (a, b) = if has_extent(0) { (0, 1) } else { (1, 0) };
        let a = self.rows(id, a)?;
        let b = ResidualSource {
            value: self.operand_value(id, b)?,
        };
        Ok(Kernel::Add {
            a,
            b,
            output: self.value(IrValue { node: id, output: 0 }),
        })
    }

    fn stats_update(&mut self, id: NodeId, groups: usize) -> Lowered<Kernel> {
        let (recorded, recorded_stats) = (self.slot_of(id, 1)?, self.slot_of(id, 2)?);
        Ok(Kernel::GroupNormStatsUpdate(StatsUpdate {
            input: self.operand_value(id, 0)?,
            recorded,
            recorded_stats,
            groups,
            output: self.value(IrValue { node: id, output: 0 }),
        }))
    }

    fn scatter(&mut self, id: NodeId) -> Lowered<Kernel> {
        Ok(Kernel::Scatter {
            rows: self.operand_value(id, 0)?,
            base: Some(self.slot_of(id, 1)?),
            output: self.value(IrValue { node: id, output: 0 }),
        })
    }

    /// Where a kernel that handles the cache itself reads a map: a scatter is not computed but looked through.
    fn source(&mut self, id: NodeId, position: usize) -> Lowered<ConvSource> {
        let value = self.ir_value(id, position)?;
        match (self.graph.op(value.node), self.graph.operands(value.node)) {
            (Op::Scatter(_), [Operand::Value(active), _]) if looks_through(self.graph, id, position) => {
                let outside = Some(self.slot_of(value.node, 1)?);
                Ok(ConvSource {
                    value: self.value(*active),
                    outside,
                })
            }
            _ => Ok(ConvSource {
                value: self.value(value),
                outside: None,
            }),
        }
    }

    /// An operand with the extent of the result: full rows are gathered for an active result.
    fn rows(&mut self, id: NodeId, position: usize) -> Lowered<ValueId> {
        let value = self.ir_value(id, position)?;
        let wanted = self.graph.node(id).outputs()[0].extent;
        let value_type = self.graph.value_type(value).clone();
        if wanted == Extent::Full || value_type.extent != Extent::Full {
            return Ok(self.value(value));
        }
        if let Some(known) = self.gathered.get(&(value, wanted)) {
            return Ok(*known);
        }
        let input = self.value(value);
        let stage = self.stages.get(id);
        let output = self.values.anonymous(&value_type.with_extent(wanted), stage);
        let origin = self.graph.origin(value.node).clone().because("packed for sparse users");
        self.push(Kernel::Gather { input, output }, &origin, stage, 0, [0; 3]);
        self.gathered.insert((value, wanted), output);
        Ok(output)
    }

    fn ir_value(&self, id: NodeId, position: usize) -> Lowered<IrValue> {
        let operand = self.graph.operands(id)[position];
        operand
            .value()
            .ok_or_else(|| self.unsupported(id, "a constant stands where a value is expected"))
    }

    fn operand_value(&mut self, id: NodeId, position: usize) -> Lowered<ValueId> {
        let value = self.ir_value(id, position)?;
        Ok(self.value(value))
    }

    fn optional_value(&mut self, id: NodeId, position: Option<usize>) -> Lowered<Option<ValueId>> {
        position.map(|position| self.operand_value(id, position)).transpose()
    }

    fn weight(&mut self, id: NodeId, position: usize, layout: WeightLayout) -> Lowered<WeightId> {
        match self.graph.operands(id)[position].weight() {
            Some(weight) => self.builder.weight(self.graph, weight, layout),
            None => Err(self.unsupported(id, "a value stands where a weight is expected")),
        }
    }

    fn optional_weight(
        &mut self,
        id: NodeId,
        position: Option<usize>,
        layout: WeightLayout,
    ) -> Lowered<Option<WeightId>> {
        position
            .map(|position| self.weight(id, position, layout.clone()))
            .transpose()
    }

    fn slot_of(&self, id: NodeId, position: usize) -> Lowered<SlotId> {
        let recorded = self.ir_value(id, position)?;
        match self.graph.op(recorded.node) {
            Op::CacheRead(slot) => Ok(plan_slot(*slot)),
            Op::Repeat { .. } if repeats_slot(self.graph, recorded.node) => self.slot_of(recorded.node, 0),
            _ => Err(self.unsupported(id, "what stands outside the active set is not recorded")),
        }
    }

    /// Whether someone needs the scattered map itself: kernels that look through it do not.
    fn is_materialized(&self, id: NodeId) -> bool {
        let mut uses = self.graph.uses(IrValue { node: id, output: 0 });
        uses.any(|(user, position)| !looks_through(self.graph, user, position))
    }

    /// Whether someone reads the slot itself: scatters and updates name it instead.
    fn is_read_whole(&self, id: NodeId) -> bool {
        let mut uses = self.graph.uses(IrValue { node: id, output: 0 });
        uses.any(|(user, _)| match self.graph.op(user) {
            Op::Scatter(_) | Op::GroupNormStatsUpdate { .. } => false,
            Op::Repeat { .. } => self.is_read_whole(user),
            _ => true,
        })
    }
}

fn looks_through(graph: &Graph, user: NodeId, position: usize) -> bool {
    let output = graph.node(user).outputs().first();
    let active = output.is_some_and(|output| output.extent != Extent::Full);
    match graph.op(user) {
        Op::Conv(conv) => active && (position == 0 || (conv.concat && position == 1)),
        Op::Attention { .. } => active && position > 0 && are_keys_alike(graph, user),
        Op::GroupNormStats { .. } => true,
        _ => false,
    }
}

/// Whether keys and values are active rows over recorded ones both: a kernel reads both in one way.
fn are_keys_alike(graph: &Graph, attention: NodeId) -> bool {
    let [keys, values] = [1, 2].map(|position| {
        let scatter = graph.operands(attention)[position].value()?.node;
        match graph.op(scatter) {
            Op::Scatter(_) => graph
                .operand_type(graph.operands(scatter)[0])
                .map(|active| active.extent),
            _ => None,
        }
    });
    keys.is_some() && keys == values
}

fn is_silu(activation: Activation) -> bool {
    activation == Activation::Silu
}

fn plan_slot(slot: IrSlot) -> SlotId {
    SlotId(slot.0)
}

/// How each slot that a graph reads is read, from the demands of the scatters over it; read whole when anything else
/// reads it.
pub fn slot_demands(graph: &Graph) -> HashMap<IrSlot, Demand> {
    let mut demands: HashMap<IrSlot, Demand> = HashMap::new();
    for id in graph.ids() {
        let Op::CacheRead(slot) = *graph.op(id) else { continue };
        let demand = demand_of_users(graph, id);
        let known = demands.entry(slot).or_insert(demand);
        *known = known.or(demand);
    }
    demands
}

fn demand_of_users(graph: &Graph, recorded: NodeId) -> Demand {
    let users = graph.uses(IrValue {
        node: recorded,
        output: 0,
    });
    let demands = users.map(|(user, _)| match *graph.op(user) {
        Op::Scatter(demand) => demand,
        Op::GroupNormStatsUpdate { .. } => Demand::Halo(0),
        Op::Repeat { .. } => demand_of_users(graph, user),
        _ => Demand::Full,
    });
    demands.reduce(Demand::or).unwrap_or(Demand::Full)
}
