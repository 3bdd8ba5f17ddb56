//! Commands, one file each; this one parses and dispatches.

mod bench;
mod compile;
mod console;
mod diff;
mod doctor;
mod dump;
mod explain;
mod failure;
mod graphs;
pub(crate) mod internal;
mod interrupt;
mod memory;
mod numbers;
mod output;
mod printable;
mod region;
mod report;
mod run;
mod sessions;
mod units;
mod verify;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use console::Console;
use failure::Failure;

/// A compiler for cache-enabled sparse Stable Diffusion edits
///
/// Compile a pipeline once; make an image; change some words: only the region that they change is computed again.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120, after_help = EXAMPLE)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
Example:
  fisec compile models/demo -o demo.plan
  fisec run demo.plan --prompt \"a dog on the left on grass\" -o dog.png
  fisec run demo.plan --prompt \"a cat on the left on grass\" -o cat.png --report cat.html";

#[derive(Args, Clone, Copy, Debug)]
struct Verbosity {
    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile a model to a plan
    Compile(compile::Arguments),
    /// Make an image, or edit a remembered one
    Run(run::Arguments),
    /// Show a model or a plan as text, data or a drawing
    Dump(dump::Arguments),
    /// Show what was rewritten between two graphs
    Diff(diff::Arguments),
    /// Say per layer what was decided, and why
    Explain(explain::Arguments),
    /// Compare a model with recorded outputs, stage by stage
    Verify(verify::Arguments),
    /// Time the steps of a plan
    Bench(bench::Arguments),
    /// List, show and remove remembered images
    Sessions(sessions::Arguments),
    /// Say what this machine offers and what is missing
    Doctor(doctor::Arguments),
}

/// Parses the arguments, runs the command, shows its error.
pub fn main() -> ExitCode {
    internal::reserve();
    interrupt::install();
    let ended = internal::guarded(|| match Cli::try_parse() {
        Ok(cli) => show(cli.run()),
        Err(error) => usage(&error),
    });
    ended.unwrap_or_else(ExitCode::from)
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        let console = Console::new(self.verbosity.verbose, self.verbosity.quiet);
        match self.command {
            Command::Compile(arguments) => compile::run(&arguments, &console),
            Command::Run(arguments) => run::run(&arguments, &console),
            Command::Dump(arguments) => dump::run(&arguments, &console),
            Command::Diff(arguments) => diff::run(&arguments, &console),
            Command::Explain(arguments) => explain::run(&arguments, &console),
            Command::Verify(arguments) => verify::run(&arguments, &console),
            Command::Bench(arguments) => bench::run(&arguments, &console),
            Command::Sessions(arguments) => sessions::run(&arguments, &console),
            Command::Doctor(arguments) => doctor::run(&arguments, &console),
        }
    }
}

/// Shows how a command ended. Whatever it says, a signal that asked it to end decides the exit status.
fn show(result: Result<(), Failure>) -> ExitCode {
    if let Some(status) = interrupt::farewell() {
        return ExitCode::from(status);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        // It follows from the defect, of another thread, that was shown.
        Err(_) if !internal::is_first_error() => ExitCode::from(internal::aborted_status()),
        Err(failure) => {
            console::fail(&failure);
            ExitCode::FAILURE
        }
    }
}

/// Help goes to stdout; a mistake to stderr in the form of all errors, with exit status 2.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        console::fail(&failure::usage_text(&error.render().to_string()));
        return ExitCode::from(2);
    }
    match (error.use_stderr(), error.print()) {
        (true, _) => ExitCode::from(2),
        (false, printed) => show(printed.map_err(Failure::stdout)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example:\n  fisec "), "{}: {help}", command.get_name());
        }
    }
}
