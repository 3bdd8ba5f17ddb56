//! What an edit computes, from the sentence `y = where(A, op(x), recorded y)` alone.
//!
//! The interpreter walks the dense graph operator by operator. Of the compiled programs it knows which operators are
//! marked, and nothing of how they are rewritten.

use std::collections::{BTreeMap, HashMap, HashSet};

use fisec_ir::{Extent, Graph, LevelId, NodeId, Op, Operand, Origin, RING, ValueId, ValueType, stats_shape};
use fisec_oracle::{Oracle, Tensor, levels};
use fisec_plan::{Keys, Norm};
use fisec_tensor::{DType, Mask};

/// Inputs by name.
pub type Inputs = BTreeMap<String, Tensor>;

/// Which operators of a dense graph an edit computes on some pixels only.
pub struct Marks {
    active: Vec<(HashSet<String>, Extent)>,
    live: HashSet<String>,
    keys: Keys,
    norm: Norm,
}

impl Marks {
    /// As the compiler has decided in `edit`.
    pub fn of(edit: &Graph, keys: Keys, norm: Norm) -> Self {
        let mut marks = Marks {
            active: Vec::new(),
            live: HashSet::new(),
            keys,
            norm,
        };
        for id in edit.ids() {
            let names = names(edit, id);
            if matches!(edit.op(id), Op::GroupNorm(_)) {
                marks.live.extend(names.iter().cloned());
            }
            let extent = edit.node(id).outputs().first().map(|output| output.extent);
            if let Some(extent) = extent.filter(|extent| *extent != Extent::Full) {
                marks.active.push((names, extent));
            }
        }
        marks
    }

    /// Where an operator is computed; `None` where everywhere.
    fn extent(&self, dense: &Graph, id: NodeId) -> Option<Extent> {
        let own = names(dense, id);
        let holds = |(names, _): &&(HashSet<String>, Extent)| !own.is_empty() && own.is_subset(names);
        let found = self.active.iter().filter(holds).map(|(_, extent)| *extent);
        // an operator on the ring and its fused user: what it is computed on itself is the larger set
        found.max_by_key(|extent| extent.ring())
    }

    fn is_frozen(&self, dense: &Graph, id: NodeId) -> bool {
        self.norm == Norm::Frozen && names(dense, id).is_disjoint(&self.live)
    }
}

fn names(graph: &Graph, id: NodeId) -> HashSet<String> {
    graph.origin(id).names.iter().cloned().collect()
}

/// Operators that change, place or repeat single pixels: they are functions of the map in front of them everywhere.
fn applies_everywhere(op: &Op) -> bool {
    matches!(
        op,
        Op::GroupNorm(_)
            | Op::Activate(_)
            | Op::Concat(_)
            | Op::Tokens
            | Op::Spatial { .. }
            | Op::Upsample { .. }
            | Op::Onnx(_)
            | Op::Input(_)
    )
}

/// All values of a dense graph.
pub fn dense_values(dense: &Graph, inputs: &Inputs) -> HashMap<ValueId, Tensor> {
    let all = dense.ids().into_iter().flat_map(|node| {
        let count = dense.node(node).outputs().len() as u32;
        (0..count).map(move |output| ValueId { node, output })
    });
    let run = Oracle::new(dense)
        .inputs(inputs.clone())
        .keep(all.collect::<Vec<_>>())
        .run();
    run.expect("the dense graph runs").values
}

/// The prediction of an edit of `base` to `new` inputs under a mask.
pub fn edited(dense: &Graph, marks: &Marks, base: &Inputs, new: &Inputs, mask: &Mask) -> Tensor {
    let values = edited_values(dense, marks, base, new, mask);
    let (output, _) = dense.outputs()[0];
    values[&dense.operands(output)[0].value().expect("computed")].clone()
}

/// All values of an edit of `base` to `edited` inputs under a mask.
pub fn edited_values(
    dense: &Graph,
    marks: &Marks,
    base: &Inputs,
    edited: &Inputs,
    mask: &Mask,
) -> HashMap<ValueId, Tensor> {
    let recorded = dense_values(dense, base);
    let masks = levels(mask, 6);
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    for id in dense.ordered().expect("acyclic") {
        if let Op::Output(_) = dense.op(id) {
            continue;
        }
        let results = match (dense.op(id), dense.operands(id)) {
            (Op::Input(name), _) => vec![edited[name].clone()],
            (Op::GroupNorm(_), &[Operand::Value(x), ..]) if marks.is_frozen(dense, id) => {
                vec![frozen(dense, id, &recorded[&x], &values)]
            }
            _ => evaluated(dense, id, &values, &masks, keys_extent(dense, marks, id)),
        };
        let extent = marks.extent(dense, id).filter(|_| !applies_everywhere(dense.op(id)));
        for (output, result) in results.into_iter().enumerate() {
            let value = ValueId {
                node: id,
                output: output as u32,
            };
            let composed = match extent {
                Some(extent) => selected(&masks, extent, &result, &recorded[&value]),
                None => result,
            };
            values.insert(value, composed);
        }
    }
    values
}

