//! Messages and progress, all on stderr. A stderr that cannot be written never stops a command.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::printable;

/// How much is said.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    verbose: bool,
    quiet: bool,
}

impl Console {
    pub fn new(verbose: bool, quiet: bool) -> Self {
        Console { verbose, quiet }
    }

    /// Something that the user should know.
    pub fn say(&self, message: &str) {
        if !self.quiet {
            write_line(&printable::message(message));
        }
    }

    /// Something that only the curious want to know.
    pub fn detail(&self, message: &str) {
        if self.verbose {
            write_line(&printable::message(message));
        }
    }

    /// Something went wrong, and the command goes on without it.
    pub fn warn(&self, message: &str) {
        write_line(&printable::message(&format!("warning: {message}")));
    }

    /// A bar over `steps` with rate and time left; nothing when stderr is no terminal.
    pub fn progress(&self, name: &str, steps: u64) -> ProgressBar {
        let target = match self.quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let style = ProgressStyle::with_template("{msg:>10} {bar:32.cyan/dim} {pos}/{len}  {per_sec}  {eta} left")
            .expect("a valid template")
            .progress_chars("━╸─");
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style);
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Shows why a command ends: an error that is already laid out over several lines.
pub fn fail(failure: &dyn Display) {
    let text = failure.to_string();
    write_line(printable::lines(&text).trim_end_matches('\n'));
}

/// Writes a line to stderr in one piece. There is no place left to report a failure of stderr to.
fn write_line(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
