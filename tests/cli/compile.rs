//! `fisec compile`.

use std::fs;

use fisec_plan::Bundle;

use crate::machine::{DOG, Machine, assert_fails, copy_folder, json, plan, stderr, stdout};

const NANO: &str = "tests/data/nano-pipeline";

#[test]
fn it_says_what_it_recognised_and_what_it_wrote() {
    let machine = Machine::new();
    let target = machine.path("p.plan");
    let target = target.to_str().unwrap();
    let output = machine.run(&["compile", NANO, "--sparse-levels", "1", "-o", target]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "46 conv",
        "every operator was recognised",
        "16x16 sparse",
        "5 / 15 / 30 %",
        "per step in",
        target,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(machine.run(&["doctor", target]).status.success());
}

#[test]
fn the_cache_takes_what_was_printed() {
    let machine = Machine::new();
    let target = machine.path("p.plan");
    let target = target.to_str().unwrap();
    let printed = json(&machine.run(&["compile", NANO, "--sparse-levels", "2", "--json", "-o", target]));
    let made = json(&machine.paint_with(target.as_ref(), DOG, "dog.png", &[]));
    assert_eq!(made["outcome"], "generated");
    let step = fs::metadata(machine.only_image().join("step-000.bin")).unwrap().len();
    assert_eq!(printed["cache_bytes_per_step"].as_u64(), Some(step));
    assert!(step > 0);
}

#[test]
fn a_unet_alone_compiles_and_says_what_it_is_good_for() {
    let machine = Machine::new();
    let model = machine.path("alone/model.onnx");
    fs::create_dir(machine.path("alone")).unwrap();
    fs::copy("tests/data/nano-pipeline/unet/model.onnx", &model).unwrap();
    let target = machine.path("alone.plan");
    let arguments = ["compile", model.to_str().unwrap(), "-o", target.to_str().unwrap()];
    assert_fails(&machine.run(&arguments), 1, "--size");
    let output = machine.command(&arguments).args(["--size", "128"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_fails(&machine.paint_with(&target, DOG, "x.png", &[]), 1, "no text encoder");
}

#[test]
fn passes_can_be_watched_and_stopped() {
    let machine = Machine::new();
    let (target, folder) = (machine.path("p.plan"), machine.path("dump"));
    let output = machine
        .command(&["compile", NANO, "--stop-after", "3", "--dump-after", "all", "-o"])
        .args([&target, std::path::Path::new("-O"), &folder])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("stopped after 3 passes"));
    let mut dumps: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    dumps.sort();
    assert_eq!(dumps.len(), 3);
    assert!(
        dumps[0].starts_with("01-") && dumps[0].ends_with("-fold_constants.fir"),
        "{dumps:?}"
    );
    assert!(!target.exists());
    let unknown = machine
        .command(&["compile", NANO, "--dump-after", "polish", "-o"])
        .args([&target, std::path::Path::new("-O"), &folder])
        .output()
        .unwrap();
    assert_fails(&unknown, 1, "no pass `polish`");
}

#[test]
fn missing_and_damaged_models_are_named() {
    let machine = Machine::new();
    let target = machine.path("p.plan");
    let compile = |model: &str| machine.run(&["compile", model, "-o", target.to_str().unwrap()]);
    assert_fails(&compile("no/such/model"), 1, "no/such/model does not exist");
    fs::create_dir(machine.path("empty")).unwrap();
    assert_fails(
        &compile(machine.path("empty").to_str().unwrap()),
        1,
        "has no unet/model.onnx",
    );

    let broken = machine.path("broken");
    copy_folder(NANO.as_ref(), &broken);
    let unet = broken.join("unet/model.onnx");
    let bytes = fs::read(&unet).unwrap();
    for length in [0, 10, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&unet, &bytes[..length]).unwrap();
        let output = compile(broken.to_str().unwrap());
        assert_eq!(output.status.code(), Some(1), "{length} bytes");
        let text = stderr(&output);
        assert!(
            text.starts_with("error: ") && !text.contains("panicked"),
            "{length} bytes: {text}"
        );
    }
    fs::write(&unet, &bytes).unwrap();
    fs::remove_file(broken.join("vae_decoder/model.onnx")).unwrap();
    assert_fails(
        &compile(broken.to_str().unwrap()),
        1,
        "vae_decoder/model.onnx is missing",
    );
    assert!(!target.exists(), "nothing is left of a plan that failed");
}

#[test]
fn what_is_no_plan_is_not_overwritten() {
    let machine = Machine::new();
    let folder = machine.path("letters");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("letter.txt"), "dear").unwrap();
    let output = machine.run(&["compile", NANO, "-o", folder.to_str().unwrap()]);
    assert_fails(&output, 1, "is not a plan");
    assert_eq!(fs::read_to_string(folder.join("letter.txt")).unwrap(), "dear");
}

#[test]
fn other_targets_are_refused() {
    let machine = Machine::new();
    let output = machine.run(&[
        "compile",
        NANO,
        "--target",
        "tpu",
        "-o",
        machine.path("p").to_str().unwrap(),
    ]);
    assert_fails(&output, 2, "tpu");
    assert!(plan().exists());
}

#[test]
fn every_multiple_of_eight_pixels_is_a_size() {
    let machine = Machine::new();
    let target = machine.path("p.plan");
    let compile = |size: &str| machine.run(&["compile", NANO, "--size", size, "-o", target.to_str().unwrap()]);
    let output = compile("136x72");
    assert!(output.status.success(), "{}", stderr(&output));
    let plan = Bundle::open(&target).unwrap();
    let sizes = plan.plan().levels.iter().map(|level| [level.height, level.width]);
    assert_eq!(sizes.collect::<Vec<_>>(), [[9, 17], [5, 9], [3, 5], [2, 3]]);
    assert_fails(&compile("140x72"), 1, "cannot be made of latents");
}
