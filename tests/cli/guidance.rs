//! Guidance at or below 1: the prompt alone, with plans of both batches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::machine::{CAT, DOG, Machine, assert_fails, json, stderr};

/// The nano pipeline compiled for one image per step.
fn single() -> &'static Path {
    static PLAN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    &PLAN
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let plan = folder.path().join("single.plan");
            let flags = [
                "compile",
                "tests/data/nano-pipeline",
                "--sparse-levels",
                "2",
                "--batch",
                "1",
                "-o",
            ];
            let compiled = Command::new(env!("CARGO_BIN_EXE_fisec"))
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .args(flags)
                .arg(&plan)
                .output()
                .unwrap();
            assert!(compiled.status.success(), "{}", stderr(&compiled));
            (folder, plan)
        })
        .1
}

/// Largest difference of two pictures' bytes.
fn farthest(machine: &Machine, a: &str, b: &str) -> u8 {
    let (a, b) = (machine.pixels(a), machine.pixels(b));
    a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn no_guidance_shows_the_prompt() {
    let machine = Machine::new();
    let first = machine.painted(DOG, "dog.png", &["--guidance", "0"]);
    machine.painted(
        "a castle by night",
        "castle.png",
        &["--guidance", "0", "--base", "none", "--forget"],
    );
    assert_ne!(machine.pixels("dog.png"), machine.pixels("castle.png"));
    assert_eq!((&first["guidance"], &first["negative"]), (&1.0.into(), &"".into()));
    for (index, flags) in [
        vec!["--guidance", "1"],
        vec!["--guidance", "0.5"],
        vec!["--guidance", "0", "--negative", "rain"],
        vec!["--guidance", "1", "--negative", "snow"],
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{index}.png");
        let output = machine.paint(DOG, &name, &flags);
        let again = json(&output);
        // one setting: the image is found again
        assert_eq!(
            (&again["outcome"], &again["id"]),
            (&"unchanged".into(), &first["id"]),
            "{flags:?}"
        );
        let ignored = stderr(&output).contains("the negative prompt is ignored");
        assert_eq!(ignored, flags.contains(&"--negative"), "{}", stderr(&output));
        let fresh = [&flags[..], &["--base", "none", "--forget"]].concat();
        machine.painted(DOG, &name, &fresh);
        assert_eq!(machine.pixels("dog.png"), machine.pixels(&name), "{flags:?}");
    }
    machine.painted(DOG, "guided.png", &["--guidance", "1.5", "--base", "none", "--forget"]);
    assert!(farthest(&machine, "dog.png", "guided.png") > 8);
}

#[test]
fn the_png_says_that_there_was_no_guidance() {
    let machine = Machine::new();
    machine.painted(DOG, "dog.png", &["--guidance", "0", "--negative", "rain"]);
    let png = fs::read(machine.path("dog.png")).unwrap();
    let text = String::from_utf8_lossy(&png);
    assert!(text.contains("CFG scale: 1, ") && !text.contains("rain"));
}

#[test]
fn every_sampler_gives_one_picture_with_either_batch() {
    for sampler in ["ddim", "euler", "dpm++", "pndm"] {
        let machine = Machine::new();
        let flags = ["--guidance", "0", "--sampler", sampler];
        let made = [
            json(&machine.paint(DOG, "two.png", &flags)),
            json(&machine.paint_with(single(), DOG, "one.png", &flags)),
        ];
        // the same sums in another order
        assert!(farthest(&machine, "one.png", "two.png") <= 2, "{sampler}");
        let mask = machine.mask("mask.png", 128, 128, |row, column| row < 64 && column < 80);
        let edit = [&flags[..], &["--mask", &mask, "--guide-steps", "2", "--sparse"]].concat();
        let edited = [
            json(&machine.paint(CAT, "two-cat.png", &edit)),
            json(&machine.paint_with(single(), CAT, "one-cat.png", &edit)),
        ];
        for (base, edit) in made.iter().zip(&edited) {
            assert_eq!(
                (&edit["base"], &edit["outcome"]),
                (&base["id"], &"sparse".into()),
                "{sampler}"
            );
            assert_eq!(
                edit["steps_control"], 2,
                "{sampler}: the prompt's half follows the base's attention"
            );
        }
        assert!(farthest(&machine, "one-cat.png", "two-cat.png") <= 2, "{sampler}");
        assert!(
            farthest(&machine, "one.png", "one-cat.png") > 8,
            "{sampler}: the edit shows"
        );
    }
}

#[test]
fn attention_control_has_an_effect_without_guidance() {
    for plan in [crate::machine::plan(), single()] {
        let machine = Machine::new();
        json(&machine.paint_with(plan, DOG, "dog.png", &["--guidance", "0"]));
        let pictures = ["replace", "none"].map(|control| {
            let name = format!("{control}.png");
            let flags = [
                "--guidance",
                "0",
                "--control",
                control,
                "--guide-steps",
                "3",
                "--edit-size",
                "30%",
            ];
            json(&machine.paint_with(plan, CAT, &name, &[&flags[..], &["--sparse", "--forget"]].concat()));
            machine.pixels(&name)
        });
        assert_ne!(pictures[0], pictures[1]);
    }
}

#[test]
fn other_methods_and_photos_work_with_one_image_per_step() {
    let machine = Machine::new();
    json(&machine.paint_with(single(), DOG, "dog.png", &["--guidance", "1"]));
    for method in ["regenerate", "blend", "p2p", "sdedit:0.6", "diffedit"] {
        let flags = ["--guidance", "1", "--sampler", "ddim", "--method", method];
        json(&machine.paint_with(single(), CAT, "cat.png", &flags));
    }
    let photo = machine.path("dog.png");
    let flags = [
        "--guidance",
        "1",
        "--image",
        photo.to_str().unwrap(),
        "--source-prompt",
        DOG,
    ];
    let edit = json(&machine.paint_with(
        single(),
        CAT,
        "cat.png",
        &[&flags[..], &["--edit-size", "20%", "--sparse"]].concat(),
    ));
    assert_eq!(edit["outcome"], "sparse");
}

/// One error, before anything is computed, and its hint works.
#[test]
fn guidance_needs_two_images_per_step() {
    let machine = Machine::new();
    let output = machine.paint_with(single(), DOG, "dog.png", &[]);
    assert_fails(&output, 1, "guidance 5 takes two images per step");
    assert!(stderr(&output).contains("--guidance 1") && !machine.path("dog.png").exists());
    json(&machine.paint_with(single(), DOG, "dog.png", &["--guidance", "1"]));
}
