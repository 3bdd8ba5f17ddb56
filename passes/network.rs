//! A network beside the denoiser (text encoder, VAE) in the form of a device that computes it by itself.

use fisec_ir::{Graph, NodeId};
use fisec_plan::NetworkKind;

use crate::canonical::{NamedPass, merge_equal};
use crate::fuse::{fold_upsample, fuse_conv_epilogue, fuse_conv_prologue, fuse_linear, sink_views};
use crate::native::spell_norms;
use crate::widen_floats::widen_floats;
use crate::{PassError, Pipeline};

/// The order is that of a denoiser's dense programs.
const PASSES: &[NamedPass] = &[
    ("widen_floats", widen_floats),
    ("fold_upsample", fold_upsample),
    ("spell_norms", spell_norms),
    ("merge_equal", merge_equal),
    ("fuse_conv_prologue", fuse_conv_prologue),
    ("fuse_conv_epilogue", fuse_conv_epilogue),
    ("sink_views", sink_views),
    ("fuse_linear", fuse_linear),
];

/// One network, before lowering.
#[derive(Clone, Debug)]
pub struct Network {
    /// which
    pub kind: NetworkKind,
    /// one input, one output
    pub graph: Graph,
}

impl Network {
    /// Brings a raised graph into the form that a device's kernels take, with the one output that a pipeline reads, see
    /// [`NetworkKind::output`]. `None` where there is no such output, or several, more than one input, or when the pipeline's listener stopped it: such a network stays with ONNX Runtime.
    ///
    /// # Errors
    /// Fails when a pass leaves an inconsistent graph: a defect.
    pub fn build(
        kind: NetworkKind,
        mut graph: Graph,
        pipeline: &mut Pipeline<'_>,
    ) -> Result<Option<Network>, PassError> {
        graph.set_name(kind.name());
        if graph.inputs().len() != 1 || !keep_one_output(&mut graph, kind) {
            return Ok(None);
        }
        for (name, pass) in PASSES {
            pipeline.run(name, &mut graph, pass)?;
        }
        Ok((!pipeline.is_stopped()).then_some(Network { kind, graph }))
    }
}

impl Network {
    /// ONNX name of the output.
    pub fn output(&self) -> &str {
        self.graph.outputs().first().map_or("", |(_, name)| name)
    }
}

/// Removes all outputs but the one that a pipeline reads, and what only they read.
fn keep_one_output(graph: &mut Graph, kind: NetworkKind) -> bool {
    let outputs = graph.outputs();
    let dims: Vec<Vec<Option<usize>>> = outputs
        .iter()
        .map(|(id, _)| {
            let value = graph.operand_type(graph.operands(*id)[0]);
            value.map_or(vec![], |value| value.shape.iter().copied().map(Some).collect())
        })
        .collect();
    let named: Vec<(&str, &[Option<usize>])> = outputs
        .iter()
        .zip(&dims)
        .map(|((_, name), dims)| (*name, &dims[..]))
        .collect();
    let Ok(kept) = kind.output(&named) else {
        return false;
    };
    let others = outputs.iter().enumerate().filter(|(index, _)| *index != kept);
    let others: Vec<NodeId> = others.map(|(_, (id, _))| *id).collect();
    others.into_iter().for_each(|id| graph.remove(id));
    graph.prune();
    true
}
