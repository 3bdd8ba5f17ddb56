//! What exporters write becomes Stable Diffusion's structure, and computes what torch computes.

#[path = "../../tests/support/cases.rs"]
mod cases;
#[path = "../../tests/support/npz.rs"]
mod npz;
#[path = "../../tests/support/routes.rs"]
mod routes;

use std::collections::BTreeMap;

use fisec_ir::{Activation, Graph, Op};
use fisec_onnx::Bindings;
use fisec_oracle::{Oracle, Tensor};
use routes::{ROUTES, data, raised, relative_error};

fn count(graph: &Graph, kind: impl Fn(&Op) -> bool) -> usize {
    graph.ids().into_iter().filter(|&id| kind(graph.op(id))).count()
}

/// Counts of a U-Net with `layers` resnets per block below and one more above.
fn assert_unet(graph: &Graph, layers: usize) {
    let up = layers + 1;
    let resnets = 4 * layers + 2 + 4 * up;
    let transformers = 3 * layers + 1 + 3 * up;
    let expected = BTreeMap::from([
        ("group_norm", 2 * resnets + transformers + 1),
        ("layer_norm", 3 * transformers),
        ("attention", 2 * transformers),
        ("geglu", transformers),
        ("linear", 12 * transformers + resnets + 2),
        ("upsample", 3),
        ("concat", 4 * up),
        ("tokens", transformers),
        ("spatial", transformers),
        ("add_vector", resnets),
        ("timestep_embedding", 1),
        ("activate", 2),
        ("onnx", 0),
    ]);
    for (name, wanted) in expected {
        assert_eq!(count(graph, |op| op.name() == name), wanted, "{name}");
    }
    let fused = count(
        graph,
        |op| matches!(op, Op::GroupNorm(norm) if norm.activation == Activation::Silu),
    );
    assert_eq!(fused, 2 * resnets + 1, "group norms with SiLU");
}

#[test]
fn every_route_has_the_structure_of_stable_diffusion() {
    for route in ROUTES {
        let graph = route.raised();
        assert_unet(&graph, 2);
        assert_eq!(count(&graph, |op| op.name() == "conv"), 66, "{}", route.name);
    }
}

#[test]
fn quantised_weights_and_symbolic_sizes_raise_at_any_size() {
    let model = data().join("nano-pipeline/unet/model.onnx");
    for (height, width) in [(16, 16), (8, 24), (10, 14)] {
        assert_unet(&raised(&model, &Bindings::unet(2, height, width, 77)), 1);
    }
}

#[test]
fn autoencoder_raises_completely() {
    let decoder = raised(
        &data().join("nano-pipeline/vae_decoder/model.onnx"),
        &Bindings::vae(1, 4, 16, 16),
    );
    let encoder = raised(
        &data().join("nano-pipeline/vae_encoder/model.onnx"),
        &Bindings::vae(1, 3, 64, 64),
    );
    for graph in [&decoder, &encoder] {
        assert_eq!(count(graph, |op| matches!(op, Op::Onnx(_))), 0);
        assert_eq!(count(graph, |op| matches!(op, Op::Attention { heads: 1, .. })), 1);
    }
    let uneven = count(
        &encoder,
        |op| matches!(op, Op::Conv(conv) if conv.padding.top == 0 && conv.padding.bottom == 1),
    );
    assert_eq!(uneven, 3, "strided convolutions pad at the far edges only");
}

#[test]
fn raised_graphs_compute_what_torch_computes() {
    for route in ROUTES {
        let graph = route.raised();
        let (inputs, outputs) = route.recorded(&graph);
        let inputs = inputs
            .iter()
            .map(|(name, value)| (name.clone(), Tensor::from_host(value)));
        let run = Oracle::new(&graph).inputs(inputs).run().expect("the oracle runs");
        for (name, expected) in outputs {
            let found = run.outputs[&name].to_host().to_f64_vec();
            let error = relative_error(&found, &expected.to_f64_vec());
            assert!(error <= route.tolerance, "{} {name}: {error:.1e}", route.name);
        }
    }
}

#[test]
fn every_node_remembers_what_it_was() {
    for route in ROUTES {
        let graph = route.raised();
        for id in graph.ids() {
            assert!(!graph.origin(id).names.is_empty(), "{} {:?}", route.name, graph.op(id));
        }
        let named = |part: &str| graph.ids().iter().any(|&id| graph.origin(id).label().contains(part));
        assert!(named("down_blocks.0/resnets.0/conv1"), "{}", route.name);
        assert!(
            named("mid_block/attentions.0/transformer_blocks.0/attn2"),
            "{}",
            route.name
        );
    }
}

#[test]
fn a_guarded_softmax_is_attention_all_the_same() {
    let case = cases::Case::open("text_encoder_guarded");
    for batch in [1, 2] {
        let graph = raised(&case.model(), &Bindings::text_encoder(batch, 77));
        let layers = count(&graph, |op| matches!(op, Op::CausalAttention { .. }));
        assert!(
            layers > 1 && layers * 2 + 1 == count(&graph, |op| op.name() == "layer_norm"),
            "{layers}"
        );
        assert_eq!(
            count(&graph, |op| matches!(op, Op::Onnx(op) if op.op_type == "IsNaN")),
            0
        );
    }
}
