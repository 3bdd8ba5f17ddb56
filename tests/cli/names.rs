//! Names from models, prompts and paths are shown, never obeyed.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::machine::{Machine, assert_fails, copy_folder, plan, stderr, stdout};

const NANO: &str = "tests/data/nano-pipeline";

/// What every name is made of: an escape sequence, a reversal, a line that looks like a message, a bell, a C1 control.
const HOSTILE: &str = "\u{1b}[2J\u{202e}\nhint: rm\u{7}\u{9b}1m\r";

#[track_caller]
fn assert_harmless(what: &str, output: &Output) {
    for text in [stdout(output), stderr(output)] {
        let obeyed = text.chars().find(|letter| {
            letter.is_control() && !matches!(letter, '\n' | '\t') || matches!(letter, '\u{202a}'..='\u{202e}')
        });
        assert_eq!(obeyed, None, "{what}");
        let forged = text.lines().position(|line| line.starts_with("hint: rm"));
        assert_eq!(forged, None, "{what}");
    }
}

/// The nano pipeline with hostile names of the same length in its U-Net.
fn hostile_model(machine: &Machine) -> String {
    let folder = machine.path("model");
    copy_folder(Path::new(NANO), &folder);
    let path = folder.join("unet/model.onnx");
    let mut bytes = fs::read(&path).unwrap();
    for name in [
        "/unet/conv_in/Conv",
        "/unet/time_embedding/linear_1/Gemm",
        "conv_in.weight",
    ] {
        let hostile = HOSTILE.as_bytes().iter().copied().chain(std::iter::repeat(b'x'));
        let hostile: Vec<u8> = hostile.take(name.len()).collect();
        // not in the middle of a character, and the end is told apart
        let hostile = String::from_utf8_lossy(&hostile).replace('\u{fffd}', "x");
        let hostile = hostile.as_bytes();
        let mut at = 0;
        while let Some(found) = bytes[at..]
            .windows(name.len())
            .position(|window| window == name.as_bytes())
        {
            at += found;
            bytes[at..at + name.len()].copy_from_slice(&hostile[..name.len()]);
            at += name.len();
        }
    }
    fs::write(&path, bytes).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn names_of_a_model_are_shown() {
    let machine = Machine::new();
    let model = hostile_model(&machine);
    let target = machine.path("h.plan");
    let target = target.to_str().unwrap();
    let compiled = machine.run(&["compile", &model, "-v", "--sparse-levels", "2", "-o", target]);
    assert!(compiled.status.success(), "{}", stderr(&compiled));
    assert_harmless("compile", &compiled);
    let mut seen = 0;
    for arguments in [
        &["dump", &model][..],
        &["dump", target],
        &["dump", target, "--format", "calls"],
        &["dump", target, "--format", "json"],
        &["dump", target, "--format", "dot"],
        &["dump", target, "--format", "svg"],
        &["dump", target, "--format", "html"],
        &["dump", &model, "--node", "\u{1b}"],
        &["diff", target],
        &["diff", target, "--json"],
        &["explain", target],
        &["explain", target, "--json"],
        &["bench", target, "--runs", "1", "--per-node"],
    ] {
        let output = machine.run(arguments);
        assert_harmless(&format!("{arguments:?}"), &output);
        let text = stdout(&output);
        if arguments.contains(&"json") || arguments.contains(&"--json") {
            serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        }
        seen += usize::from(text.contains("u{1b}") || text.contains("u001b"));
    }
    assert!(seen >= 8, "the names are there: {seen}");
}

#[test]
fn names_in_errors_are_shown() {
    let machine = Machine::new();
    for arguments in [
        &["dump", plan().to_str().unwrap(), "--node", HOSTILE][..],
        &["dump", plan().to_str().unwrap(), "--program", HOSTILE],
        &["compile", HOSTILE],
        &["run", HOSTILE, "--prompt", "a dog"],
        &["run", plan().to_str().unwrap(), "--prompt", "a dog", "--base", HOSTILE],
        &["explain", plan().to_str().unwrap(), HOSTILE],
        &["sessions", "show", HOSTILE],
    ] {
        let output = machine.run(arguments);
        assert_fails(&output, 1, "u{1b}");
        assert_harmless(&format!("{arguments:?}"), &output);
    }
    let usage = machine.run(&["compile", "x", "--size", HOSTILE]);
    assert_eq!(usage.status.code(), Some(2));
    assert_harmless("usage", &usage);
}

#[test]
fn prompts_are_shown() {
    let machine = Machine::new();
    let prompt = format!("a dog {HOSTILE} on grass");
    let made = machine.paint(&prompt, "dog.png", &[]);
    assert!(made.status.success(), "{}", stderr(&made));
    assert_harmless("run", &made);
    let id = fs::read_dir(machine.home().join("images"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let id = id.to_str().unwrap();
    for arguments in [&["sessions"][..], &["sessions", "--json"], &["sessions", "show", id]] {
        let output = machine.run(arguments);
        assert_harmless(&format!("{arguments:?}"), &output);
        assert!(stdout(&output).contains("1b"));
    }
    let report = machine.path("r.html");
    let edit = format!("a cat {HOSTILE} on grass");
    let edited = machine.paint(
        &edit,
        "cat.png",
        &["--report", report.to_str().unwrap(), "--edit-size", "20%"],
    );
    assert!(edited.status.success(), "{}", stderr(&edited));
    assert_harmless("an edit", &edited);
    let page = fs::read_to_string(report).unwrap();
    assert!(!page.contains('\u{1b}') && !page.contains('\u{202e}') && page.contains("\\u{1b}"));
}