fn mask_of(masks: &[Mask], extent: Extent) -> Mask {
    let LevelId(level) = extent.level().expect("active");
    let mask = &masks[level as usize];
    match extent.ring() {
        0 => mask.clone(),
        _ => mask.dilated(RING),
    }
}

/// `where(A, x, recorded)` for a map `[N, C, H, W]` or tokens `[N, H*W, C]`.
fn selected(masks: &[Mask], extent: Extent, x: &Tensor, recorded: &Tensor) -> Tensor {
    let mask = mask_of(masks, extent);
    let bits = mask.bits();
    let inner = if x.shape.len() == 4 { 1 } else { x.shape[2] };
    let pick = |(index, (&x, &recorded)): (usize, (&f64, &f64))| match bits[index / inner % bits.len()] {
        true => x,
        false => recorded,
    };
    let data = x.data.iter().zip(&recorded.data).enumerate().map(pick).collect();
    Tensor::typed(x.dtype, x.shape.clone(), data)
}

/// The extent of keys and values of self-attention that looks at active tokens only.
fn keys_extent(dense: &Graph, marks: &Marks, id: NodeId) -> Option<Extent> {
    if marks.keys != Keys::Masked || !matches!(dense.op(id), Op::Attention { .. }) {
        return None;
    }
    let own = marks.extent(dense, id)?;
    let both = [1, 2].iter().all(|&position| {
        let producer = dense.operands(id)[position].value().map(|value| value.node);
        producer.is_some_and(|node| !matches!(dense.op(node), Op::Onnx(_)) && marks.extent(dense, node) == Some(own))
    });
    both.then_some(own)
}

/// One operator on its own.
fn evaluated(
    dense: &Graph,
    id: NodeId,
    values: &HashMap<ValueId, Tensor>,
    masks: &[Mask],
    keys: Option<Extent>,
) -> Vec<Tensor> {
    let mut alone = Graph::new("alone");
    let mut inputs = Inputs::new();
    let mut operands = Vec::new();
    for (position, &operand) in dense.operands(id).iter().enumerate() {
        operands.push(match operand {
            Operand::Absent => Operand::Absent,
            Operand::Weight(weight) => alone.add_weight(dense.weight(weight).clone()).into(),
            Operand::Value(value) => {
                let name = format!("i{position}");
                let mut ty = dense.value_type(value).clone();
                if let Some(extent) = keys.filter(|_| position > 0) {
                    ty = ty.with_extent(extent);
                }
                inputs.insert(name.clone(), values[&value].clone());
                alone.add_value(Op::Input(name), vec![], ty, Origin::default()).into()
            }
        });
    }
    let outputs = dense.node(id).outputs().to_vec();
    let count = outputs.len();
    let node = alone.add(dense.op(id).clone(), operands, outputs, Origin::default());
    let kept: Vec<ValueId> = (0..count as u32).map(|output| ValueId { node, output }).collect();
    let run = Oracle::new(&alone).inputs(inputs).masks(masks).keep(kept.clone()).run();
    let mut run = run.unwrap_or_else(|error| panic!("{error}"));
    kept.iter()
        .map(|value| run.values.remove(value).expect("kept"))
        .collect()
}

/// A group norm with the statistics of the recorded map.
fn frozen(dense: &Graph, id: NodeId, recorded: &Tensor, values: &HashMap<ValueId, Tensor>) -> Tensor {
    let (Op::GroupNorm(norm), &[Operand::Value(x), gamma, beta]) = (dense.op(id), dense.operands(id)) else {
        unreachable!("a group norm")
    };
    let mut alone = Graph::new("frozen");
    let ty = dense.value_type(x).clone();
    let (images, channels) = (ty.shape[0], ty.shape[1]);
    let mut add = |op: Op, operands: Vec<Operand>, ty: ValueType| alone.add_value(op, operands, ty, Origin::default());
    let base = add(Op::Input("recorded".into()), vec![], ty.clone());
    let map = add(Op::Input("x".into()), vec![], ty.clone());
    let stats = add(
        Op::GroupNormStats { groups: norm.groups },
        vec![base.into()],
        ValueType::full(DType::F32, stats_shape(images, norm.groups)),
    );
    let [gamma, beta] = [gamma, beta].map(|operand| {
        let weight = operand.weight().expect("a constant");
        Operand::from(alone.add_weight(dense.weight(weight).clone()))
    });
    let coefficients = Op::NormCoefficients {
        groups: norm.groups,
        epsilon: norm.epsilon,
    };
    let mut add = |op: Op, operands: Vec<Operand>, ty: ValueType| alone.add_value(op, operands, ty, Origin::default());
    let coefficients = add(
        coefficients,
        vec![stats.into(), gamma, beta],
        ValueType::full(DType::F32, [images, 2, channels]),
    );
    let affine = Op::Affine {
        activation: norm.activation,
    };
    let result = add(affine, vec![map.into(), coefficients.into()], ty);
    let inputs = [
        ("recorded".to_owned(), recorded.clone()),
        ("x".to_owned(), values[&x].clone()),
    ];
    let run = Oracle::new(&alone).inputs(inputs).keep([result]).run().expect("runs");
    run.values[&result].clone()
}
