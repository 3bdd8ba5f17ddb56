//! The command line as a user meets it: exit status, stdout, stderr.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A place for remembered images, and a command that uses it.
struct Machine {
    home: TempDir,
}

impl Machine {
    fn new() -> Self {
        Machine {
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fisec"));
        command.args(arguments).env("FISEC_HOME", self.path().join("home"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Fails unless the command failed as all commands do: this status, nothing on stdout, one error, one hint, no panic.
#[track_caller]
fn assert_fails(output: &Output, status: i32, mentions: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(text.starts_with("error: ") || text.contains("\nerror: "), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    assert_eq!(text.matches("\n\nhint: ").count(), 1, "{text}");
    assert!(text.contains(mentions), "`{mentions}` in {text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn help_and_version_go_to_stdout() {
    let machine = Machine::new();
    for arguments in [&["--help"][..], &["--version"], &["sessions", "--help"]] {
        let output = machine.run(arguments);
        assert!(output.status.success());
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
    assert_eq!(machine.run(&[]).status.code(), Some(2));
}

#[test]
fn mistakes_in_arguments_exit_with_2() {
    let machine = Machine::new();
    assert_fails(&machine.run(&["paint"]), 2, "paint");
    assert_fails(&machine.run(&["sessions", "prune", "--keep", "much"]), 2, "500M");
    assert_fails(&machine.run(&["sessions", "--colour"]), 2, "--colour");
}

#[test]
fn an_empty_store_is_listed_as_such() {
    let machine = Machine::new();
    let output = machine.run(&["sessions"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(stderr(&output).contains("no image is remembered yet"));
    let listing: serde_json::Value = serde_json::from_slice(&machine.run(&["sessions", "--json"]).stdout).unwrap();
    assert_eq!(listing["images"].as_array().unwrap().len(), 0);
}

#[test]
fn unknown_images_are_named() {
    let machine = Machine::new();
    assert_fails(
        &machine.run(&["sessions", "show", "abc"]),
        1,
        "no remembered image `abc`",
    );
    assert_fails(
        &machine.run(&["sessions", "remove", "../x"]),
        1,
        "no remembered image `../x`",
    );
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let machine = Machine::new();
    fs::write(machine.path().join("home"), "a file").unwrap();
    let output = machine.run(&["sessions"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
}

#[test]
fn doctor_reports_a_missing_onnx_runtime_with_a_hint() {
    let machine = Machine::new();
    let missing = machine.path().join("nowhere.so");
    let output = machine
        .command(&["doctor"])
        .env("ORT_DYLIB_PATH", &missing)
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("ONNX Runtime") && text.contains("\n\nhint: run `cargo xtask setup`"),
        "{text}"
    );
    assert!(
        stdout(&output).contains("processor"),
        "the rest is reported all the same"
    );
}

#[test]
fn doctor_checks_a_plan() {
    let machine = Machine::new();
    let output = machine.run(&["doctor", machine.path().to_str().unwrap()]);
    assert_fails_after_data(&output, "is not a plan");
}

#[track_caller]
fn assert_fails_after_data(output: &Output, mentions: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(mentions) && text.contains("\n\nhint: "), "{text}");
}
