//! A whole pipeline: raising keeps what every model computes, and its text reads back.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use fisec_ir::Graph;
use fisec_ir::text::{parse, print};
use fisec_ir::verify::verify;
use fisec_onnx::{Bindings, import};
use fisec_oracle::{Oracle, Tensor, difference, random_data};
use fisec_passes::canonical::canonicalize;

fn evaluate(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let run = Oracle::new(graph).inputs(inputs.clone()).run();
    run.unwrap_or_else(|error| panic!("{error}")).outputs
}

fn raising_keeps_the_model(model: &str, bindings: &Bindings) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/nano-pipeline")
        .join(model);
    let imported = import(&path.join("model.onnx"), bindings).unwrap().graph;
    let mut raised = imported.clone();
    let mut faults = Vec::new();
    canonicalize(&mut raised, &mut |pass, graph| {
        if let Err(errors) = verify(graph) {
            faults.push(format!("{pass}: {}", errors[0]));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(faults, Vec::<String>::new());
    assert!(
        raised.len() < imported.len() / 2,
        "{} nodes of {}",
        raised.len(),
        imported.len()
    );

    let inputs = random_data(&imported, 1).inputs;
    let expected = evaluate(&imported, &inputs);
    let found = evaluate(&raised, &inputs);
    assert!(!expected.is_empty());
    for (name, expected) in &expected {
        let apart = difference(&found[name], expected).unwrap();
        // attributes and constants of the file are f32
        assert!(apart.relative < 1e-6, "{model} `{name}`: {apart:?}");
        assert!(
            expected.data.iter().any(|value| value.abs() > 0.1),
            "{model} `{name}` is not trivial"
        );
    }
    for graph in [&imported, &raised] {
        let text = print(graph);
        assert_eq!(print(&parse(&text).unwrap()), text);
    }
}

#[test]
fn unet() {
    raising_keeps_the_model("unet", &Bindings::unet(2, 16, 16, 77));
}

#[test]
fn text_encoder() {
    raising_keeps_the_model("text_encoder", &Bindings::text_encoder(1, 77));
}

#[test]
fn vae_decoder() {
    raising_keeps_the_model("vae_decoder", &Bindings::vae(1, 4, 16, 16));
}
