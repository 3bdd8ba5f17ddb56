//! Networks whose values leave half precision, or are no numbers: computed again in f32, or one error and nothing remembered.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::machine::{CAT, DOG, Machine, assert_fails, copy_folder, json, stderr, stdout};
use crate::onnx_edit::{halved, poisoned, with_weights};

const NANO: &str = "tests/data/nano-pipeline";

/// A plan of the nano pipeline with these networks changed.
fn compiled(machine: &Machine, name: &str, networks: &[(&str, Vec<u8>)], more: &[&str]) -> PathBuf {
    let model = machine.path(&format!("{name}-model"));
    copy_folder(Path::new(NANO), &model);
    for (network, bytes) in networks {
        let file = model.join(network).join("model.onnx");
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
    }
    let plan = machine.path(&format!("{name}.plan"));
    let paths = [model.to_str().unwrap(), "-o", plan.to_str().unwrap()];
    let flags = [&["compile"], &paths[..], &["--sparse-levels", "2"], more].concat();
    let output = machine.run(&flags);
    assert!(output.status.success(), "{}", stderr(&output));
    plan
}

fn nano(network: &str) -> Vec<u8> {
    fs::read(Path::new(NANO).join(network).join("model.onnx")).unwrap()
}

/// The network in half precision, with so much more of what its residual path carries, which norms take away, that no half
/// holds it.
fn overflowing(network: &str) -> Vec<u8> {
    with_weights(&halved(&nano(network)), |name, values| {
        if name.contains("conv_in") || name.contains("conv2") {
            values
                .iter_mut()
                .for_each(|value| *value = (*value * 3e5).clamp(-6e4, 6e4));
        }
    })
}

/// Mean absolute difference of two pictures' bytes.
fn distance(machine: &Machine, a: &str, b: &str) -> f64 {
    let (a, b) = (machine.pixels(a), machine.pixels(b));
    let differences = a.iter().zip(&b).map(|(a, b)| f64::from(a.abs_diff(*b)));
    differences.sum::<f64>() / a.len() as f64
}

/// What is remembered, or left there.
fn images(machine: &Machine) -> usize {
    fs::read_dir(machine.home().join("images")).map_or(0, Iterator::count)
}

#[test]
fn a_decoder_that_overflows_half_precision_is_run_again_in_f32() {
    let machine = Machine::new();
    let half = overflowing("vae_decoder");
    let plan = compiled(&machine, "half", &[("vae_decoder", half.clone())], &[]);
    let output = machine.paint_with(&plan, DOG, "dog.png", &[]);
    let made = json(&output);
    let says = stderr(&output);
    assert_eq!(
        says.matches("warning: the VAE decoder overflows half precision")
            .count(),
        1,
        "{says}"
    );
    assert!(says.contains("f32"), "{says}");
    assert!(made["id"].is_string(), "{made}");

    // the same weights in an f32 file: no overflow, nothing to say, the same picture
    let wide = compiled(
        &machine,
        "wide",
        &[("vae_decoder", crate::onnx_edit::rewidened(&half))],
        &[],
    );
    let output = machine.paint_with(&wide, DOG, "wide.png", &[]);
    json(&output);
    assert!(!stderr(&output).contains("warning"), "{}", stderr(&output));
    assert!(distance(&machine, "dog.png", "wide.png") < 0.01);

    // an edit of it, sparse and dense, by other methods, and a chain: each process finds out anew and says so once
    for (name, flags) in [
        ("sparse", vec!["--edit-size", "20%", "--sparse"]),
        ("dense", vec!["--edit-size", "20%", "--dense"]),
        ("regenerate", vec!["--method", "regenerate"]),
        ("sdedit", vec!["--method", "sdedit"]),
        ("then", vec!["--then", "a fox on the left on grass"]),
    ] {
        let file = format!("{name}.png");
        let output = machine.paint_with(&plan, CAT, &file, &flags);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert_eq!(stderr(&output).matches("overflows half precision").count(), 1, "{name}");
        let lightest = machine.pixels(&file).into_iter().max();
        assert!(lightest > Some(100), "{name} is not black");
    }
}

#[test]
fn the_plan_holds_the_weights_once() {
    let machine = Machine::new();
    let half = halved(&nano("vae_decoder"));
    let plan = compiled(&machine, "half", &[("vae_decoder", half.clone())], &[]);
    let wide = fs::metadata(plan.join("pipeline/vae_decoder/fisec-f32.onnx"))
        .unwrap()
        .len();
    let all: u64 = half.len() as u64;
    assert!(wide < all, "{wide} of {all} bytes");
    let listed = fs::read_to_string(plan.join("plan.json")).unwrap();
    assert!(listed.contains("pipeline/vae_decoder/fisec-f32.onnx"));
    // nothing for a network that computes in f32
    assert!(!plan.join("pipeline/text_encoder/fisec-f32.onnx").exists());
    // nothing is said where half precision is enough
    let output = machine.paint_with(&plan, DOG, "dog.png", &[]);
    json(&output);
    assert!(!stderr(&output).contains("overflows"), "{}", stderr(&output));
}

