//! Stdout and stderr that cannot be written: no panic, no lost picture, the exit status of the work.
#![cfg(unix)]

use std::fs::{self, File};
use std::io;
use std::process::{Command, Stdio};

use crate::machine::{CAT, DOG, Machine, plan, stderr};

/// A pipe without a reader.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A device that is full.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// One of every command, with the exit status that it has.
fn commands(machine: &Machine) -> Vec<(Command, i32)> {
    let plan = plan().to_str().unwrap();
    let nano = "tests/data/nano-pipeline";
    let io = "tests/data/onnx/ts17_static/io.npz";
    let model = machine.unpacked("tests/data/onnx/ts17_static/model.onnx.gz");
    let target = machine.path("p.plan");
    let image = machine.path("dog.png");
    let [target, image] = [&target, &image].map(|path| path.to_str().unwrap());
    let run = ["run", plan, "--prompt", DOG, "--steps", "6", "-v", "-o", image];
    let all: [(&[&str], i32); 14] = [
        (&["compile", nano, "-v", "-o", target], 0),
        (&run, 0),
        (&[&run[..], &["--json", "--then", CAT]].concat(), 0),
        (&["sessions"], 0),
        (&["sessions", "show", "zz"], 1),
        (&["doctor"], 0),
        (&["dump", nano], 0),
        (&["diff", plan], 0),
        (&["explain", plan, "-v"], 0),
        (&["bench", plan, "--runs", "1"], 0),
        (&["verify", &model, "--io", io, "--through", "ort"], 0),
        (&["--help"], 0),
        (&["paint"], 2),
        (&["compile", "no/such/model"], 1),
    ];
    all.map(|(arguments, status)| (machine.command(arguments), status))
        .into()
}

#[test]
fn a_dead_stderr_changes_nothing() {
    for dead in [closed, full] {
        let machine = Machine::new();
        for (mut command, status) in commands(&machine) {
            let output = command.stderr(dead()).output().unwrap();
            assert_eq!(output.status.code(), Some(status), "{command:?}");
        }
        assert_eq!(machine.pixels("dog.png").len(), 128 * 128 * 3);
        assert_eq!(machine.pixels("dog-2.png").len(), 128 * 128 * 3);
        assert_eq!(fs::read_dir(machine.home().join("images")).unwrap().count(), 2);
    }
}

#[test]
fn a_full_stdout_is_an_error_after_the_work() {
    let machine = Machine::new();
    for (mut command, status) in commands(&machine) {
        let output = command.stdout(full()).output().unwrap();
        // `sessions` prints a table, and so does everything that succeeds
        assert_eq!(output.status.code(), Some(status.max(1)), "{command:?}");
        let text = stderr(&output);
        assert_eq!(
            (text.matches("error: ").count(), text.contains("panicked")),
            (1, false),
            "{text}"
        );
        assert!(
            status > 0 || text.contains("error: cannot write the output: No space left"),
            "{text}"
        );
        assert!(text.contains("\n\nhint: "), "{text}");
    }
    assert!(machine.path("p.plan/plan.json").exists());
    assert_eq!(machine.pixels("dog-2.png").len(), 128 * 128 * 3, "the chain goes on");
    assert_eq!(fs::read_dir(machine.home().join("images")).unwrap().count(), 2);
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let machine = Machine::new();
    for (mut command, status) in commands(&machine) {
        let output = command.stdout(closed()).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{command:?}: {}", stderr(&output));
        assert_eq!(
            stderr(&output).matches("error: ").count(),
            usize::from(status > 0),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(machine.pixels("dog-2.png").len(), 128 * 128 * 3);
    let mut command = machine.command(&["run", plan().to_str().unwrap(), "-p", CAT, "--steps", "6", "-o", "-"]);
    let output = command.stdout(closed()).output().unwrap();
    assert!(
        output.status.success() && !stderr(&output).contains("error"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn both_dead_and_none_at_all() {
    let machine = Machine::new();
    for (mut command, status) in commands(&machine) {
        let code = command.stdout(full()).stderr(full()).status().unwrap().code();
        assert_eq!(code, Some(status.max(1)), "{command:?}");
    }
    let script = "exec \"$0\" \"$@\" >&- 2>&- <&-";
    let status = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_fisec"), "run"])
        .arg(plan())
        .args(["--prompt", CAT, "--steps", "6", "-o"])
        .arg(machine.path("cat.png"))
        .env("FISEC_HOME", machine.home())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(machine.pixels("cat.png").len(), 128 * 128 * 3);
}
