//! From an exporter's spelling to the semantic operators.
//!
//! Each pass recognises one thing by what it computes, after constants are folded: never by a name or by the exporter.
//! What no pass recognises stays an opaque [`Op::Onnx`](fisec_ir::Op::Onnx) node.

mod condition;
mod evaluate;
mod fit_upsample;
mod fold_constants;
mod infer_shapes;
mod lower_contrib;
mod lower_einsum;
mod merge_equal;
mod pattern;
mod raise_activation;
mod raise_add;
mod raise_attention;
mod raise_concat;
mod raise_conv;
mod raise_geglu;
mod raise_linear;
mod raise_norm;
mod raise_sliced_attention;
mod raise_time;
mod raise_tokens;
mod raise_upsample;
mod sequences;
mod simplify;
mod spell_resize;
mod turn_slices;
mod view;

use std::ops::ControlFlow;

use fisec_ir::{Graph, NodeId};

pub use condition::constant_condition;
pub use fold_constants::{fold_constants, fold_constants_with};
pub use infer_shapes::{Answer, NoTypes, Refusal, Types, infer_shapes};
pub use lower_contrib::lower_contrib;
pub use lower_einsum::lower_einsum;
pub use merge_equal::merge_equal;
pub use raise_activation::raise_activation;
pub use raise_add::raise_add;
pub use raise_attention::raise_attention;
pub use raise_concat::raise_concat;
pub use raise_conv::raise_conv;
pub use raise_geglu::raise_geglu;
pub use raise_linear::raise_linear;
pub use raise_norm::raise_norm;
pub use raise_sliced_attention::raise_sliced_attention;
pub use raise_time::raise_time;
pub use raise_tokens::raise_tokens;
pub use raise_upsample::raise_upsample;
pub use simplify::simplify;
pub use spell_resize::spell_resize;
pub use turn_slices::turn_slices;

use crate::{Changes, PassError};

/// A pass with its name.
pub type NamedPass = (&'static str, fn(&mut Graph) -> Result<Changes, PassError>);

/// The canonical passes in their order.
pub const CANONICAL: &[NamedPass] = &[
    ("fold_constants", fold_constants), // first: every pattern below is stated over known shapes and constants
    ("simplify", simplify),             // casts and divisions by one would stand between the parts of patterns
    ("lower_contrib", lower_contrib),   // fused operators hide the parts that the patterns are made of
    ("lower_einsum", lower_einsum),     // likewise: matrix products and transposes
    ("raise_tokens", raise_tokens),     // the transposes around channels-last operators cancel
    ("raise_conv", raise_conv),
    ("raise_norm", raise_norm),
    ("raise_activation", raise_activation), // after norms: SiLU fuses into them
    ("raise_geglu", raise_geglu),           // after activations: the gate is a GELU; before linears are cut into parts
    ("turn_slices", turn_slices),           // before attention, whose operands are ranges of heads then
    ("raise_attention", raise_attention),   // before token reorderings: it explains those that split and join heads
    ("raise_sliced_attention", raise_sliced_attention), // after it has raised the parts
    ("raise_time", raise_time),             // before additions: a time vector is no residual
    ("raise_tokens", raise_tokens),         // heads split and joined cancel; before linears, which see tokens then
    ("raise_linear", raise_linear),
    ("spell_resize", spell_resize), // before upsampling is recognised by its scales
    ("raise_upsample", raise_upsample),
    ("raise_concat", raise_concat),
    ("raise_add", raise_add), // after everything that contains an addition: bias, norms, time
    ("raise_tokens", raise_tokens), // again: linears have moved reshapes, so that pairs meet
    ("simplify", simplify),
    ("merge_equal", merge_equal), // last: equal things are spelled equally only now
];

/// Runs [`CANONICAL`], calling `after_each` with the name of each pass and the graph it left; `Break` stops there.
pub fn canonicalize(
    graph: &mut Graph,
    after_each: &mut dyn FnMut(&str, &Graph) -> ControlFlow<()>,
) -> Result<Changes, PassError> {
    canonicalize_with(graph, &mut NoTypes, after_each)
}

/// [`canonicalize`] that asks `types` about operators that the compiler does not know.
pub fn canonicalize_with(
    graph: &mut Graph,
    types: &mut dyn Types,
    after_each: &mut dyn FnMut(&str, &Graph) -> ControlFlow<()>,
) -> Result<Changes, PassError> {
    let mut changes = Changes::default();
    for (index, (name, pass)) in CANONICAL.iter().enumerate() {
        // the first pass infers all types; those behind it know the types of what they write
        changes += match index {
            0 => fold_constants_with(graph, types)?,
            _ => pass(graph)?,
        };
        if after_each(name, graph).is_break() {
            break;
        }
    }
    Ok(changes)
}

/// Nodes in execution order; a cycle is the pass's error.
fn order(graph: &Graph, pass: &'static str) -> Result<Vec<NodeId>, PassError> {
    graph.ordered().map_err(|error| PassError {
        pass,
        node: graph.name().to_owned(),
        message: error.to_string(),
        hint: None,
    })
}
