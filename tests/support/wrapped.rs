//! Random U-Nets with operators of every kind of dependence between their own.

use fisec_ir::{Attribute, Graph, OnnxOp, Op, Operand, Origin, ValueId, WeightInfo};
use fisec_onnx::unknown_type;
use fisec_passes::canonical::infer_shapes;
use fisec_tensor::HostTensor;

use super::unet::Random;

/// A value of the same shape made of a value, or none where the shape does not allow it.
pub type Wrapper = fn(&mut Writer<'_>, ValueId) -> Option<ValueId>;

/// All kinds, with what they are.
pub const WRAPPERS: &[(&str, Wrapper)] = &[
    ("sigmoid", |w, x| Some(w.unary("Sigmoid", x))),
    ("guard", guard),
    ("constant mask", constant_mask),
    ("sum per place", sum_per_place),
    ("sum per image", sum_per_image),
    ("scatter images", scatter_images),
    ("scatter rows", scatter_rows),
    ("swap images", |w, x| Some(w.slice(x, 0, -1, i64::MIN, -1))),
    ("flip", |w, x| Some(w.slice(x, w.last(x).min(2), -1, i64::MIN, -1))),
    ("flip last", |w, x| Some(w.slice(x, w.last(x), -1, i64::MIN, -1))),
    ("roll", roll),
    ("shift", shift),
    ("pick rows", pick_rows),
    ("pick elements", pick_elements),
    ("transpose", transpose),
    ("regroup", regroup),
    ("regroup images", regroup_images),
    ("running sum", running_sum),
    ("mean of the map", mean),
    ("softmax over places", softmax_over_places),
    ("softmax over channels", softmax_over_channels),
    ("sorted", sorted),
    ("largest place", largest),
    ("product of the last axis", product),
    ("mixed rows", mixed_rows),
    ("channels as tokens", channels_as_tokens),
    ("heads one by one", heads),
    ("concatenated rows", concatenated),
    ("quantized", quantized),
];

/// Kinds whose results jump: a rounding error in front of one may be none behind it, or a large one.
pub const JUMPS: &[&str] = &["largest place", "quantized"];

/// `graph` with `count` wrappers behind values that are drawn. Returns what they are.
pub fn wrap(graph: &mut Graph, count: usize, random: &mut Random) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    while kinds.len() < count {
        let values: Vec<ValueId> = graph
            .ids()
            .into_iter()
            .filter(|&id| matches!(graph.op(id), Op::Conv(_) | Op::Add | Op::Linear(_) | Op::GroupNorm(_)))
            .map(|node| ValueId { node, output: 0 })
            .filter(|&value| graph.value_type(value).shape.len() > 2)
            .collect();
        let value = values[random.bits() as usize % values.len()];
        let (name, wrapper) = WRAPPERS[random.bits() as usize % WRAPPERS.len()];
        if wrap_value(graph, value, wrapper, random) {
            kinds.push(name);
        }
    }
    kinds
}

/// Puts a wrapper behind a value; `false` where the shape does not allow it.
pub fn wrap_value(graph: &mut Graph, value: ValueId, wrapper: Wrapper, random: &mut Random) -> bool {
    let users = graph.users(value);
    let mut writer = Writer {
        graph: &mut *graph,
        random,
    };
    let Some(wrapped) = wrapper(&mut writer, value) else {
        graph.prune();
        return false;
    };
    for (user, position) in users {
        graph.set_operand(user, position, wrapped.into());
    }
    infer_shapes(graph).expect("known operators");
    assert_eq!(graph.value_type(wrapped), graph.value_type(value), "the shape stays");
    true
}

/// Adds ONNX operators to a graph.
pub struct Writer<'a> {
    graph: &'a mut Graph,
    random: &'a mut Random,
}

