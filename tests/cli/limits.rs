//! Limits of the system: memory and threads that are refused, files that may not grow.
#![cfg(unix)]

use std::fs;
use std::process::{Command, Output};

use crate::machine::{DOG, Machine, json, plan, stderr};

/// Runs the binary under a `ulimit`.
fn limited(machine: &Machine, limit: &str, arguments: &[&str]) -> Output {
    let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_fisec")])
        .args(arguments)
        .env("FISEC_HOME", machine.home())
        // a trace takes memory as well
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap()
}

/// Wherever memory ends, it is one error, and the process is not aborted.
#[test]
fn memory_that_is_refused_is_an_error() {
    let machine = Machine::new();
    let target = machine.path("p.plan");
    let mut refused = 0;
    for kibibytes in (20_000..60_000).step_by(4_000) {
        let arguments = ["compile", "tests/data/nano-pipeline", "-o", target.to_str().unwrap()];
        let output = limited(&machine, &format!("-v {kibibytes}"), &arguments);
        let text = stderr(&output);
        // 127: the system's loader has no room for the binary
        assert!(
            matches!(output.status.code(), Some(0 | 1 | 127)),
            "{kibibytes} kB: {:?} {text}",
            output.status
        );
        if output.status.code() == Some(1) {
            assert_eq!(text.matches("error: ").count(), 1, "{kibibytes} kB: {text}");
            assert_eq!(text.matches("\n\nhint: ").count(), 1, "{kibibytes} kB: {text}");
            refused += usize::from(text.contains("error: out of memory"));
            assert!(!target.exists());
        } else if output.status.success() {
            fs::remove_dir_all(&target).unwrap();
        }
    }
    assert!(refused > 0, "memory was enough everywhere");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_of_the_write() {
    let machine = Machine::new();
    let image = machine.path("dog.png");
    let run = [
        "run",
        plan().to_str().unwrap(),
        "--prompt",
        DOG,
        "--steps",
        "6",
        "--json",
        "-o",
        image.to_str().unwrap(),
    ];
    let output = limited(&machine, "-f 150", &run);
    json(&output);
    assert!(
        stderr(&output).contains("warning: the image is not remembered"),
        "{}",
        stderr(&output)
    );
    assert_eq!(machine.pixels("dog.png").len(), 128 * 128 * 3);
    assert_eq!(fs::read_dir(machine.home().join("images")).unwrap().count(), 0);
}
