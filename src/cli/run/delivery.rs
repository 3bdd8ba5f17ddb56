//! Where finished images go: files, and words or JSON about them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fisec_diffusion::Request;
use serde_json::Value;

use super::Arguments;
use super::made::Made;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::output;

/// The images of one command, in order.
pub(super) struct Delivery<'a> {
    arguments: &'a Arguments,
    console: &'a Console,
    given: Vec<Value>,
}

/// What was written of an image.
pub(super) struct Files {
    image: PathBuf,
    /// how long the image took
    written: Duration,
    mask: Option<PathBuf>,
    report: Option<PathBuf>,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(arguments: &'a Arguments, console: &'a Console) -> Self {
        Delivery {
            arguments,
            console,
            given: Vec::new(),
        }
    }

    /// Writes an image and what was asked for beside it.
    pub(super) fn write(&self, made: &Made, request: &Request) -> Result<Files, Failure> {
        let number = self.given.len() + 1;
        let place = |path: &Path| numbered(path, number);
        let image = place(&self.arguments.output);
        let started = Instant::now();
        output::write_file(&image, &made.png(request)?)?;
        let written = started.elapsed();
        let mask = self.arguments.mask_out.as_deref().map(place);
        if let (Some(path), Some(mask)) = (&mask, made.mask_png()?) {
            output::write_file(path, &mask)?;
        }
        let report = self.arguments.report.as_deref().map(place);
        if let Some(path) = &report {
            match made.report(request)? {
                Some(html) => output::write_file(path, html.as_bytes())?,
                None => self
                    .console
                    .warn("a first image has nothing to be compared with; no report is written"),
            }
        }
        Ok(Files {
            image,
            written,
            mask,
            report,
        })
    }

    /// Says what was made and where it is.
    pub(super) fn tell(&mut self, made: &Made, request: &Request, files: Files) -> Result<(), Failure> {
        let Files {
            image,
            written,
            mask,
            report,
        } = files;
        if !self.arguments.json {
            self.console.say(&made.text());
            output::print(&image.display().to_string())?;
        }
        let settings = self.arguments.edit.described();
        self.given
            .push(made.json(request, (&image, written), report, mask, settings));
        Ok(())
    }

    /// Prints what was promised as JSON: one object, or a list when there are several images.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        match (self.arguments.json, self.arguments.then.is_empty()) {
            (false, _) => Ok(()),
            (true, true) => output::print_json(&self.given.remove(0)),
            (true, false) => output::print_json(&Value::Array(self.given)),
        }
    }
}

/// `cat.png`, `cat-2.png`, `cat-3.png`, …
fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 1 {
        return path.to_owned();
    }
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("{}-{number}", part(path.file_stem()));
    match path.extension() {
        Some(extension) => path.with_file_name(format!("{name}.{}", part(Some(extension)))),
        None => path.with_file_name(name),
    }
}
