//! Looking at graphs between passes, and stopping there.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fisec_ir::{Graph, text};

use crate::cli::failure::Failure;
use crate::cli::{interrupt, output};

/// Writes graphs to files.
pub struct PassDump {
    pass: String,
    folder: PathBuf,
    seen: bool,
}

impl PassDump {
    /// Writes to `folder`, which is made, after the pass of a name, or after `all`.
    pub fn new(pass: &str, folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder).map_err(Failure::file(folder))?;
        Ok(PassDump {
            pass: pass.to_owned(),
            folder: folder.to_owned(),
            seen: false,
        })
    }

    fn write(&mut self, count: usize, name: &str, graph: &Graph) -> Result<(), Failure> {
        if self.pass != "all" && self.pass != name {
            return Ok(());
        }
        self.seen = true;
        let path = self.folder.join(format!("{count:02}-{}-{name}.fir", graph.name()));
        output::write_file(&path, text::print(graph).as_bytes())
    }
}

/// Told after every pass of a compilation.
#[derive(Default)]
pub struct Watcher {
    stop_after: Option<usize>,
    dump: Option<PassDump>,
    names: Vec<String>,
    failure: Option<Failure>,
}

impl Watcher {
    /// Stops after `stop_after` passes, and dumps.
    pub fn new(stop_after: Option<usize>, dump: Option<PassDump>) -> Self {
        Watcher {
            stop_after,
            dump,
            ..Watcher::default()
        }
    }

    /// A pass has run.
    pub fn after(&mut self, name: &str, graph: &Graph) -> ControlFlow<()> {
        self.names.push(name.to_owned());
        let count = self.names.len();
        let dumped = self.dump.as_mut().map_or(Ok(()), |dump| dump.write(count, name, graph));
        if let Err(failure) = dumped {
            self.failure = Some(failure);
        }
        match self.is_stopped() || interrupt::is_requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Whether the user wanted to stop here.
    pub fn is_stopped(&self) -> bool {
        self.failure.is_some() || self.stop_after.is_some_and(|most| self.names.len() >= most)
    }

    /// Passes so far.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// Name of the last pass.
    pub fn last(&self) -> &str {
        self.names.last().map_or("none", String::as_str)
    }

    /// Fails when a file could not be written, when the user stopped the work, or when the pass to dump after never ran.
    pub fn finish(self) -> Result<(), Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if interrupt::is_requested() {
            return Err(Failure::interrupted());
        }
        match self.dump {
            Some(dump) if !dump.seen => {
                let mut known = self.names;
                known.sort();
                known.dedup();
                Err(Failure::new(format!("there is no pass `{}`", dump.pass))
                    .hint(format!("one of all, {}", known.join(", "))))
            }
            _ => Ok(()),
        }
    }
}
