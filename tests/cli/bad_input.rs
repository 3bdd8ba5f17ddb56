//! Everything that can be wrong with what a user gives: one error with a hint, or a way around it that is announced.

use std::fs;
use std::process::Command;

use fisec_plan::FORMAT;

use crate::machine::{CAT, DOG, Machine, assert_fails, flip_bit, json, plan, stderr};

#[test]
fn an_altered_plan() {
    let machine = Machine::new();
    let plan = machine.copied_plan();
    let path = plan.join("plan.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"batch\": 2", "\"batch\": 4", 1)).unwrap();
    assert_fails(&machine.paint_with(&plan, DOG, "x.png", &[]), 1, "was altered");
    assert!(!machine.path("x.png").exists());
}

#[test]
fn a_plan_of_another_version() {
    let machine = Machine::new();
    let plan = machine.copied_plan();
    let path = plan.join("plan.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen(&format!("\"format\": {FORMAT}"), "\"format\": 999", 1),
    )
    .unwrap();
    assert_fails(&machine.paint_with(&plan, DOG, "x.png", &[]), 1, "format 999");
}

#[test]
fn truncated_altered_and_missing_files_of_a_plan() {
    let machine = Machine::new();
    let plan = machine.copied_plan();
    let weights = plan.join("weights.bin");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    assert_fails(&machine.paint_with(&plan, DOG, "x.png", &[]), 1, "weights.bin has");
    fs::write(&weights, &bytes).unwrap();
    flip_bit(&weights);
    assert_fails(
        &machine.paint_with(&plan, DOG, "x.png", &[]),
        1,
        "weights.bin was altered",
    );
    fs::remove_file(&weights).unwrap();
    assert_fails(
        &machine.paint_with(&plan, DOG, "x.png", &[]),
        1,
        "weights.bin is missing",
    );
    assert_fails(
        &machine.paint_with(&machine.path("none"), DOG, "x.png", &[]),
        1,
        "is not a plan",
    );
}

#[test]
fn damaged_images_count_as_forgotten() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 5] = [
        ("step-003.bin", flip_bit),
        ("step-003.bin", |path| fs::remove_file(path).unwrap()),
        ("latents.bin", flip_bit),
        ("manifest.json", flip_bit),
        ("image.png", |path| fs::write(path, "").unwrap()),
    ];
    for (file, damage) in damages {
        let machine = Machine::new();
        machine.painted(DOG, "dog.png", &[]);
        damage(&machine.only_image().join(file));
        let output = machine.paint(CAT, "cat.png", &["--sparse"]);
        let made = json(&output);
        assert_eq!(made["outcome"], "generated", "{file}: {made}");
        let says_so = stderr(&output).contains("warning: ") || file == "manifest.json";
        assert!(says_so, "{file}: {}", stderr(&output));
        let fresh = Machine::new();
        fresh.painted(CAT, "cat.png", &[]);
        assert_eq!(
            machine.pixels("cat.png"),
            fresh.pixels("cat.png"),
            "{file}: never a wrong image"
        );
    }
}

#[test]
fn a_damaged_image_asked_for_by_name() {
    let machine = Machine::new();
    let id = machine.painted(DOG, "dog.png", &[])["id"].as_str().unwrap().to_owned();
    flip_bit(&machine.only_image().join("step-005.bin"));
    let output = machine.paint(CAT, "cat.png", &["--base", &id, "--sparse", "--edit-size", "20%"]);
    assert_fails(&output, 1, "damaged");
    assert!(!machine.path("cat.png").exists());
    assert!(machine.run(&["sessions", "remove", &id]).status.success());
}

#[test]
fn masks_that_are_no_masks() {
    let machine = Machine::new();
    machine.painted(DOG, "dog.png", &[]);
    let with = |mask: &str| machine.paint(CAT, "cat.png", &["--mask", mask]);
    let wide = machine.mask("wide.png", 200, 100, |_, _| true);
    assert_fails(&with(&wide), 1, "200x100");
    let black = machine.mask("black.png", 128, 128, |_, _| false);
    assert_fails(&with(&black), 1, "no white pixel");
    assert_fails(&with("README.md"), 1, "mask");
    assert_fails(&with("no-such-mask.png"), 1, "no-such-mask.png");
    let scaled = machine.mask("scaled.png", 64, 64, |row, _| row < 20);
    assert!(
        with(&scaled).status.success(),
        "any size of the image's aspect ratio will do"
    );
}

