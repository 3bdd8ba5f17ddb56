//! Vocabulary of the matchers: producers, constants either way round, replacement.

use fisec_ir::{Graph, NodeId, OnnxOp, Op, Operand, Origin, ValueId, ValueType, WeightInfo};
use fisec_tensor::{Constant, DType, Shape, Transform};

/// Constants with more elements are never read while matching.
const READABLE: usize = 1 << 16;
/// Nor are those of which more bytes would have to be converted: a small part of something large.
const READABLE_WORK: usize = 64 * READABLE;

fn is_readable(constant: &Constant) -> bool {
    constant.shape().elements() <= READABLE && constant.work() <= READABLE_WORK
}

/// The constant behind an operand.
pub(super) fn constant(graph: &Graph, operand: Operand) -> Option<&Constant> {
    Some(&graph.weight(operand.weight()?).data)
}

/// The integers of a small constant.
pub(super) fn weight_ints(graph: &Graph, operand: Operand) -> Option<Vec<i64>> {
    let constant = constant(graph, operand)?;
    is_readable(constant).then(|| constant.materialize().to_i64_vec())
}

/// The values of a small constant.
pub(super) fn weight_floats(graph: &Graph, operand: Operand) -> Option<Vec<f64>> {
    let constant = constant(graph, operand)?;
    is_readable(constant).then(|| constant.materialize().to_f64_vec())
}

/// The value that all elements of a constant have: a scalar or a fill.
pub(super) fn scalar(graph: &Graph, operand: Operand) -> Option<f64> {
    let constant = constant(graph, operand)?;
    constant.fill_value().or_else(|| {
        (constant.shape().elements() == 1 && is_readable(constant)).then(|| constant.materialize().to_f64_vec()[0])
    })
}

/// The ONNX operator that computes a value.
pub(super) fn onnx(graph: &Graph, value: ValueId) -> Option<&OnnxOp> {
    match graph.op(value.node) {
        Op::Onnx(op) => Some(op),
        _ => None,
    }
}

/// Whether the standard operator `op_type` computes the value.
pub(super) fn is(graph: &Graph, value: ValueId, op_type: &str) -> bool {
    onnx(graph, value).is_some_and(|op| op.is(op_type))
}

/// The node, when the standard operator `op_type` computes the operand.
pub(super) fn made_by(graph: &Graph, operand: Operand, op_type: &str) -> Option<NodeId> {
    let value = operand.value()?;
    is(graph, value, op_type).then_some(value.node)
}

/// The operand at a position, when it is a value.
pub(super) fn value_at(graph: &Graph, node: NodeId, position: usize) -> Option<ValueId> {
    graph.operands(node).get(position)?.value()
}

/// The first output of a node.
pub(super) fn result(node: NodeId) -> ValueId {
    ValueId { node, output: 0 }
}

/// The operands of a two-operand node, both ways round.
pub(super) fn either_way(graph: &Graph, node: NodeId) -> [(Operand, Operand); 2] {
    match graph.operands(node) {
        &[a, b] => [(a, b), (b, a)],
        _ => [(Operand::Absent, Operand::Absent); 2],
    }
}

/// A value and a constant, in whichever order the node has them.
pub(super) fn with_constant(graph: &Graph, node: NodeId) -> Option<(ValueId, Operand)> {
    either_way(graph, node)
        .into_iter()
        .find_map(|(a, b)| Some((a.value()?, b.weight().map(Operand::from)?)))
}

/// A value and a scalar constant, in whichever order the node has them.
pub(super) fn with_scalar(graph: &Graph, node: NodeId) -> Option<(ValueId, f64)> {
    let (value, weight) = with_constant(graph, node)?;
    Some((value, scalar(graph, weight)?))
}

/// The value that `value` is a multiple of, and the factor: through `Mul` and `Div` by a scalar.
pub(super) fn scaled(graph: &Graph, value: ValueId) -> Option<(ValueId, f64)> {
    if is(graph, value, "Mul") {
        return with_scalar(graph, value.node);
    }
    if !is(graph, value, "Div") {
        return None;
    }
    let factor = scalar(graph, *graph.operands(value.node).get(1)?)?;
    Some((value_at(graph, value.node, 0)?, 1.0 / factor))
}

/// Whether two numbers agree up to the rounding of half-precision constants.
pub(super) fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-3 * b.abs().max(1e-12)
}

/// The decimal number that a single-precision attribute was written as: `1e-5`, not `9.99999974e-6`.
pub(super) fn exact(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Operators that a chain of casts or factors is followed through: exporters write one or two.
pub(super) const REACH: usize = 16;

/// The value before a `Cast` between floating-point types, or the value itself; through [`REACH`] casts at most.
pub(super) fn before_casts(graph: &Graph, mut value: ValueId) -> ValueId {
    for _ in 0..REACH {
        let is_cast = is(graph, value, "Cast") && graph.value_type(value).dtype.is_float();
        match value_at(graph, value.node, 0).filter(|_| is_cast) {
            Some(source) if graph.value_type(source).dtype.is_float() => value = source,
            _ => break,
        }
    }
    value
}

/// An operator of the standard domain with attributes.
pub(super) fn standard(op_type: &str, attributes: &[(&str, fisec_ir::Attribute)]) -> Op {
    Op::Onnx(OnnxOp {
        domain: String::new(),
        op_type: op_type.into(),
        opset: 17,
        attributes: attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    })
}

/// Rewrites a graph in the name of one pass.
pub(super) struct Rewriter<'g> {
    pub graph: &'g mut Graph,
    pub pass: &'static str,
    pub changes: usize,
}