impl Writer<'_> {
    fn shape(&self, x: ValueId) -> Vec<usize> {
        self.graph.value_type(x).shape.to_vec()
    }

    fn last(&self, x: ValueId) -> usize {
        self.shape(x).len() - 1
    }

    /// Places: rows and columns of a map, or tokens.
    fn places(&self, x: ValueId) -> Vec<usize> {
        match self.shape(x).len() {
            4 => vec![2, 3],
            _ => vec![1],
        }
    }

    fn channels(&self, x: ValueId) -> usize {
        match self.shape(x).len() {
            4 => 1,
            _ => 2,
        }
    }

    fn nodes(
        &mut self,
        op_type: &str,
        attributes: &[(&str, Attribute)],
        operands: Vec<Operand>,
        outputs: usize,
    ) -> ValueId {
        let op = Op::Onnx(OnnxOp {
            domain: String::new(),
            op_type: op_type.into(),
            opset: 17,
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        });
        let origin = Origin::imported(format!("wrapped.{op_type}.{}", self.graph.len()));
        let node = self.graph.add(op, operands, vec![unknown_type(); outputs], origin);
        infer_shapes(self.graph).expect("known operators");
        ValueId { node, output: 0 }
    }

    fn node(&mut self, op_type: &str, attributes: &[(&str, Attribute)], operands: Vec<Operand>) -> ValueId {
        self.nodes(op_type, attributes, operands, 1)
    }

    fn weight(&mut self, data: HostTensor) -> Operand {
        let name = format!("wrapped{}", self.graph.weights().len());
        let data = data.into();
        self.graph.add_weight(WeightInfo { name, data }).into()
    }

    fn ints(&mut self, values: &[i64]) -> Operand {
        self.weight(HostTensor::from_i64(vec![values.len()], values.to_vec()))
    }

    fn scalar(&mut self, value: f32) -> Operand {
        self.weight(HostTensor::from_f32(vec![], vec![value]))
    }

    fn drawn(&mut self, shape: &[usize]) -> Operand {
        let data = self.random.tensor(shape, 0.0, 1.0);
        self.weight(data)
    }

    fn unary(&mut self, op_type: &str, x: ValueId) -> ValueId {
        self.node(op_type, &[], vec![x.into()])
    }

    fn add(&mut self, a: ValueId, b: impl Into<Operand>) -> ValueId {
        self.node("Add", &[], vec![a.into(), b.into()])
    }

    fn scaled(&mut self, x: ValueId, factor: f32) -> ValueId {
        let factor = self.scalar(factor);
        self.node("Mul", &[], vec![x.into(), factor])
    }

    fn slice(&mut self, x: ValueId, axis: usize, start: i64, end: i64, step: i64) -> ValueId {
        let bounds = [start, end, axis as i64, step].map(|bound| self.ints(&[bound]));
        self.node("Slice", &[], [vec![x.into()], bounds.to_vec()].concat())
    }

    fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let shape = self.ints(&shape);
        self.node("Reshape", &[], vec![x.into(), shape])
    }

    fn permute(&mut self, x: ValueId, order: &[i64]) -> ValueId {
        self.node(
            "Transpose",
            &[("perm", Attribute::Ints(order.to_vec()))],
            vec![x.into()],
        )
    }

    fn join(&mut self, parts: &[ValueId], axis: usize) -> ValueId {
        let operands = parts.iter().map(|&part| part.into()).collect();
        self.node("Concat", &[("axis", Attribute::Int(axis as i64))], operands)
    }
}

/// NaN becomes zero.
fn guard(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let missing = w.unary("IsNaN", x);
    let zero = w.scalar(0.0);
    Some(w.node("Where", &[], vec![missing.into(), zero, x.into()]))
}

fn constant_mask(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let mut shape = w.shape(x);
    (shape[0], shape[w.channels(x)]) = (1, 1);
    let bits = (0..shape.iter().product())
        .map(|_| (w.random.bits() % 2) as u8)
        .collect();
    let mask = w.weight(HostTensor::from_pod(fisec_tensor::DType::Bool, shape, bits));
    let other = w.unary("Tanh", x);
    Some(w.node("Where", &[], vec![mask, x.into(), other.into()]))
}

fn sum_per_place(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let mut shape = w.shape(x);
    shape[0] = 1;
    let constant = w.drawn(&shape);
    Some(w.add(x, constant))
}

fn sum_per_image(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let mut shape = vec![1; w.shape(x).len()];
    shape[0] = w.shape(x)[0];
    let constant = w.drawn(&shape);
    Some(w.add(x, constant))
}

/// The second image's place is taken by the first one.
fn scatter_images(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let first = w.slice(x, 0, 0, 1, 1);
    let changed = w.unary("Tanh", first);
    let places = w.weight(HostTensor::from_i64(vec![1, 1], vec![1]));
    Some(w.node("ScatterND", &[], vec![x.into(), places, changed.into()]))
}

