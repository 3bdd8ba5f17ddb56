//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
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

/// Stages so far, with their times.
static STAGES: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// Prints the stage's name, runs it, prints how long it took.
pub fn stage<T>(name: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    println!("==> {name}");
    let started = Instant::now();
    let result = work();
    let took = started.elapsed();
    println!("    {:.1} s", took.as_secs_f64());
    let mut stages = STAGES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    stages.push((name.to_owned(), took));
    result
}

/// A stage that runs a program with the terminal's output. Returns how long it took.
pub fn step(name: &str, command: &mut Command) -> Result<Duration, Failure> {
    stage(name, || {
        let started = Instant::now();
        let status = command.status().map_err(|error| cannot_start(command, &error))?;
        match status.success() {
            true => Ok(started.elapsed()),
            false => Err(format!("{name} failed ({status})")),
        }
    })
}

/// Prints the seconds of every stage, and of all together.
pub fn print_stages() {
    let stages = STAGES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!("==> seconds");
    for (name, took) in stages.iter() {
        println!("{:8.1}  {name}", took.as_secs_f64());
    }
    let all: Duration = stages.iter().map(|(_, took)| *took).sum();
    println!("{:8.1}  all together", all.as_secs_f64());
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
