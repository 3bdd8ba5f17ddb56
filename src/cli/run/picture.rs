//! `--image`: a picture from elsewhere as the base.

use std::io::{BufRead, BufReader, Seek};
use std::path::Path;

use blake3::Hasher;
use fisec_diffusion::{DiffusionError, Image, Request};
use fisec_runtime::SlotSink;
use fisec_runtime::cache::{Entry, ImageKey};
use serde_json::json;

use super::opened::Opened;
use super::progress::Progress;
use super::studio::{Studio, Unfinished};
use crate::cli::failure::Failure;

impl Studio<'_> {
    /// The remembered picture; it is inverted when it is new.
    pub(super) fn picture(&mut self, path: &Path, key: &ImageKey) -> Result<Entry, Failure> {
        let source = self.arguments.source_prompt.clone().unwrap_or_default();
        if source.trim().is_empty() {
            return Err(DiffusionError::EmptyPrompt.into());
        }
        let mut png = fisec_files::open(path).map_err(Failure::file(path))?;
        let mut hasher = Hasher::new();
        hasher.update_reader(&png).map_err(Failure::file(path))?;
        let settings = json!({ "image": hasher.finalize().to_hex()[..16].to_owned() }).to_string();
        let key = ImageKey {
            prompt: source.clone(),
            ..key.clone()
        };
        let Some(store) = &self.store else {
            return Err(Failure::new(
                "a picture is edited by way of what is remembered of it, and nothing can be remembered",
            )
            .hint("set FISEC_HOME to a folder that you may write to"));
        };
        if let Ok(Some(known)) = store.find(&key, None, &settings) {
            self.console
                .say(&format!("the picture is remembered as {}", known.id()));
            return Ok(known);
        }
        png.rewind().map_err(Failure::file(path))?;
        let picture = self.fitted(BufReader::new(png))?;
        let request = Request {
            prompt: source,
            ..self.request.clone()
        };
        let mut recording = Some(self.begin_in(store, key, None, &settings)??);
        let mut progress = Progress::new(self.console);
        let sink = recording.as_mut().map(|recording| recording as &mut dyn SlotSink);
        let inverted = self
            .pipeline
            .invert(&request, &picture, sink, &mut |event| progress.on(event))?;
        drop(progress);
        let entry = match recording {
            Some(recording) => self.complete(Unfinished {
                recording,
                image: Opened {
                    image: picture,
                    trajectory: inverted.trajectory,
                    norms: None,
                },
                mask: None,
            })?,
            None => None,
        };
        entry.ok_or_else(|| {
            Failure::new("the picture cannot be edited: it could not be remembered")
                .hint("see the warning above; FISEC_HOME says where images are remembered")
        })
    }

    fn fitted(&self, png: impl BufRead + Seek) -> Result<Image, Failure> {
        let (height, width) = self.pipeline.image_size();
        let (fitted, change) = Image::read_fitted(png, width, height)?;
        if let Some(change) = change {
            let ((columns, rows), (all_columns, all_rows)) = (change.kept, change.of);
            let cut = match change.kept == change.of {
                true => String::new(),
                false => format!("the middle {columns}x{rows} of "),
            };
            self.console.say(&format!(
                "{cut}the picture ({all_columns}x{all_rows}) is resized to {width}x{height}"
            ));
        }
        Ok(fitted)
    }
}
