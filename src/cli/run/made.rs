//! A finished image: its PNG, its figures, its report.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fisec_diffusion::denoise::Outcome;
use fisec_diffusion::{EditedImage, Generated, Image, Request, Timings, mask_to_png};
use fisec_runtime::cache::{Entry, ImageKey, Manifest};
use fisec_tensor::Mask;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::output::path_json;
use crate::cli::report::Report;
use crate::cli::units;

/// What an image takes beside being made.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    /// reading the base image
    opened: Duration,
    /// completing what is remembered of it, afterwards
    remembered: Duration,
}

/// What `run` made.
pub struct Made {
    image: Image,
    base: Option<(Manifest, Image)>,
    mask: Option<Mask>,
    outcome: Option<Outcome>,
    /// what the image is remembered as
    id: Option<String>,
    /// where its region is remembered
    mask_path: Option<PathBuf>,
    key: ImageKey,
    dense_steps: usize,
    guide_steps: usize,
    controlled_steps: usize,
    sparse_steps: usize,
    macs: u64,
    macs_dense: u64,
    bytes_read: u64,
    timings: Timings,
    around: Around,
}

impl Made {
    /// A first image.
    pub fn first(generated: Generated, key: ImageKey, id: Option<String>, calls: usize) -> Self {
        Made {
            image: generated.image,
            base: None,
            mask: None,
            outcome: None,
            id,
            mask_path: None,
            key,
            dense_steps: calls,
            guide_steps: 0,
            controlled_steps: 0,
            sparse_steps: 0,
            macs: generated.work.macs,
            macs_dense: generated.work.macs,
            bytes_read: generated.work.slot_bytes,
            timings: generated.timings,
            around: Around::default(),
        }
    }

    /// An edit; the base itself where nothing changes.
    pub fn edit(
        edited: EditedImage,
        key: ImageKey,
        base_image: Image,
        base: &Entry,
        id: Option<String>,
        opened: Duration,
    ) -> Self {
        let EditedImage { image, edited, .. } = edited;
        let id = match edited.outcome.is_base() {
            true => Some(base.id().to_owned()),
            false => id,
        };
        Made {
            image: image.unwrap_or_else(|| base_image.clone()),
            base: Some((base.manifest().clone(), base_image)),
            mask: Some(edited.mask),
            outcome: Some(edited.outcome),
            id,
            mask_path: None,
            key,
            dense_steps: edited.dense_steps,
            guide_steps: edited.guided_steps,
            controlled_steps: edited.controlled_steps,
            sparse_steps: edited.sparse_steps,
            macs: edited.work.macs,
            macs_dense: edited.macs_dense,
            bytes_read: edited.work.slot_bytes,
            timings: edited.timings,
            around: Around {
                opened,
                remembered: Duration::ZERO,
            },
        }
    }

    /// What has become of remembering it, and how long that took.
    pub fn set_remembered(&mut self, entry: Option<&Entry>, took: Duration) {
        self.id = entry.map(|entry| entry.id().to_owned());
        self.mask_path = entry.and_then(Entry::mask_path);
        self.around.remembered = took;
    }

    /// It is not remembered after all.
    pub fn set_forgotten(&mut self) {
        if !self.outcome.is_some_and(Outcome::is_base) {
            self.id = None;
        }
    }

    /// What the image is an edit of.
    pub fn base_id(&self) -> Option<&str> {
        self.base.as_ref().map(|(base, _)| base.id.as_str())
    }

    /// The image as a PNG that says how it was made: A1111's `parameters` and our own `fisec` as JSON.
    pub fn png(&self, request: &Request) -> Result<Vec<u8>, Failure> {
        let parameters = self.parameters(request);
        let record = self.record(request).to_string();
        Ok(self.image.to_png(&[("parameters", &parameters), ("fisec", &record)])?)
    }