/// Some rows or tokens of the first image are written over by those behind them.
fn scatter_rows(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let shape = w.shape(x);
    let rank = shape.len();
    let (axis, inner) = (rank - 2, shape[rank - 1]);
    let ahead: usize = shape[1..axis].iter().product();
    let row = w.slice(x, axis, (shape[axis] / 2) as i64, (shape[axis] / 2 + 1) as i64, 1);
    let row = w.slice(row, 0, 0, 1, 1);
    let row = w.reshape(row, &[ahead, inner]);
    let places: Vec<i64> = (0..ahead as i64)
        .flat_map(|channel| match rank {
            4 => vec![0, channel, 0],
            _ => vec![0, 0],
        })
        .collect();
    let places = w.weight(HostTensor::from_i64(vec![ahead, rank - 1], places));
    Some(w.node("ScatterND", &[], vec![x.into(), places, row.into()]))
}

fn roll(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = *w.places(x).last()?;
    let (tail, head) = (w.slice(x, axis, 2, i64::MAX, 1), w.slice(x, axis, 0, 2, 1));
    (w.shape(x)[axis] > 2).then(|| w.join(&[tail, head], axis))
}

/// As many zeros before as are cut off behind.
fn shift(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let (axis, rank) = (w.places(x)[0], w.shape(x).len());
    let mut pads = vec![0; 2 * rank];
    (pads[axis], pads[rank + axis]) = (1, -1);
    let pads = w.ints(&pads);
    Some(w.node("Pad", &[], vec![x.into(), pads]))
}

fn pick_rows(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = w.places(x)[0];
    let size = w.shape(x)[axis] as i64;
    let places: Vec<i64> = (0..size).map(|place| (place * 5 + 1) % size).collect();
    let places = w.ints(&places);
    Some(w.node(
        "Gather",
        &[("axis", Attribute::Int(axis as i64))],
        vec![x.into(), places],
    ))
}

fn pick_elements(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let (shape, axis) = (w.shape(x), w.places(x)[0]);
    let count: usize = shape.iter().product();
    let places = (0..count)
        .map(|_| (w.random.bits() % shape[axis] as u64) as i64)
        .collect();
    let places = w.weight(HostTensor::from_i64(shape, places));
    let attributes = [("axis", Attribute::Int(axis as i64))];
    Some(w.node("GatherElements", &attributes, vec![x.into(), places]))
}

/// Rows become columns.
fn transpose(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    match w.shape(x)[..] {
        [_, _, rows, columns] if rows == columns => Some(w.permute(x, &[0, 1, 3, 2])),
        [_, tokens, channels] if tokens == channels => Some(w.permute(x, &[0, 2, 1])),
        _ => None,
    }
}

/// Elements in their order under another shape and back, with something done to them in between.
fn regroup(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let shape = w.shape(x);
    let flat = w.reshape(x, &[shape[0], shape[1..].iter().product()]);
    let changed = w.unary("Tanh", flat);
    Some(w.reshape(changed, &shape))
}

/// Images and places change sides.
fn regroup_images(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let shape = w.shape(x);
    let order: Vec<i64> = match shape.len() {
        4 => vec![2, 1, 0, 3],
        _ => vec![1, 0, 2],
    };
    let turned = w.permute(x, &order);
    Some(w.reshape(turned, &shape))
}

fn running_sum(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = w.places(x)[0];
    let place = w.weight(HostTensor::from_i64(vec![], vec![axis as i64]));
    let sum = w.node("CumSum", &[], vec![x.into(), place]);
    let size = w.shape(x)[axis];
    Some(w.scaled(sum, 1.0 / size as f32))
}

fn mean(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axes = w.places(x).iter().map(|&axis| axis as i64).collect();
    let mean = w.node("ReduceMean", &[("axes", Attribute::Ints(axes))], vec![x.into()]);
    Some(w.add(x, mean))
}

fn softmax_over_places(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = *w.places(x).last()? as i64;
    Some(w.node("Softmax", &[("axis", Attribute::Int(axis))], vec![x.into()]))
}

fn softmax_over_channels(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = w.channels(x) as i64;
    Some(w.node("Softmax", &[("axis", Attribute::Int(axis))], vec![x.into()]))
}

fn sorted(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = w.places(x)[0];
    let count = w.shape(x)[axis] as i64;
    let count = w.ints(&[count]);
    Some(w.nodes(
        "TopK",
        &[("axis", Attribute::Int(axis as i64))],
        vec![x.into(), count],
        2,
    ))
}

