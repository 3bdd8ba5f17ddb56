//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Failure;

/// The repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The cargo that runs this.
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// Prints the step's name, runs it with the terminal's output, prints how long it took.
pub fn step(name: &str, command: &mut Command) -> Result<Duration, Failure> {
    println!("==> {name}");
    let started = Instant::now();
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    let took = started.elapsed();
    if !status.success() {
        return Err(format!("{name} failed ({status})"));
    }
    println!("    {:.1} s", took.as_secs_f64());
    Ok(took)
}

/// Runs quietly and returns stdout; stderr is shown when it fails.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if !output.status.success() {
        let shown = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} failed\n{}", program(command), shown.trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program exists and answers `--version`.
pub fn exists(program: &str) -> bool {
    let probe = Command::new(program).arg("--version").output();
    probe.is_ok_and(|output| output.status.success())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    format!("cannot start {}: {error}", program(command))
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