#[test]
fn a_mask_with_nothing_to_edit() {
    let machine = Machine::new();
    let mask = machine.mask("mask.png", 128, 128, |row, _| row < 20);
    assert_fails(
        &machine.paint(DOG, "dog.png", &["--mask", &mask]),
        1,
        "needs an image to edit",
    );
}

#[test]
fn words_and_numbers_that_make_no_sense() {
    let machine = Machine::new();
    assert_fails(&machine.paint("  ", "x.png", &[]), 1, "the prompt is empty");
    assert_fails(
        &machine.paint(DOG, "x.png", &["--sampler", "magic"]),
        2,
        "ddim, euler, dpm++, pndm",
    );
    assert_fails(&machine.paint(DOG, "x.png", &["--edit-size", "2"]), 2, "10%");
    for steps in ["0", "100000"] {
        let mut command = machine.command(&["run"]);
        let output = command
            .arg(plan())
            .args(["--prompt", DOG, "--steps", steps])
            .output()
            .unwrap();
        assert_fails(&output, 2, "steps");
    }
}

#[test]
fn no_onnx_runtime() {
    let machine = Machine::new();
    let output = machine
        .command(&["run", plan().to_str().unwrap(), "--prompt", DOG])
        .env("ORT_DYLIB_PATH", machine.path("nowhere.so"))
        .output()
        .unwrap();
    assert_fails(&output, 1, "cargo xtask setup");
}

#[test]
fn a_disk_that_takes_no_more_while_remembering() {
    let machine = Machine::new();
    // The limit on file sizes stops step files, which are larger than it, and lets the image pass.
    let script = "trap '' XFSZ; ulimit -f 150; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_fisec"), "run"])
        .arg(plan())
        .args(["--prompt", DOG, "--steps", "6", "--json", "-o"])
        .arg(machine.path("dog.png"))
        .env("FISEC_HOME", machine.home())
        .output()
        .unwrap();
    let made = json(&output);
    assert!(
        stderr(&output).contains("warning: the image is not remembered"),
        "{}",
        stderr(&output)
    );
    assert_eq!(made["id"], serde_json::Value::Null);
    assert_eq!(machine.pixels("dog.png").len(), 128 * 128 * 3);
    assert_eq!(fs::read_dir(machine.home().join("images")).unwrap().count(), 0);
}

#[test]
fn a_home_that_cannot_be_used_while_remembering() {
    let machine = Machine::new();
    fs::write(machine.home(), "a file").unwrap();
    let output = machine.paint(DOG, "dog.png", &[]);
    json(&output);
    assert!(
        stderr(&output).contains("warning: the image is not remembered"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_cache_that_would_be_too_large() {
    let machine = Machine::new();
    let output = machine.paint(DOG, "dog.png", &["--cache-limit", "10k"]);
    json(&output);
    assert!(
        stderr(&output).contains("at most 10000 may be kept"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn kernels_that_are_missing_or_of_other_sources() {
    let machine = Machine::new();
    let kernels = machine.path("cubins");
    fs::create_dir(&kernels).unwrap();
    let compile = || {
        let arguments = ["compile", "tests/data/nano-pipeline", "--target", "cuda:sm_90a", "-o"];
        let mut command = machine.command(&arguments);
        command
            .arg(machine.path("gpu.plan"))
            .env("FISEC_CUBINS", &kernels)
            .output()
            .unwrap()
    };
    assert_fails(&compile(), 1, "there are no kernels for sm_90a");
    fs::write(kernels.join("move_rows.sm_90a.cubin"), b"of long ago").unwrap();
    assert_fails(&compile(), 1, "of other sources");
    fs::write(kernels.join("sources"), b"00000000").unwrap();
    assert_fails(&compile(), 1, "of other sources");
    assert!(!machine.path("gpu.plan").exists());
}
