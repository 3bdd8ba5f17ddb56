//! Errors as the user sees them: `error: …`, where, and after a blank line `hint: …`.

mod hints;

use std::fmt;
use std::io;
use std::path::Path;

use fisec_diffusion::DiffusionError;
use fisec_onnx::ImportError;
use fisec_passes::lower::LowerError;
use fisec_passes::{CompileError, PassError, RolesError};
use fisec_plan::PlanError;
use fisec_runtime::RuntimeError;
use fisec_runtime::cache::CacheError;

use super::printable;

/// Why a command failed.
#[derive(Clone, Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    closed_pipe: bool,
}

impl Failure {
    /// An error with nothing to suggest yet.
    pub fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            hint: None,
            closed_pipe: false,
        }
    }

    /// What the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file that cannot be read or written.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Failure::new(format!("{}: {error}", path.display())).hint(hints::of_io(&error))
    }

    /// Stdout cannot be written.
    pub fn stdout(error: io::Error) -> Self {
        Failure {
            closed_pipe: error.kind() == io::ErrorKind::BrokenPipe,
            ..Failure::new(format!("cannot write the output: {error}"))
                .hint("send stdout to a place that can be written, and run the command again")
        }
    }

    /// The command stops because the user asked for it.
    pub fn interrupted() -> Self {
        Failure::new("interrupted").hint("run the command again")
    }

    /// The same failure with words in front of its message.
    pub fn within(self, context: &str) -> Self {
        Failure {
            message: format!("{context}: {}", self.message),
            ..self
        }
    }

    /// What went wrong, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the reader of our output went away, as `head` does.
    pub fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", printable::message(&format!("error: {}", self.message)))?;
        match &self.hint {
            Some(hint) => writeln!(f, "\n{}", printable::message(&format!("hint: {hint}"))),
            None => Ok(()),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let hint = hints::of_plan(&error);
        Failure::new(error.to_string()).hint(hint)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        let hint = hints::of_runtime(&error);
        Failure::new(error.to_string()).hint(hint)
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        let hint = hints::of_cache(&error);
        Failure::new(error.to_string()).hint(hint)
    }
}

impl From<DiffusionError> for Failure {
    fn from(error: DiffusionError) -> Self {
        let hint = hints::of_diffusion(&error);
        Failure::new(error.to_string()).hint(hint)
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let hint = error.hint.clone();
        Failure::new(error.to_string()).hint(hint.unwrap_or_else(|| hints::MODEL.into()))
    }
}

impl From<PassError> for Failure {
    fn from(error: PassError) -> Self {
        let hint = error.hint.clone();
        Failure::new(error.to_string()).hint(hint.unwrap_or_else(|| hints::MODEL.into()))
    }
}

impl From<RolesError> for Failure {
    fn from(error: RolesError) -> Self {
        let hint = error.hint.clone();
        Failure::new(error.to_string()).hint(hint.unwrap_or_else(|| hints::NOT_A_DENOISER.into()))
    }
}

impl From<CompileError> for Failure {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Pass(error) => error.into(),
            CompileError::Roles(error) => error.into(),
            CompileError::Lower(LowerError::Plan(error)) => error.into(),
            CompileError::Lower(LowerError::TooMuch { .. }) => Failure::new(error.to_string()).hint(
                "such a model was not made by an exporter; compute the constant in the model, or store it in its files",
            ),
            CompileError::Graph(_) | CompileError::Lower(_) => Failure::new(error.to_string())
                .hint("this is a defect of the compiler: please report it with the model"),
        }
    }
}

/// The argument parser's message in the form of all errors.
pub fn usage_text(message: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for line in message.lines().filter(|line| !line.trim().is_empty()) {
        match line.trim().strip_prefix("tip: ") {
            Some(tip) => hints.push(tip.to_owned()),
            None if line.starts_with("For more information") => {}
            // A value that the user gave goes on over several lines.
            None if !lines.is_empty() && is_heading(line) => lines.push(format!("  {line}")),
            None => lines.push(line.to_owned()),
        }
    }
    if hints.is_empty() {
        hints.push("`--help` shows what may be given, with an example".into());
    }
    format!("{}\n\nhint: {}\n", lines.join("\n"), hints.join("; "))
}

/// Whether a line begins as messages do.
fn is_heading(line: &str) -> bool {
    ["error:", "hint:", "warning:"]
        .iter()
        .any(|heading| line.starts_with(heading))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_follows_a_blank_line() {
        let failure = Failure::new("it is broken").hint("mend it");
        assert_eq!(failure.to_string(), "error: it is broken\n\nhint: mend it\n");
        assert_eq!(Failure::new("it is broken").to_string(), "error: it is broken\n");
    }

    #[test]
    fn names_in_a_message_cannot_imitate_one() {
        let failure = Failure::new("no node `a\u{1b}[2J\nhint: b`").hint("see `c\nerror: d`");
        assert_eq!(
            failure.to_string(),
            "error: no node `a\\u{1b}[2J\n  hint: b`\n\nhint: see `c\n  error: d`\n"
        );
    }

    #[test]
    fn usage_errors_have_the_same_form() {
        let clap = "error: unexpected argument '--x'\n\n  tip: use '--y'\n\nUsage: fisec\n\nFor more information, try '--help'.\n";
        assert_eq!(
            usage_text(clap),
            "error: unexpected argument '--x'\nUsage: fisec\n\nhint: use '--y'\n"
        );
    }
}
