//! Messages and progress, all on stderr.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
            eprintln!("{message}");
        }
    }

    /// Something that only the curious want to know.
    pub fn detail(&self, message: &str) {
        if self.verbose {
            eprintln!("{message}");
        }
    }

    /// Something went wrong, and the command goes on without it.
    pub fn warn(&self, message: &str) {
        eprintln!("warning: {message}");
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
