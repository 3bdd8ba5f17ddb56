//! The project's chores: `cargo xtask setup`, `cargo xtask test`, `cargo xtask nightly`, `cargo xtask demo`.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "chores talk to a person at a terminal"
)]

mod arrows;
mod demo;
mod kernels;
mod nightly;
mod opens;
mod setup;
mod shell;
mod size;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup    fetch the ONNX Runtime library into .runtime/
  kernels  compile the CUDA kernels into target/cubins (needs no GPU)
  test     everything that CI runs
  nightly  the slow checks: all ignored tests, or those whose names contain one of the words that follow
  demo     make an image, edit it twice, write a report
  arrows   check that crates depend on each other in the allowed direction only
";

/// A chore failed: the message to show, with a `hint:` where there is one.
type Failure = String;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let result = match command.as_deref() {
        Some("setup") => setup::run().map(|library| println!("{}", library.display())),
        Some("kernels") => kernels::run(),
        Some("test") => test::run(),
        Some("nightly") => nightly::run(&arguments.collect::<Vec<String>>()),
        Some("demo") => demo::run(),
        Some("arrows") => arrows::run(),
        Some("--help" | "-h" | "help") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