#[test]
fn text_encoder_and_vae_encoder_that_overflow_are_run_again_too() {
    let machine = Machine::new();
    let text = with_weights(&halved(&nano("text_encoder")), |name, values| {
        // between two linears of a block, before a norm comes
        if name.contains("fc1") {
            values
                .iter_mut()
                .for_each(|value| *value = (*value * 1e6).clamp(-6e4, 6e4));
        }
    });
    let networks = [
        ("text_encoder", text.clone()),
        ("vae_encoder", overflowing("vae_encoder")),
    ];
    let plan = compiled(&machine, "half", &networks, &[]);
    let output = machine.paint_with(&plan, DOG, "dog.png", &[]);
    json(&output);
    let says = stderr(&output);
    assert_eq!(
        says.matches("warning: the text encoder overflows half precision")
            .count(),
        1,
        "{says}"
    );
    let wide = [("text_encoder", crate::onnx_edit::rewidened(&text))];
    let wide = compiled(&machine, "wide", &wide, &[]);
    json(&machine.paint_with(&wide, DOG, "wide.png", &[]));
    assert!(
        distance(&machine, "dog.png", "wide.png") < 0.5,
        "{}",
        distance(&machine, "dog.png", "wide.png")
    );

    let photo = machine.path("dog.png");
    let photo = ["--image", photo.to_str().unwrap(), "--source-prompt", DOG];
    let output = machine.paint_with(
        &plan,
        CAT,
        "cat.png",
        &[&photo[..], &["--edit-size", "20%", "--sparse"]].concat(),
    );
    json(&output);
    let says = stderr(&output);
    assert_eq!(
        says.matches("warning: the VAE encoder overflows half precision")
            .count(),
        1,
        "{says}"
    );
}

/// For every network: an error that names it, exit 1, no picture, nothing remembered.
#[test]
fn weights_that_are_no_numbers_are_an_error() {
    for (network, half, names) in [
        (
            "text_encoder",
            false,
            "the text encoder returned values that are not finite",
        ),
        (
            "vae_decoder",
            false,
            "the VAE decoder returned values that are not finite",
        ),
        (
            "vae_decoder",
            true,
            "the VAE decoder returned values that are not finite",
        ),
        ("unet", false, "the denoiser returned values that are not finite"),
    ] {
        let machine = Machine::new();
        let model = if half { halved(&nano(network)) } else { nano(network) };
        let plan = compiled(&machine, "broken", &[(network, poisoned(&model))], &[]);
        for flags in [&[][..], &["--guidance", "1"]] {
            let output = machine.paint_with(&plan, DOG, "dog.png", flags);
            assert_fails(&output, 1, names);
            assert!(
                stdout(&output).is_empty() && !machine.path("dog.png").exists(),
                "{network}"
            );
            assert_eq!(images(&machine), 0, "{network}: nothing is remembered, nothing is left");
        }
    }
}

#[test]
fn a_photo_through_an_encoder_whose_weights_are_no_numbers_is_an_error() {
    let machine = Machine::new();
    json(&machine.paint(DOG, "photo.png", &["--forget"]));
    let plan = compiled(
        &machine,
        "broken",
        &[("vae_encoder", poisoned(&nano("vae_encoder")))],
        &[],
    );
    let photo = machine.path("photo.png");
    let flags = ["--image", photo.to_str().unwrap(), "--source-prompt", DOG];
    let output = machine.paint_with(&plan, CAT, "cat.png", &flags);
    assert_fails(&output, 1, "the VAE encoder returned values that are not finite");
    assert!(!machine.path("cat.png").exists());
    assert_eq!(images(&machine), 0);
}

/// On a CPU a U-Net in half precision is computed in f32, so it does not overflow. What is recorded of it in f16 does: the
/// picture is made, and not remembered.
#[test]
fn activations_that_no_half_holds_are_not_remembered() {
    let machine = Machine::new();
    let huge = |model: &[u8]| {
        with_weights(model, |name, values| {
            if name.contains("conv_in") {
                values
                    .iter_mut()
                    .for_each(|value| *value = (*value * 3e6).clamp(-6e4, 6e4));
            }
        })
    };
    for (name, unet) in [("wide", huge(&nano("unet"))), ("half", huge(&halved(&nano("unet"))))] {
        let networks = [("unet", unet)];
        let plan = compiled(&machine, name, &networks, &[]);
        let output = machine.paint_with(&plan, DOG, "dog.png", &[]);
        let made = json(&output);
        let says = stderr(&output);
        assert!(
            says.contains("warning: ") && says.contains("does not fit f16"),
            "{says}"
        );
        assert!(says.contains("--cache-type f32"), "{says}");
        assert_eq!(made["id"], Value::Null);
        assert_eq!(images(&machine), 0);
        // what the hint says works
        let name = format!("{name}-f32");
        let plan = compiled(&machine, &name, &networks, &["--cache-type", "f32"]);
        let made = json(&machine.paint_with(&plan, DOG, "dog.png", &[]));
        assert!(made["id"].is_string());
        let edit = json(&machine.paint_with(&plan, CAT, "cat.png", &["--edit-size", "20%", "--sparse"]));
        assert_eq!((&edit["outcome"], &edit["base"]), (&"sparse".into(), &made["id"]));
        assert_eq!(images(&machine), 2);
        let ids = [&made["id"], &edit["id"]].map(|id| id.as_str().unwrap());
        for id in ids.iter().rev() {
            assert!(machine.run(&["sessions", "remove", id]).status.success());
        }
    }
}