impl<'g> Rewriter<'g> {
    pub fn new(graph: &'g mut Graph, pass: &'static str) -> Self {
        Rewriter {
            graph,
            pass,
            changes: 0,
        }
    }

    /// Removes what died and reports.
    pub fn finish(self) -> crate::Changes {
        self.graph.prune();
        crate::Changes(self.changes)
    }

    /// The merged origin of some nodes.
    pub fn origin(&self, sources: &[NodeId]) -> Origin {
        Origin::merged(self.pass, sources.iter().map(|&node| self.graph.origin(node)))
    }

    /// A new value that stands for the nodes `sources`.
    pub fn add(&mut self, op: Op, operands: Vec<Operand>, ty: ValueType, sources: &[NodeId]) -> ValueId {
        let origin = self.origin(sources);
        self.graph.add_value(op, operands, ty, origin)
    }

    /// Lets the users of `old` read `new`.
    pub fn forward(&mut self, old: ValueId, new: impl Into<Operand>) {
        self.graph.replace_uses(old, new);
        self.changes += 1;
    }

    /// Replaces `old` by an operator with the same type.
    pub fn replace(&mut self, old: ValueId, op: Op, operands: Vec<Operand>, sources: &[NodeId]) -> ValueId {
        let ty = self.graph.value_type(old).clone();
        let new = self.add(op, operands, ty, sources);
        self.forward(old, new);
        new
    }

    /// The value under another shape of equally many elements.
    pub fn reshaped(&mut self, value: ValueId, shape: &Shape, sources: &[NodeId]) -> ValueId {
        let ty = self.graph.value_type(value).clone();
        if ty.shape == *shape {
            return value;
        }
        let target: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        let weight = self.shape_weight(target);
        let ty = ValueType::full(ty.dtype, shape.clone());
        self.add(standard("Reshape", &[]), vec![value.into(), weight], ty, sources)
    }

    /// The value with its axes permuted.
    pub fn permuted(&mut self, value: ValueId, order: &[usize], sources: &[NodeId]) -> ValueId {
        let ty = self.graph.value_type(value).clone();
        let shape: Shape = order.iter().map(|&axis| ty.shape[axis]).collect();
        let perm = fisec_ir::Attribute::Ints(order.iter().map(|&axis| axis as i64).collect());
        let ty = ValueType::full(ty.dtype, shape);
        self.add(
            standard("Transpose", &[("perm", perm)]),
            vec![value.into()],
            ty,
            sources,
        )
    }

    /// The value in another element type.
    pub fn cast(&mut self, value: ValueId, dtype: DType, sources: &[NodeId]) -> ValueId {
        let ty = self.graph.value_type(value).clone();
        if ty.dtype == dtype {
            return value;
        }
        let to = fisec_ir::Attribute::Int(i64::from(fisec_onnx::onnx_number(dtype)));
        let ty = ValueType::full(dtype, ty.shape);
        self.add(standard("Cast", &[("to", to)]), vec![value.into()], ty, sources)
    }

    /// A weight made of another one; the same weight when nothing changes.
    pub fn derived(&mut self, operand: Operand, transforms: &[Transform]) -> Operand {
        let Operand::Weight(id) = operand else { return operand };
        let info = self.graph.weight(id).clone();
        let data = transforms
            .iter()
            .fold(info.data.clone(), |data, transform| data.transformed(transform.clone()));
        if (data.shape(), data.dtype()) == (info.data.shape(), info.data.dtype()) && no_change(transforms) {
            return operand;
        }
        self.graph.add_weight(WeightInfo { name: info.name, data }).into()
    }

    /// A weight as a vector of `dtype`.
    pub fn vector(&mut self, operand: Operand, dtype: DType) -> Operand {
        let Some(constant) = constant(self.graph, operand) else {
            return operand;
        };
        let elements = constant.shape().elements();
        self.derived(
            operand,
            &[Transform::Reshape(vec![elements].into()), Transform::Cast(dtype)],
        )
    }

    /// The sum of two constant vectors; `None` when they are too large to be read.
    pub fn sum(&mut self, a: Operand, b: Operand) -> Option<Operand> {
        let name = self.graph.weight(a.weight()?).name.clone();
        let read = |operand| constant(self.graph, operand).filter(|constant| is_readable(constant));
        let [a, b] = [a, b].map(|operand| read(operand).map(Constant::materialize));
        let (a, b) = (a?, b?);
        let values: Vec<f64> = a.to_f64_vec().iter().zip(b.to_f64_vec()).map(|(a, b)| a + b).collect();
        let data = fisec_tensor::HostTensor::from_f64(a.dtype(), a.shape().clone(), &values)
            .ok()?
            .into();
        Some(self.graph.add_weight(WeightInfo { name, data }).into())
    }

    fn shape_weight(&mut self, target: Vec<i64>) -> Operand {
        let text: Vec<String> = target.iter().map(i64::to_string).collect();
        let name = format!("shape[{}]", text.join(","));
        if let Some(known) = self.graph.weight_named(&name) {
            return known.into();
        }
        let data = fisec_tensor::HostTensor::from_i64(vec![target.len()], target).into();
        self.graph.add_weight(WeightInfo { name, data }).into()
    }
}

fn no_change(transforms: &[Transform]) -> bool {
    transforms
        .iter()
        .all(|transform| matches!(transform, Transform::Reshape(_) | Transform::Cast(_)))
}
