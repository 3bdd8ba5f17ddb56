//! Runs passes one after another, checks after each, and lets a listener look or stop.

use std::ops::ControlFlow;

use fisec_ir::Graph;

use crate::{Changes, PassError};

/// What happens after each pass: called with the number and name of the pass and the graph it left.
pub type Listener<'a> = dyn FnMut(usize, &str, &Graph) -> ControlFlow<()> + 'a;

/// A running sequence of passes.
pub struct Pipeline<'a> {
    listener: &'a mut Listener<'a>,
    count: usize,
    stopped: bool,
    log: Vec<PassRun>,
}

/// A pass that has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassRun {
    /// program it ran on
    pub program: String,
    /// its name
    pub name: String,
    /// rewrites made
    pub changes: usize,
    /// nodes afterwards
    pub nodes: usize,
}

impl<'a> Pipeline<'a> {
    /// A pipeline that reports to `listener`; once that breaks, the remaining passes are skipped.
    pub fn new(listener: &'a mut Listener<'a>) -> Self {
        Pipeline {
            listener,
            count: 0,
            stopped: false,
            log: Vec::new(),
        }
    }

    /// Runs one pass unless the listener has asked to stop, then verifies the graph.
    pub fn run(
        &mut self,
        name: &'static str,
        graph: &mut Graph,
        pass: impl FnOnce(&mut Graph) -> Result<Changes, PassError>,
    ) -> Result<(), PassError> {
        if self.stopped {
            return Ok(());
        }
        let changes = pass(graph)?;
        self.finished(name, graph, changes)
    }

    /// Accounts for a pass that has run: verifies the graph and tells the listener.
    pub fn finished(&mut self, name: &'static str, graph: &Graph, changes: Changes) -> Result<(), PassError> {
        verify(name, graph)?;
        let (program, nodes) = (graph.name().to_owned(), graph.len());
        self.log.push(PassRun {
            program,
            name: name.to_owned(),
            changes: changes.0,
            nodes,
        });
        self.count += 1;
        self.stopped = (self.listener)(self.count, name, graph).is_break();
        Ok(())
    }

    /// Whether the listener has asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Every pass that has run.
    pub fn log(&self) -> &[PassRun] {
        &self.log
    }
}

fn verify(pass: &'static str, graph: &Graph) -> Result<(), PassError> {
    let Err(errors) = fisec_ir::verify::verify(graph) else {
        return Ok(());
    };
    let messages: Vec<String> = errors.iter().take(5).map(ToString::to_string).collect();
    let node = format!("{} after {pass}", graph.name());
    let hint = Some("this is a defect of the compiler: please report it with the model".into());
    Err(PassError {
        pass,
        node,
        message: messages.join("\n"),
        hint,
    })
}
