//! Recognise nearest-neighbour upsampling.
//!
//! Before: `Resize(%x, scales=[1,1,2,2]) {nearest, asymmetric, floor}`, or with sizes.  After: `upsample %x, height, width`.

use fisec_ir::{Attribute, Graph, NodeId, OnnxOp, Op};

use super::order;
use super::pattern::{Rewriter, onnx, result, value_at};
use crate::{Changes, PassError};

const PASS: &str = "raise_upsample";

/// Raises resizes of maps whose row `i` reads row `floor(i * H / height)`.
pub fn raise_upsample(graph: &mut Graph) -> Result<Changes, PassError> {
    let mut rewriter = Rewriter::new(graph, PASS);
    for id in order(rewriter.graph, PASS)? {
        raise(&mut rewriter, id);
    }
    Ok(rewriter.finish())
}

fn raise(rewriter: &mut Rewriter, id: NodeId) -> Option<()> {
    let graph = &*rewriter.graph;
    let op = onnx(graph, result(id)).filter(|op| op.is("Resize") || op.is("Upsample"))?;
    let x = value_at(graph, id, 0)?;
    let (from, to) = (&graph.value_type(x).shape, &graph.value_type(result(id)).shape);
    let (&[batch, channels, rows, columns], &[.., height, width]) = (&from[..], &to[..]) else {
        return None;
    };
    // By a whole factor, the half-pixel rules that round down or to the nearest pick the same rows.
    let whole = height % rows.max(1) == 0 && width % columns.max(1) == 0;
    if to.len() != 4 || to[..2] != [batch, channels] || !is_nearest(op, whole) {
        return None;
    }
    rewriter.replace(result(id), Op::Upsample { height, width }, vec![x.into()], &[id]);
    Some(())
}

/// Whether a resize reads row `floor(i * H / height)`; `whole` says that the factor is a whole number.
pub(super) fn is_nearest(op: &OnnxOp, whole: bool) -> bool {
    let text = |name: &str, default: &'static str| match op.attributes.get(name) {
        Some(Attribute::String(value)) => value.clone(),
        _ => default.to_owned(),
    };
    if text("mode", "nearest") != "nearest" {
        return false;
    }
    if op.is("Upsample") || op.opset < 11 {
        return true;
    }
    let rule = (
        text("coordinate_transformation_mode", "half_pixel"),
        text("nearest_mode", "round_prefer_floor"),
    );
    match (rule.0.as_str(), rule.1.as_str()) {
        ("asymmetric", "floor") => true,
        ("half_pixel" | "pytorch_half_pixel", "round_prefer_floor" | "round_prefer_ceil") => whole,
        _ => false,
    }
}
