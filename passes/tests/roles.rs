//! Inputs and outputs are told by meaning: rank, type, shape and name, never by position.

use fisec_ir::{Graph, Op, Origin, ValueType};
use fisec_passes::Roles;
use fisec_tensor::DType;

/// A graph with these inputs, each read by something, and outputs of these shapes.
fn graph(inputs: &[(&str, DType, &[usize])], outputs: &[(&str, &[usize])]) -> Graph {
    let mut graph = Graph::new("unet");
    let mut first = None;
    for (name, dtype, shape) in inputs {
        let ty = ValueType::full(*dtype, shape.to_vec());
        let value = graph.add_value(Op::Input((*name).into()), vec![], ty.clone(), Origin::default());
        let read = graph.add_value(
            Op::Activate(Default::default()),
            vec![value.into()],
            ty,
            Origin::default(),
        );
        first.get_or_insert(read);
    }
    for (name, shape) in outputs {
        let ty = ValueType::full(DType::F32, shape.to_vec());
        let op = Op::Activate(Default::default());
        let value = graph.add_value(op, vec![first.expect("an input").into()], ty, Origin::default());
        graph.add(
            Op::Output((*name).into()),
            vec![value.into()],
            vec![],
            Origin::default(),
        );
    }
    graph
}

const SAMPLE: (&str, DType, &[usize]) = ("sample", DType::F32, &[2, 4, 8, 8]);
const STEP: (&str, DType, &[usize]) = ("timestep", DType::I64, &[2]);
const TEXT: (&str, DType, &[usize]) = ("encoder_hidden_states", DType::F32, &[2, 7, 24]);
const LATENTS: &[usize] = &[2, 4, 8, 8];
const FEATURES: &[usize] = &[2, 8, 8, 8];

fn prediction(outputs: &[(&str, &[usize])], asked: Option<&str>) -> Result<String, String> {
    let mut graph = graph(&[SAMPLE, STEP, TEXT], outputs);
    let roles = Roles::of(&graph).expect("a denoiser");
    roles
        .keep_prediction(&mut graph, asked)
        .map_err(|error| error.to_string())?;
    let kept = graph.outputs();
    assert_eq!(kept.len(), 1);
    Ok(kept[0].1.to_owned())
}

#[test]
fn the_prediction_has_the_latents_shape() {
    assert_eq!(prediction(&[("a", FEATURES), ("b", LATENTS)], None).unwrap(), "b");
    assert_eq!(prediction(&[("b", LATENTS), ("a", FEATURES)], None).unwrap(), "b");
    assert_eq!(
        prediction(&[("mid", &[2, 4, 4, 4]), ("x", LATENTS), ("t", &[2, 7])], None).unwrap(),
        "x"
    );
}

#[test]
fn names_decide_between_equal_shapes() {
    assert_eq!(
        prediction(&[("x0", LATENTS), ("noise_pred", LATENTS)], None).unwrap(),
        "noise_pred"
    );
    assert_eq!(
        prediction(&[("sample", LATENTS), ("out_sample", LATENTS)], None).unwrap(),
        "out_sample"
    );
    assert_eq!(prediction(&[("p", LATENTS), ("q", LATENTS)], Some("q")).unwrap(), "q");
}

#[test]
fn an_ambiguity_lists_the_outputs_with_their_shapes() {
    for outputs in [
        [("p", LATENTS), ("q", LATENTS)],
        [("noise_pred", LATENTS), ("sample", LATENTS)],
        [("out_sample", FEATURES), ("q", LATENTS)],
    ] {
        let error = prediction(&outputs, None).unwrap_err();
        for (name, shape) in outputs {
            let listed = format!("`{name}` f32[2,{},8,8]", shape[1]);
            assert!(error.contains(&listed), "{error}");
        }
        assert!(error.contains("ambiguous"), "{error}");
    }
    let wrong = prediction(&[("p", LATENTS), ("q", FEATURES)], Some("q")).unwrap_err();
    assert!(wrong.contains("`q` f32[2,8,8,8]"), "{wrong}");
    assert!(
        prediction(&[("p", LATENTS)], Some("r"))
            .unwrap_err()
            .contains("`p` f32[2,4,8,8]")
    );
}

