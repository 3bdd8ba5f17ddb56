//! What is shown while an image is made.

use std::ops::ControlFlow;

use fisec_diffusion::{Event, Phase};
use indicatif::ProgressBar;

use crate::cli::console::Console;
use crate::cli::{interrupt, units};

/// A bar over the schedule, with the messages in between.
pub struct Progress<'a> {
    console: &'a Console,
    bar: Option<ProgressBar>,
}

impl<'a> Progress<'a> {
    pub fn new(console: &'a Console) -> Self {
        Progress { console, bar: None }
    }

    /// Takes an event; breaks when the user has had enough.
    pub fn on(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Text => {}
            Event::Step { phase, step, steps } => self.step(phase, step, steps),
            Event::Mask { share, .. } => self.say(&format!("{} of the image changes", units::percent(share))),
            Event::Decode => self.finish(),
            Event::Notice(notice) if notice.is_warning() => self.warn(&notice.to_string()),
            Event::Notice(notice) => self.say(&notice.to_string()),
        }
        match interrupt::is_requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn step(&mut self, phase: Phase, step: usize, steps: usize) {
        let name = match phase {
            Phase::Generate => "generating",
            Phase::Guide => "guiding",
            Phase::Sparse => "editing",
            Phase::Dense => "dense",
            Phase::Invert => "reading the picture",
            Phase::Remember => "remembering",
        };
        let bar = self
            .bar
            .get_or_insert_with(|| self.console.progress(name, steps as u64));
        bar.set_message(name);
        bar.set_position(step as u64 + 1);
    }

    fn say(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.console.say(message)),
            None => self.console.say(message),
        }
    }

    fn warn(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.console.warn(message)),
            None => self.console.warn(message),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}