    /// The region as a PNG of one pixel per latent; `None` for a first image.
    pub fn mask_png(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.mask.as_ref().map(mask_to_png).transpose()?)
    }

    /// Several lines for a person.
    pub fn text(&self) -> String {
        let seconds = units::seconds(self.timings.total().as_secs_f64());
        let steps = match (self.guide_steps, self.sparse_steps, self.dense_steps) {
            (0, 0, dense) => format!("{dense} dense steps"),
            (guide, 0, dense) => format!("{guide} guided and {dense} dense steps"),
            (guide, sparse, 0) => format!("{guide} guided and {sparse} sparse steps"),
            (guide, sparse, dense) => format!("{guide} guided, {sparse} sparse and {dense} dense steps"),
        };
        let mut text = match (&self.base, self.outcome) {
            (Some((base, _)), Some(outcome)) if outcome.is_base() => {
                format!("the base image {} is the result", base.id)
            }
            _ => format!("{steps} in {seconds}"),
        };
        if self.macs_dense > self.macs && self.macs > 0 {
            let share = self.macs as f64 / self.macs_dense as f64;
            text += &format!(", {} of the dense work", units::percent(share));
        }
        if let Some(id) = &self.id {
            text += &format!("; remembered as {id}");
        }
        text
    }

    /// What the image is remembered as.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Everything about the image: `image`, `report` and `mask` are the files written, the image within `written`;
    /// `settings` say how edits are made. Fields without a value are null.
    pub fn json(
        &self,
        request: &Request,
        (image, written): (Option<&Path>, Duration),
        report: Option<PathBuf>,
        mask: Option<PathBuf>,
        settings: Value,
    ) -> Value {
        let mut value = self.record(request);
        value["image"] = json!(image.map(path_json));
        value["report"] = json!(report.as_deref().map(path_json));
        value["mask"] = json!(self.mask_path.as_ref().or(mask.as_ref()).map(|path| path_json(path)));
        if let (Some(fields), Value::Object(settings)) = (value.as_object_mut(), settings) {
            fields.extend(settings);
        }
        let whole = self.around.opened + self.timings.total() + written;
        value["seconds"] = json!({
            "open": self.around.opened.as_secs_f64(),
            "text": self.timings.text.as_secs_f64(),
            "guide": self.timings.guide.as_secs_f64(),
            "bind": self.timings.bind.as_secs_f64(),
            "edit": self.timings.edit.as_secs_f64(),
            "decode": self.timings.decode.as_secs_f64(),
            "guide_device": self.timings.on_device[0].as_secs_f64(),
            "edit_device": self.timings.on_device[1].as_secs_f64(),
            "decode_device": self.timings.on_device[2].as_secs_f64(),
            "total": self.timings.total().as_secs_f64(),
            "remember": self.around.remembered.as_secs_f64(),
            "write": written.as_secs_f64(),
            "whole": whole.as_secs_f64(),
        });
        value
    }

    /// The page that compares the edit with its base; `None` for a first image.
    pub fn report(&self, request: &Request) -> Result<Option<String>, Failure> {
        let (Some((base, base_image)), Some(mask)) = (&self.base, &self.mask) else {
            return Ok(None);
        };
        let report = Report {
            base_prompt: &base.key.prompt,
            prompt: &request.prompt,
            base: base_image,
            edited: &self.image,
            mask,
            figures: self.figures(mask),
            phases: self.phases(),
            settings: self.settings(request, base),
        };
        report.to_html().map(Some)
    }

    fn figures(&self, mask: &Mask) -> Vec<(String, String)> {
        let mut figures = vec![(units::percent(mask.share()), "of the image was recomputed".to_owned())];
        if self.macs_dense > 0 {
            let share = self.macs as f64 / self.macs_dense as f64;
            let what = format!(
                "of the dense work: {} of {}",
                units::macs(self.macs),
                units::macs(self.macs_dense)
            );
            figures.push((units::percent(share), what));
        }
        let seconds = self.timings.total().as_secs_f64();
        figures.push((units::seconds(seconds), "from words to image".to_owned()));
        let steps = format!("{} + {}", self.guide_steps, self.sparse_steps + self.dense_steps);
        let kind = if self.sparse_steps > 0 { "sparse" } else { "dense" };
        figures.push((steps, format!("guided and {kind} steps")));
        figures
    }

    fn phases(&self) -> Vec<(&'static str, f64)> {
        let last = if self.sparse_steps > 0 {
            "sparse steps"
        } else {
            "dense steps"
        };
        let phases = [
            ("reading the words", self.timings.text),
            ("guided steps", self.timings.guide),
            ("finding and binding the region", self.timings.bind),
            (last, self.timings.edit),
            ("decoding", self.timings.decode),
        ];
        phases.map(|(name, time)| (name, time.as_secs_f64())).to_vec()
    }

    fn settings(&self, request: &Request, base: &Manifest) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("base", base.id.clone()),
            ("negative", request.negative.clone()),
            ("seed", request.seed.to_string()),
            ("sampler", base.key.sampler.clone()),
            ("steps", request.steps.to_string()),
            ("guidance", request.guidance.to_string()),
            ("size", format!("{}x{}", self.image.width, self.image.height)),
            ("plan", base.key.plan[..16.min(base.key.plan.len())].to_owned()),
            ("read from cache", units::bytes(self.bytes_read)),
        ];
        settings.retain(|(_, value)| !value.is_empty());
        settings
    }

    /// A1111's text: prompt, negative prompt, a line of settings.
    fn parameters(&self, request: &Request) -> String {
        let mut text = request.prompt.clone();
        if !request.negative.is_empty() {
            text += &format!("\nNegative prompt: {}", request.negative);
        }
        text += &format!("\nSteps: {}, Sampler: {}", request.steps, self.key.sampler);
        text += &format!(", CFG scale: {}, Seed: {}", request.guidance, request.seed);
        text += &format!(", Size: {}x{}", self.image.width, self.image.height);
        if let Some((base, _)) = &self.base {
            text += &format!(", Base: {}", base.id);
        }
        if let Some(mask) = &self.mask {
            text += &format!(", Mask share: {:.4}", mask.share());
        }
        text + &format!(", Version: fisec {}", env!("CARGO_PKG_VERSION"))
    }

    fn record(&self, request: &Request) -> Value {
        json!({
            "id": self.id,
            "base": self.base.as_ref().map(|(base, _)| &base.id),
            "outcome": match self.outcome {
                None => "generated",
                Some(Outcome::Unchanged) => "unchanged",
                Some(Outcome::EmptyMask) => "empty mask",
                Some(Outcome::Sparse) => "sparse",
                Some(Outcome::Dense) => "dense",
            },
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": request.seed,
            "steps": request.steps,
            "guidance": request.guidance,
            "sampler": self.key.sampler,
            "plan": self.key.plan,
            "size": [self.image.width, self.image.height],
            "mask_share": self.mask.as_ref().map(Mask::share),
            "steps_guide": self.guide_steps,
            "steps_control": self.controlled_steps,
            "steps_sparse": self.sparse_steps,
            "steps_dense": self.dense_steps,
            "macs": self.macs,
            "macs_dense": self.macs_dense,
            "bytes_read": self.bytes_read,
        })
    }
}
