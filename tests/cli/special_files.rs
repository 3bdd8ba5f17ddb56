//! Named pipes where files are expected: named in an error, and not waited for.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{CAT, DOG, Machine, assert_fails, copy_folder, plan};
use crate::onnx::{Model, SAMPLE};

const NANO: &str = "tests/data/nano-pipeline";
const PIPE: &str = "a named pipe, not a file";
/// Long enough for every command that does not wait for a pipe.
const LIMIT: Duration = Duration::from_secs(60);

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// The command's output; a command that waits is ended and fails the test.
#[track_caller]
fn ended(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("it waits: {command:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_pipe_as_a_model() {
    let machine = Machine::new();
    pipe(&machine.path("model.onnx"));
    let model = machine.path("model.onnx");
    let compile = ended(machine.command(&["compile", "--size", "128"]).arg(&model));
    assert_fails(&compile, 1, PIPE);
    let folder = machine.path("pipeline");
    copy_folder(Path::new(NANO), &folder);
    pipe(&folder.join("unet/model.onnx"));
    assert_fails(&ended(machine.command(&["compile"]).arg(&folder)), 1, PIPE);
}

#[test]
fn a_pipe_as_external_data() {
    let machine = Machine::new();
    let mut model = Model::default();
    model.external("w", &[4, 1, 1], "weights.data");
    model.node("Add", &["sample", "w"], &["result"], &[]);
    model.output("result", &SAMPLE);
    fs::write(machine.path("model.onnx"), model.encode()).unwrap();
    pipe(&machine.path("weights.data"));
    let output = ended(
        machine
            .command(&["compile", "--size", "128"])
            .arg(machine.path("model.onnx")),
    );
    assert_fails(&output, 1, PIPE);
}

#[test]
fn pipes_in_a_plan() {
    for file in [
        "plan.json",
        "weights.bin",
        "pipeline/scheduler/scheduler_config.json",
        "pipeline/text_encoder/model.onnx",
    ] {
        let machine = Machine::new();
        let plan = machine.copied_plan();
        pipe(&plan.join(file));
        let output = ended(
            machine
                .command(&["run"])
                .arg(&plan)
                .args(["--prompt", DOG, "--steps", "2"]),
        );
        assert_fails(&output, 1, PIPE);
    }
}

#[test]
fn pipes_and_devices_as_pictures_and_masks() {
    let machine = Machine::new();
    machine.painted(DOG, "dog.png", &[]);
    let pipe_path = machine.path("pipe.png");
    pipe(&pipe_path);
    let given = pipe_path.to_str().unwrap();
    let run = |more: &[&str]| {
        let mut command = machine.command(&["run"]);
        ended(
            command
                .arg(plan())
                .args(["--prompt", CAT, "--steps", "6", "-o"])
                .arg(machine.path("cat.png"))
                .args(more),
        )
    };
    assert_fails(&run(&["--mask", given]), 1, PIPE);
    assert_fails(&run(&["--image", given, "--source-prompt", DOG]), 1, PIPE);
    assert_fails(&run(&["--mask", "/dev/zero"]), 1, "a device, not a file");
    let explain = ended(machine.command(&["explain"]).arg(plan()).args(["--mask", given]));
    assert_fails(&explain, 1, PIPE);
}

#[test]
fn pipes_as_recorded_tensors_costs_and_text() {
    let machine = Machine::new();
    let path = machine.path("pipe.fir");
    pipe(&path);
    let model = "tests/data/nano-pipeline/unet/model.onnx";
    assert_fails(&ended(machine.command(&["verify", model, "--io"]).arg(&path)), 1, PIPE);
    assert_fails(
        &ended(machine.command(&["compile", NANO, "--costs"]).arg(&path)),
        1,
        PIPE,
    );
    assert_fails(&ended(machine.command(&["dump"]).arg(&path)), 1, PIPE);
}
