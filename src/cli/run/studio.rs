//! Making one image: the base, the edit, and what is remembered.

use std::fmt::Display;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use fisec_diffusion::denoise::{EditOptions, Method, Region};
use fisec_diffusion::mask::Convergence;
use fisec_diffusion::{BaseImage, DiffusionError, Pipeline, Request, mask_from_png, mask_to_png};
use fisec_plan::Bundle;
use fisec_runtime::cache::{CacheError, Entry, ImageKey, Kept, Manifest, Recording, Store};
use fisec_runtime::{RuntimeError, SlotSink};
use fisec_tensor::Mask;

use super::Arguments;
use super::base::{self, BaseChoice};
use super::made::Made;
use super::opened::{OpenError, Opened, OpenedImages};
use super::progress::Progress;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::sessions::what_went;
use crate::cli::units;

/// An image that is made, but not yet remembered.
pub(super) struct Unfinished {
    pub(super) recording: Recording,
    pub(super) image: Opened,
    /// its region, a PNG
    pub(super) mask: Option<Vec<u8>>,
}

/// Everything that making one image takes.
pub(super) struct Studio<'a> {
    pub(super) pipeline: Pipeline,
    pub(super) store: Option<Store>,
    pub(super) bundle: Bundle,
    pub(super) request: Request,
    pub(super) base: BaseChoice,
    /// a picture from elsewhere to edit
    pub(super) picture: Option<PathBuf>,
    /// the next image is not remembered
    pub(super) forgets: bool,
    pub(super) arguments: &'a Arguments,
    pub(super) console: &'a Console,
    pub(super) opened: OpenedImages,
    pub(super) unfinished: Option<Unfinished>,
    /// the base and the image that was made last: in use until the next one is made, so that no process removes them
    pub(super) held: Vec<Entry>,
}

