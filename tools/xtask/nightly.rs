//! Checks that take minutes: all tests marked `#[ignore]`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::shell::{cargo, output, print_stages, stage, step};
use crate::{Failure, setup};

/// A test binary.
struct Target {
    name: String,
    program: PathBuf,
    /// folder of its crate, where `cargo test` runs it
    folder: PathBuf,
}

/// Runs the ignored tests of all crates, also after one has failed, and prints the seconds of every binary. They are built
/// as `cargo xtask test` builds them, with overflow and debug checks and with optimised kernels, so that one build serves
/// both. `names` choose tests by parts of their names.
pub fn run(names: &[String]) -> Result<(), Failure> {
    let library = setup::run()?;
    let targets = stage("build", build)?;
    let mut failed = Vec::new();
    for target in targets {
        if !has_ignored(&target, names)? {
            continue;
        }
        let mut tests = Command::new(&target.program);
        tests.current_dir(&target.folder).env("ORT_DYLIB_PATH", &library);
        tests.args(["--ignored", "--nocapture"]).args(names);
        if let Err(error) = step(&target.name, &mut tests) {
            failed.push(error);
        }
    }
    print_stages();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("\n")),
    }
}

fn build() -> Result<Vec<Target>, Failure> {
    let arguments = ["test", "--workspace", "--no-run", "--quiet", "--message-format=json"];
    let messages = output(cargo().args(arguments))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message: Value| target(&message)).collect())
}

/// The test binary that one of cargo's messages tells of.
fn target(message: &Value) -> Option<Target> {
    let program = message["executable"].as_str()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let is_test = message["profile"]["test"].as_bool()?;
    let package = manifest.parent()?.file_name()?.to_string_lossy();
    is_test.then(|| Target {
        name: format!("{package}: {}", message["target"]["name"].as_str().unwrap_or_default()),
        program: program.into(),
        folder: manifest.parent().unwrap_or(Path::new(".")).to_owned(),
    })
}

fn has_ignored(target: &Target, names: &[String]) -> Result<bool, Failure> {
    let mut list = Command::new(&target.program);
    list.current_dir(&target.folder)
        .args(["--ignored", "--list"])
        .args(names);
    Ok(output(&mut list)?.lines().any(|line| line.ends_with(": test")))
}