/// The place of the largest element of each row, added as a number.
fn largest(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = w.places(x)[0] as i64;
    let place = w.node("ArgMax", &[("axis", Attribute::Int(axis))], vec![x.into()]);
    let number = w.node("Cast", &[("to", Attribute::Int(1))], vec![place.into()]);
    let small = w.scaled(number, 0.1);
    Some(w.add(x, small))
}

/// A constant matrix over the last axis: of tokens their channels, of a map its columns.
fn product(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let size = w.shape(x)[w.last(x)];
    let matrix = w.drawn(&[size, size]);
    let product = w.node("MatMul", &[], vec![x.into(), matrix]);
    Some(w.scaled(product, 1.0 / size as f32))
}

/// A constant matrix over rows or tokens.
fn mixed_rows(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let (size, rank) = (w.shape(x)[w.places(x)[0]], w.shape(x).len());
    let matrix = w.drawn(&[size, size]);
    let equation = if rank == 4 { "nchw,hk->nckw" } else { "blc,lk->bkc" };
    let attributes = [("equation", Attribute::String(equation.into()))];
    let mixed = w.node("Einsum", &attributes, vec![x.into(), matrix]);
    Some(w.scaled(mixed, 1.0 / size as f32))
}

/// Channels stand where tokens do, so that the shape may look like another level's tokens: a norm and a product over what
/// are places.
fn channels_as_tokens(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let shape = w.shape(x);
    let turned = match shape[..] {
        [images, channels, rows, columns] => w.reshape(x, &[images, channels, rows * columns]),
        _ => w.permute(x, &[0, 2, 1]),
    };
    let size = w.shape(turned)[2];
    let (gamma, beta) = (w.drawn(&[size]), w.drawn(&[size]));
    let norm = w.node("LayerNormalization", &[], vec![turned.into(), gamma, beta]);
    let matrix = w.drawn(&[size, size]);
    let mixed = w.node("MatMul", &[], vec![norm.into(), matrix]);
    let mixed = w.scaled(mixed, 1.0 / size as f32);
    let sum = w.add(mixed, turned);
    Some(match shape.len() {
        4 => w.reshape(sum, &shape),
        _ => w.permute(sum, &[0, 2, 1]),
    })
}

/// Self-attention of one head at a time, written into zeros.
fn heads(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let [images, tokens, channels] = w.shape(x)[..] else {
        return None;
    };
    let width = channels / 2;
    let split = w.reshape(x, &[images, tokens, 2, width]);
    let split = w.permute(split, &[0, 2, 1, 3]);
    let split = w.reshape(split, &[images * 2, tokens, width]);
    let zeros = vec![0.0; images * 2 * tokens * width];
    let mut joined = w.weight(HostTensor::from_f32(vec![images * 2, tokens, width], zeros));
    for head in 0..images as i64 * 2 {
        let part = w.slice(split, 0, head, head + 1, 1);
        let turned = w.permute(part, &[0, 2, 1]);
        let scores = w.node("MatMul", &[], vec![part.into(), turned.into()]);
        let shares = w.node("Softmax", &[("axis", Attribute::Int(-1))], vec![scores.into()]);
        let attended = w.node("MatMul", &[], vec![shares.into(), part.into()]);
        let place = w.weight(HostTensor::from_i64(vec![1, 1], vec![head]));
        joined = w.node("ScatterND", &[], vec![joined, place, attended.into()]).into();
    }
    let joined = w.reshape(joined.value()?, &[images, 2, tokens, width]);
    let joined = w.permute(joined, &[0, 2, 1, 3]);
    Some(w.reshape(joined, &[images, tokens, channels]))
}

/// Twice as many rows, of which the middle ones stay.
fn concatenated(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let axis = w.places(x)[0];
    let (half, size) = (w.shape(x)[axis] / 2, w.shape(x)[axis]);
    let other = w.unary("Tanh", x);
    let twice = w.join(&[x, other], axis);
    Some(w.slice(twice, axis, half as i64, (half + size) as i64, 1))
}

/// Rounded to integers and back.
fn quantized(w: &mut Writer<'_>, x: ValueId) -> Option<ValueId> {
    let soft = w.unary("Tanh", x);
    let (scale, zero) = (
        w.scalar(0.25),
        w.weight(HostTensor::from_pod(fisec_tensor::DType::U8, vec![], vec![128u8])),
    );
    let integers = w.node("QuantizeLinear", &[], vec![soft.into(), scale, zero]);
    let numbers = w.node("DequantizeLinear", &[], vec![integers.into(), scale, zero]);
    Some(w.add(soft, numbers))
}