#[test]
fn latents_with_something_beside_them_are_named() {
    for (channels, what) in [(9, "inpainting"), (8, "by instruction"), (7, "upscaler"), (5, "depth")] {
        let shape = [2, channels, 8, 8];
        let graph = graph(
            &[("sample", DType::F32, &shape), STEP, TEXT],
            &[("out_sample", LATENTS)],
        );
        let error = Roles::of(&graph).unwrap().prediction(&graph, None).unwrap_err();
        assert!(error.message.contains(what), "{channels}: {error}");
        assert!(error.message.contains(&format!("f32[2,{channels},8,8]")), "{error}");
    }
    let variance = prediction(&[("out_sample", FEATURES)], None).unwrap_err();
    assert!(variance.contains("variance"), "{variance}");
}

#[test]
fn inputs_that_nothing_feeds_are_named_with_what_they_are_for() {
    let foreign: [(&str, DType, &[usize], &str); 7] = [
        ("timestep_cond", DType::F32, &[2, 32], "latent consistency"),
        ("text_embeds", DType::F32, &[2, 20], "Stable Diffusion XL"),
        ("class_labels", DType::I64, &[2], "class conditioning"),
        (
            "down_block_additional_residuals.0",
            DType::F32,
            &[2, 8, 8, 8],
            "ControlNet",
        ),
        (
            "encoder_attention_mask",
            DType::F32,
            &[2, 1, 7],
            "mask of the text's tokens",
        ),
        ("image_embeds", DType::F32, &[2, 4, 24], "IP-Adapter"),
        ("thing", DType::F32, &[2, 3], "does not have"),
    ];
    for (name, dtype, shape, what) in foreign {
        // wherever it stands
        for inputs in [
            [(name, dtype, shape), SAMPLE, STEP, TEXT],
            [SAMPLE, STEP, TEXT, (name, dtype, shape)],
        ] {
            let error = Roles::of(&graph(&inputs, &[("out_sample", LATENTS)])).unwrap_err();
            assert!(error.message.contains(&format!("`{name}`")), "{error}");
            assert!(error.message.contains(what), "{error}");
            assert!(error.hint.is_some());
        }
    }
}

#[test]
fn inputs_that_nothing_reads_are_no_matter() {
    let mut graph = graph(&[SAMPLE, STEP, TEXT], &[("out_sample", LATENTS)]);
    let ty = ValueType::full(DType::F32, vec![1]);
    graph.add_value(Op::Input("return_dict".into()), vec![], ty, Origin::default());
    let roles = Roles::of(&graph).expect("a denoiser all the same");
    assert_eq!(roles.timestep, "timestep");
    roles.keep_prediction(&mut graph, None).unwrap();
    assert_eq!(graph.inputs().len(), 3);
}

#[test]
fn roles_are_found_under_other_names_and_in_any_order() {
    let inputs: [(&str, DType, &[usize]); 3] = [
        ("context", DType::F16, &[2, 7, 24]),
        ("timesteps", DType::F32, &[]),
        ("x", DType::F16, &[2, 4, 8, 8]),
    ];
    let roles = Roles::of(&graph(&inputs, &[("y", LATENTS)])).unwrap();
    assert_eq!(
        (&roles.sample[..], &roles.timestep[..], &roles.context[..]),
        ("x", "timesteps", "context")
    );
    let two: [(&str, DType, &[usize]); 4] = [
        ("a", DType::F32, &[2, 7, 24]),
        ("b", DType::F32, &[2, 7, 24]),
        SAMPLE,
        STEP,
    ];
    let error = Roles::of(&graph(&two, &[("y", LATENTS)])).unwrap_err();
    assert!(
        error.message.contains("several inputs look like a text embedding"),
        "{error}"
    );
    let error = Roles::of(&graph(&[SAMPLE, STEP], &[("y", LATENTS)])).unwrap_err();
    assert!(
        error.message.contains("no input looks like a text embedding"),
        "{error}"
    );
}
