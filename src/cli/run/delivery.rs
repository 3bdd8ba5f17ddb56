//! Where finished images go: files, and words or JSON about them.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fisec_diffusion::Request;
use fisec_runtime::cache::default_home;
use serde_json::Value;

use super::Arguments;
use super::again;
use super::made::Made;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Closed, Destination, Format, Planned};

/// The images of one command, in order. What cannot be written is noted and said at the end: nothing that was made is lost
/// for it.
pub(super) struct Delivery<'a> {
    arguments: &'a Arguments,
    console: &'a Console,
    image: Destination,
    mask: Option<Destination>,
    report: Option<Destination>,
    given: Vec<Value>,
    failures: Vec<Failure>,
    stdout: Option<Failure>,
}

/// What was written of an image.
pub(super) struct Files {
    image: Result<PathBuf, Failure>,
    /// the image, where it found no place
    unwritten: Vec<u8>,
    /// how long the image took
    written: Duration,
    mask: Option<PathBuf>,
    report: Option<PathBuf>,
}

impl<'a> Delivery<'a> {
    /// Fails where a file could not be written after the work.
    pub(super) fn new(arguments: &'a Arguments, console: &'a Console) -> Result<Self, Failure> {
        let delivery = Delivery {
            arguments,
            console,
            image: Destination::of(&arguments.output),
            mask: arguments.mask_out.as_deref().map(Destination::of),
            report: arguments.report.as_deref().map(Destination::of),
            given: Vec::new(),
            failures: Vec::new(),
            stdout: None,
        };
        delivery.check()?;
        Ok(delivery)
    }

    fn check(&self) -> Result<(), Failure> {
        let kinds = [
            ("-o", Some(&self.image), Format::Png),
            ("--mask-out", self.mask.as_ref(), Format::Png),
            ("--report", self.report.as_ref(), Format::Html),
        ];
        let mut outputs = Vec::new();
        for (role, destination, _) in kinds {
            let Some(destination) = destination else { continue };
            let paths = destination.paths(self.arguments.then.len() + 1);
            outputs.extend(paths.map(|path| Planned { role, path }));
        }
        let (home, mask) = (default_home().join("images"), self.arguments.edit.mask_file());
        let read = [
            ("the picture that is edited", self.arguments.image.as_deref()),
            ("the mask", mask),
        ];
        let read = read.into_iter().filter_map(|(role, path)| {
            Some(Planned {
                role,
                path: path?.to_owned(),
            })
        });
        let closed = [
            ("the plan", self.arguments.plan.as_path()),
            ("the remembered images", &home),
        ];
        let closed = closed.map(|(role, path)| Closed { role, path });
        output::check(&outputs, &read.collect::<Vec<_>>(), &closed)?;
        for (role, destination, format) in kinds {
            destination.map_or(Ok(()), |destination| destination.check_extension(role, format))?;
        }
        self.check_stdout(&kinds.map(|(_, destination, _)| destination))
    }

    /// Bytes are for programs, and for one reader at a time.
    fn check_stdout(&self, destinations: &[Option<&Destination>]) -> Result<(), Failure> {
        if !destinations.iter().flatten().any(|destination| destination.is_stdout()) {
            return Ok(());
        }
        if self.arguments.json {
            return Err(
                Failure::new("`--json` and a file would both be written to stdout").hint("name a file with `-o`")
            );
        }
        if io::stdout().is_terminal() {
            return Err(Failure::new("stdout is a terminal, which shows no files")
                .hint("send it to a program or a file, as in `-o - | display`, or name a file with `-o`"));
        }
        Ok(())
    }

    /// Writes an image and what was asked for beside it.
    pub(super) fn write(&mut self, made: &Made, request: &Request) -> Files {
        let number = self.given.len() + 1;
        let started = Instant::now();
        let (image, unwritten) = match made.png(request) {
            Ok(png) => match self.image.write(number, &png) {
                Ok(()) => (Ok(self.image.path(number)), Vec::new()),
                Err(failure) => (Err(failure), png),
            },
            Err(failure) => (Err(failure), Vec::new()),
        };
        Files {
            image,
            unwritten,
            written: started.elapsed(),
            mask: self.write_mask(number, made),
            report: self.write_report(number, made, request),
        }
    }

    fn write_mask(&mut self, number: usize, made: &Made) -> Option<PathBuf> {
        let destination = self.mask.as_mut()?;
        let written = match made.mask_png() {
            Ok(Some(mask)) => destination.write(number, &mask),
            Ok(None) => {
                self.console.warn("a first image has no region; no mask is written");
                return None;
            }
            Err(failure) => Err(failure),
        };
        let path = destination.path(number);
        self.noted(written, "--mask-out", "OTHER.png", made).then_some(path)
    }

    fn write_report(&mut self, number: usize, made: &Made, request: &Request) -> Option<PathBuf> {
        let destination = self.report.as_mut()?;
        let written = match made.report(request) {
            Ok(Some(html)) => destination.write(number, html.as_bytes()),
            Ok(None) => {
                self.console
                    .warn("a first image has nothing to be compared with; no report is written");
                return None;
            }
            Err(failure) => Err(failure),
        };
        let path = destination.path(number);
        self.noted(written, "--report", "OTHER.html", made).then_some(path)
    }

    /// Whether a file beside the image was written. An edit's can be made again from its base.
    fn noted(&mut self, written: Result<(), Failure>, flag: &str, other: &str, made: &Made) -> bool {
        let Err(failure) = written else { return true };
        let failure = match made.base_id() {
            Some(base) => failure.hint(format!(
                "run the command again with `--base {base} {flag} {other}`, which makes the same edit"
            )),
            None => failure,
        };
        self.failures.push(failure);
        false
    }

    /// Says what was made and where it is.
    pub(super) fn tell(&mut self, made: &Made, request: &Request, files: Files) {
        let image = match files.image {
            Ok(path) => Some(path),
            Err(failure) => {
                let failure = again::unwritten(failure, &files.unwritten, made.id(), self.arguments, request);
                self.failures.push(failure);
                None
            }
        };
        if !self.arguments.json {
            self.console.say(&made.text());
            if let Some(path) = image.as_ref().filter(|_| !self.image.is_stdout()) {
                self.print(output::print_path(path));
            }
        }
        let settings = self.arguments.edit.described();
        let image = (image.as_deref(), files.written);
        self.given
            .push(made.json(request, image, files.report, files.mask, settings));
    }

    /// Prints what was promised as JSON, of as many images as were made: one object, or a list when several were asked for.
    /// Fails with what ended the work, else with what could not be written.
    pub(super) fn finish(mut self, ended: Result<(), Failure>) -> Result<(), Failure> {
        if self.arguments.json && !self.given.is_empty() {
            let document = match self.arguments.then.is_empty() {
                true => self.given.remove(0),
                false => Value::Array(std::mem::take(&mut self.given)),
            };
            self.print(output::print_json(&document));
        }
        let mut failures = ended.err().into_iter().chain(self.failures).chain(self.stdout);
        let Some(first) = failures.next() else { return Ok(()) };
        for other in failures.filter(|other| !other.is_closed_pipe()) {
            self.console.warn(other.message());
        }
        Err(first)
    }

    /// Keeps the first error of stdout for the end: the images are made all the same.
    fn print(&mut self, printed: Result<(), Failure>) {
        if let Err(failure) = printed {
            self.stdout.get_or_insert(failure);
        }
    }
}