impl Studio<'_> {
    /// Edits the base where there is one. A base that turns out to be damaged counts as not remembered.
    pub(super) fn make(&mut self) -> Result<Made, Failure> {
        let key = self.key()?;
        let choice = self.base.clone();
        let base = match self.picture.clone() {
            Some(path) => Some(self.picture(&path, &key)?),
            None => base::choose(&choice, self.store.as_ref(), &key, &self.arguments.edit, self.console)?,
        };
        let Some(entry) = base else {
            // with `--then` they are meant for what follows
            let flag = self.arguments.edit.given().filter(|_| self.arguments.then.is_empty());
            if let Some(flag) = flag {
                return Err(
                    Failure::new(format!("`{flag}` needs an image to edit, and none is near enough"))
                        .hint("make the base image first, or name it with `--base ID`; `fisec sessions` lists them"),
                );
            }
            return self.generate(key);
        };
        let options = self.edit_options(&entry)?;
        match self.edit(key.clone(), &entry, &options) {
            Err(EditError::Damaged(reason)) if !matches!(choice, BaseChoice::Image(_)) => {
                self.console
                    .warn(&format!("{reason}; the image is made from the start"));
                self.generate(key)
            }
            Err(EditError::Damaged(reason)) => {
                Err(Failure::new(reason).hint("make the base image again with `--base none`"))
            }
            Err(EditError::Other(failure)) => Err(failure),
            Ok(made) => {
                self.held = vec![entry];
                Ok(made)
            }
        }
    }

    /// The next image is an edit of `made`.
    pub(super) fn go_on_from(&mut self, made: &Made, prompt: &str) -> Result<(), Failure> {
        let id = made.id().ok_or_else(|| {
            Failure::new("the image before `--then` is not remembered, so it cannot be edited")
                .hint("leave out `--dense` and `--method`, and see that `$FISEC_HOME` can be written")
        })?;
        self.base = BaseChoice::Image(id.to_owned());
        self.picture = None;
        self.request.prompt = prompt.to_owned();
        Ok(())
    }

    fn generate(&mut self, key: ImageKey) -> Result<Made, Failure> {
        let mut recording = self.begin(key.clone(), None, "")?;
        let mut progress = Progress::new(self.console);
        let sink = recording.as_mut().map(|recording| recording as &mut dyn SlotSink);
        let generated = self
            .pipeline
            .generate(&self.request, sink, &mut |event| progress.on(event))?;
        drop(progress);
        let id = recording.as_ref().map(|recording| recording.id().to_owned());
        self.unfinished = recording.map(|recording| Unfinished {
            recording,
            image: Opened {
                image: generated.image.clone(),
                trajectory: generated.trajectory.clone(),
                norms: generated.norms.clone(),
            },
            mask: None,
        });
        Ok(Made::first(generated, key, id, self.pipeline.calls(&self.request)?))
    }

    fn edit(&mut self, key: ImageKey, base: &Entry, options: &EditOptions) -> Result<Made, EditError> {
        let started = Instant::now();
        let opened = self.opened.get(base)?;
        let method = self.arguments.edit.method.method;
        let remembers = method == Method::Fisec && (!self.arguments.edit.dense || self.arguments.edit.remember);
        let mut recording = match remembers {
            true => self.begin(key.clone(), Some(base.id()), &self.arguments.edit.text())?,
            false => None,
        };
        let source = BaseImage {
            prompt: &base.manifest().key.prompt,
            trajectory: &opened.trajectory,
            slots: base,
            map_calls: base.map_calls(),
            image: Some(&opened.image),
            norms: opened.norms.as_ref(),
        };
        let opening = started.elapsed();
        let mut progress = Progress::new(self.console);
        let sink = recording.as_mut().map(|recording| recording as &mut dyn SlotSink);
        let observer = &mut |event| progress.on(event);
        let edited = match method {
            Method::Fisec => self.pipeline.edit(&self.request, source, options, sink, observer)?,
            other => self.pipeline.edit_by(other, &self.request, source, options, observer)?,
        };
        drop(progress);
        let id = recording.as_ref().map(|recording| recording.id().to_owned());
        if let (Some(recording), Some(image)) = (recording, &edited.image) {
            self.unfinished = Some(Unfinished {
                recording,
                image: Opened {
                    image: image.clone(),
                    trajectory: edited.edited.trajectory.clone(),
                    norms: edited.norms.clone(),
                },
                mask: Some(mask_to_png(&edited.edited.mask)?),
            });
        }
        Ok(Made::edit(edited, key, opened.image.clone(), base, id, opening))
    }

    /// Completes what is remembered of `made`: with the picture there already, nobody waits for it.
    pub(super) fn remember(&mut self, made: &mut Made) -> Result<(), Failure> {
        let Some(unfinished) = self.unfinished.take() else {
            return Ok(());
        };
        let started = Instant::now();
        let entry = self.complete(unfinished)?;
        made.set_remembered(entry.as_ref(), started.elapsed());
        if let Some(entry) = entry {
            self.held = vec![entry];
        }
        Ok(())
    }

    /// Closes the images and keeps to the limit, which others could not while they were in use.
    pub(super) fn close(&mut self) {
        self.held.clear();
        if let Some(store) = &self.store {
            // Images that cannot be removed now are removed when the next one is made.
            let _ = store.keep_to_limit();
            self.tell_evicted(store);
        }
    }

    /// Says what was removed to make room.
    fn tell_evicted(&self, store: &Store) {
        let evicted = store.take_evicted();
        if evicted.is_empty() {
            return;
        }
        let (what, size) = (what_went(&evicted), units::bytes(evicted.freed()));
        let ids = evicted.removed.iter().map(|image| image.id.as_str());
        let damaged = evicted.damaged.iter().map(|damaged| damaged.id.as_str());
        let leftovers = evicted.leftovers.iter().map(|scratch| scratch.name.as_str());
        let names: Vec<&str> = ids.chain(damaged).chain(leftovers).collect();
        let reason = match evicted.removed.is_empty() && evicted.damaged.is_empty() {
            true => String::new(),
            false => format!(", to stay below {}", units::bytes(store.limit())),
        };
        self.console
            .say(&format!("removed {what}, {size}{reason}: {}", names.join(", ")));
    }

    pub(super) fn key(&self) -> Result<ImageKey, Failure> {
        let (height, width) = self.pipeline.image_size();
        Ok(ImageKey {
            plan: self.bundle.hash().to_owned(),
            prompt: self.request.prompt.clone(),
            negative: self.request.negative.clone(),
            seed: self.request.seed,
            sampler: self.pipeline.sampler_kind(&self.request)?.name().to_owned(),
            steps: self.request.steps,
            guidance: self.request.guidance.into(),
            width,
            height,
        })
    }

    fn edit_options(&self, base: &Entry) -> Result<EditOptions, Failure> {
        let settings = &self.arguments.edit;
        let scale = self
            .bundle
            .plan()
            .pipeline
            .as_ref()
            .map_or(8, |pipeline| pipeline.vae_scale);
        let region = match (&settings.mask, settings.edit_size) {
            (Some(_), _) if settings.reuses_mask() => Region::Given(self.last_mask(base)?),
            (Some(path), _) => {
                let png = fisec_files::open(path).map_err(Failure::file(path))?;
                Region::Given(self.pipeline.read_mask(BufReader::new(png))?)
            }
            (None, Some(share)) => Region::Share(share),
            (None, None) => Region::Changed {
                grow: settings.grow().div_ceil(scale),
            },
        };
        Ok(EditOptions {
            region,
            mask_from: settings.mask_from(),
            control: settings.control(),
            guide_steps: settings.guide_steps(),
            feather: settings.feather,
            dense: settings.dense,
            break_even: if settings.sparse {
                1.0
            } else {
                self.bundle.plan().break_even
            },
        })
    }

    /// The region of the base when that is an edit, else of its newest edit.
    fn last_mask(&self, base: &Entry) -> Result<Mask, Failure> {
        let of_edit = |store: &Store| -> Result<Option<Vec<u8>>, CacheError> {
            let images = store.list()?.images;
            let is_edit = |image: &&Manifest| image.parent.as_deref() == Some(base.id());
            for image in images.iter().rev().filter(is_edit) {
                match store.get(&image.id) {
                    // removed since it was listed
                    Err(CacheError::Unknown(_)) => {}
                    other => return other?.mask(),
                }
            }
            Ok(None)
        };
        let own = base.mask()?;
        let png = match (own, &self.store) {
            (None, Some(store)) => of_edit(store)?,
            (own, _) => own,
        };
        let png = png.ok_or_else(|| {
            Failure::new(format!(
                "`{}` has no earlier edit whose region could be used",
                base.id()
            ))
            .hint("edit it once without `--mask last`")
        })?;
        Ok(self.pipeline.fit_mask(&mask_from_png(&png)?)?)
    }

    /// What cannot be remembered is made all the same.
    fn begin(&self, key: ImageKey, parent: Option<&str>, settings: &str) -> Result<Option<Recording>, DiffusionError> {
        let Some(store) = self.store.as_ref().filter(|_| !self.forgets) else {
            return Ok(None);
        };
        match self.begin_in(store, key, parent, settings)? {
            Ok(mut recording) => {
                recording.wait();
                Ok(Some(recording))
            }
            Err(error) => {
                not_remembered(self.console, &error, error.hint());
                Ok(None)
            }
        }
    }

    /// Begins to remember an image, with the maps that edits of it may follow.
    pub(super) fn begin_in(
        &self,
        store: &Store,
        key: ImageKey,
        parent: Option<&str>,
        settings: &str,
    ) -> Result<Result<Recording, CacheError>, DiffusionError> {
        let calls = self.pipeline.calls(&self.request)?;
        let kept = Kept {
            calls,
            map_calls: Convergence::new(calls).most(),
            tokens: self.pipeline.tokens_used(&key.prompt)?,
        };
        let recording = store.begin(key, parent, settings, &self.bundle.plan().slots, kept);
        self.tell_evicted(store);
        Ok(recording)
    }

    /// Hands over what the device has kept of an image and gives its entry a name.
    pub(super) fn complete(&mut self, unfinished: Unfinished) -> Result<Option<Entry>, DiffusionError> {
        let Unfinished {
            mut recording,
            image,
            mask,
        } = unfinished;
        let mut progress = Progress::new(self.console);
        let handed = self
            .pipeline
            .hand_over(&self.request, &mut recording, &mut |event| progress.on(event));
        drop(progress);
        // the picture is there: that the device had to give up what it kept is no failure
        if let Err(error @ DiffusionError::Runtime(_)) = &handed {
            not_remembered(self.console, error, None);
            return Ok(None);
        }
        handed?;
        recording.set_latents(&image.trajectory.to_tensor());
        if let Some(drift) = image.trajectory.drift_tensor() {
            recording.set_drift(&drift);
        }
        if let Some(norms) = &image.norms {
            recording.set_norms(norms);
        }
        recording.set_image(image.image.to_png(&[])?);
        if let Some(mask) = mask {
            recording.set_mask(mask);
        }
        let committed = recording.commit();
        if let Some(store) = &self.store {
            self.tell_evicted(store);
        }
        match committed {
            Ok(entry) => {
                self.opened.keep(entry.id(), image);
                Ok(Some(entry))
            }
            Err(error) => {
                not_remembered(self.console, &error, error.hint());
                Ok(None)
            }
        }
    }
}

pub(super) fn not_remembered(console: &Console, error: &dyn Display, hint: Option<&str>) {
    let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    console.warn(&format!("the image is not remembered: {error}{hint}"));
}

/// Why an edit failed: the base is damaged, or something else.
enum EditError {
    Damaged(String),
    Other(Failure),
}

impl From<DiffusionError> for EditError {
    fn from(error: DiffusionError) -> Self {
        match error {
            DiffusionError::Runtime(RuntimeError::DamagedCache { .. } | RuntimeError::MissingSlot { .. })
            | DiffusionError::Base(_) => EditError::Damaged(error.to_string()),
            other => EditError::Other(other.into()),
        }
    }
}

impl From<OpenError> for EditError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Files(error) => error.into(),
            OpenError::Contents(error) => error.into(),
        }
    }
}

impl From<CacheError> for EditError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Damaged { .. } => EditError::Damaged(error.to_string()),
            other => EditError::Other(other.into()),
        }
    }
}
