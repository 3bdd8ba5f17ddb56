//! Compute once what all images of a step have in common.
//!
//! Guidance predicts one latent under two texts: what does not depend on the text has the same value for both.
//!
//! Before: `%x = input "sample" : f32[2,4,96,96]; %q = linear … : f32[2,9216,320]; %y = attention %q, %k, %v`, keys and
//! values from the text
//!
//! After: `%x = input "sample" : f32[1,4,96,96]; %q = linear … : f32[1,9216,320]; %r = repeat %q, images=2;
//! %y = attention %r, %k, %v`

use std::collections::{HashMap, HashSet};

use fisec_ir::dependence::is_elementwise;
use fisec_ir::{
    Dependence, Graph, GraphError, NodeId, Op, Operand, Origin, Reading, TimestepEmbedding, ValueId, ValueType,
};

use crate::{Changes, PassError, Roles};

const PASS: &str = "share_halves";

/// Rewrites everything in front of the text to one image, and repeats it where it meets the text.
pub fn share_halves(graph: &mut Graph, roles: &Roles) -> Result<Changes, PassError> {
    let sample = graph.input(&roles.sample);
    let images = sample.map_or(1, |sample| graph.value_type(sample).shape[0]);
    if images < 2 {
        return Ok(Changes(0));
    }
    // before shapes change: an axis of length 1 would be taken for one that repeats
    let by_image = graph.ids().into_iter().filter(|&id| is_by_image(graph, id)).collect();
    let mut sharing = Sharing {
        graph,
        roles,
        images,
        by_image,
        shared: HashSet::new(),
        repeated: HashMap::new(),
    };
    let mut changes = Changes(0);
    for id in sharing.graph.ordered().map_err(cycle)? {
        match sharing.is_shared(id) {
            true => sharing.share(id),
            false => sharing.repeat_operands(id),
        }
        changes += Changes(usize::from(sharing.shared.contains(&id)));
    }
    Ok(changes)
}

/// Whether each image of a result is made of the same image of every value, and of constants that hold for any image.
fn is_by_image(graph: &Graph, id: NodeId) -> bool {
    // attributes and constants of opaque operators may say how many images there are
    let is_opaque = matches!(graph.op(id), Op::Onnx(_));
    if is_opaque && !is_elementwise(graph, id) {
        return false;
    }
    let dependence = Dependence::of(graph, id, 0);
    let operands = graph.operands(id).iter().enumerate();
    let mut fit = operands.map(|(position, operand)| match (operand, dependence.reading(position, 0)) {
        (Operand::Value(_), reading) => reading == Reading::Same(0),
        (Operand::Weight(weight), Reading::Whole) if is_opaque => graph.weight(*weight).data.shape().elements() == 1,
        (Operand::Weight(_), reading) => !matches!(reading, Reading::Same(_)),
        (Operand::Absent, _) => true,
    });
    graph.operands(id).iter().any(|operand| operand.value().is_some()) && fit.all(|fits| fits)
}

fn cycle(error: GraphError) -> PassError {
    PassError {
        pass: PASS,
        node: String::new(),
        message: error.to_string(),
        hint: None,
    }
}

struct Sharing<'a> {
    graph: &'a mut Graph,
    roles: &'a Roles,
    /// images of a step
    images: usize,
    /// nodes whose results are made image by image
    by_image: HashSet<NodeId>,
    /// nodes that compute one image for all
    shared: HashSet<NodeId>,
    /// such values as all images
    repeated: HashMap<ValueId, ValueId>,
}

impl Sharing<'_> {
    /// Whether all images of the result are equal, and the operator makes one of them as it makes all.
    fn is_shared(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let [output] = node.outputs() else { return false };
        if output.shape.first() != Some(&self.images) {
            return false;
        }
        match node.op() {
            Op::Input(name) => *name == self.roles.sample || *name == self.roles.timestep,
            Op::TimestepEmbedding(_) => self.is_one_timestep(node.operands()[0]),
            Op::Onnx(_)
            | Op::Conv(_)
            | Op::GroupNorm(_)
            | Op::LayerNorm { .. }
            | Op::Linear(_)
            | Op::Add
            | Op::Upsample { .. }
            | Op::Tokens
            | Op::Spatial { .. }
            | Op::Attention { control: None, .. }
            | Op::CausalAttention { .. }
            | Op::Geglu
            | Op::Activate(_)
            | Op::AddVector
            | Op::Concat(_) => self.is_of_shared(id),
            Op::GroupNormStats { .. }
            | Op::GroupNormStatsUpdate { .. }
            | Op::NormCoefficients { .. }
            | Op::Affine { .. }
            | Op::Attention { .. }
            | Op::AttentionMaps { .. }
            | Op::Repeat { .. }
            | Op::CacheRead(_)
            | Op::CacheWrite(_)
            | Op::Gather
            | Op::Scatter(_)
            | Op::Output(_) => false,
        }
    }

    /// Whether an image of the result is made of the same image of shared values.
    fn is_of_shared(&self, id: NodeId) -> bool {
        let mut values = self
            .graph
            .operands(id)
            .iter()
            .filter(|operand| operand.value().is_some());
        self.by_image.contains(&id) && values.all(|&value| self.is_shared_value(value))
    }

    fn is_shared_value(&self, operand: Operand) -> bool {
        operand.value().is_some_and(|value| self.shared.contains(&value.node))
    }

    /// A single timestep gives every row the same.
    fn is_one_timestep(&self, operand: Operand) -> bool {
        let one = |value: ValueType| value.shape.elements() == 1;
        self.is_shared_value(operand) || self.graph.operand_type(operand).is_some_and(one)
    }

    fn share(&mut self, id: NodeId) {
        let mut output = self.graph.node(id).outputs()[0].clone();
        let mut dims = output.shape.to_vec();
        dims[0] = 1;
        output.shape = dims.into();
        self.graph.set_outputs(id, vec![output]);
        if let Op::TimestepEmbedding(embedding) = *self.graph.op(id) {
            let one = TimestepEmbedding { rows: 1, ..embedding };
            self.graph.set_op(id, Op::TimestepEmbedding(one));
        }
        let origin = Origin::merged(PASS, [self.graph.origin(id)]).because("the same for all images of a step");
        self.graph.set_origin(id, origin);
        self.shared.insert(id);
    }

    fn repeat_operands(&mut self, id: NodeId) {
        for (position, operand) in self.graph.operands(id).to_vec().into_iter().enumerate() {
            let Some(value) = operand.value().filter(|value| self.shared.contains(&value.node)) else {
                continue;
            };
            let all = self.repeated(value);
            self.graph.set_operand(id, position, all.into());
        }
    }

    /// A shared value as all images, made when somebody first reads it.
    fn repeated(&mut self, value: ValueId) -> ValueId {
        if let Some(&known) = self.repeated.get(&value) {
            return known;
        }
        let mut all = self.graph.value_type(value).clone();
        let mut dims = all.shape.to_vec();
        dims[0] = self.images;
        all.shape = dims.into();
        let origin = Origin::merged(PASS, [self.graph.origin(value.node)]).because("the text comes in here");
        let images = self.images;
        let made = self
            .graph
            .add_value(Op::Repeat { images }, vec![value.into()], all, origin);
        self.repeated.insert(value, made);
        made
    }
}
