//! The same edit by other methods.

use std::time::Instant;

use super::prompt::Prompt;
use super::{BaseImage, EditedImage, Pipeline, Request, tell};
use crate::denoise::{Base, EditOptions, Edited, Method, Subject, edit_by, prompt_to_prompt_calls};
use crate::samplers::SamplerKind;
use crate::words::{ControlOptions, Steering};
use crate::{DiffusionError, Notice, Observer, noise};

impl Pipeline {
    /// Edits a remembered image by another method than [`Method::Fisec`]. Nothing is recorded and nothing is pasted: what
    /// such a method does to the background is part of what it is.
    pub fn edit_by(
        &mut self,
        method: Method,
        request: &Request,
        base: BaseImage<'_>,
        options: &EditOptions,
        observer: &mut Observer<'_>,
    ) -> Result<EditedImage, DiffusionError> {
        let started = Instant::now();
        let tokens = self.tokens(request, observer)?;
        let old = Prompt::read(base.prompt, &self.tokenizer)?;
        if old.means(&tokens.prompt) {
            tell(observer, crate::Event::Notice(Notice::Unchanged))?;
            return Ok(EditedImage {
                image: None,
                norms: None,
                edited: Edited::unchanged(base.trajectory),
            });
        }
        let of_base = Request {
            prompt: base.prompt.to_owned(),
            ..request.clone()
        };
        let old_tokens = self.tokens(&of_base, &mut |_| std::ops::ControlFlow::Continue(()))?;
        let new_conditions = self.conditions(request, &tokens, observer)?;
        let old_conditions = self.conditions(&of_base, &old_tokens, observer)?;
        let is_ddim = new_conditions.sampler.kind() == SamplerKind::Ddim;
        let inverse = is_ddim.then(|| self.backwards(request, &old_conditions)).transpose()?;
        let (options, map_calls) = self.as_published(method, options, base.map_calls, request)?;
        let words = self.words(&old, &tokens.prompt, &options.control, map_calls)?;
        let text = started.elapsed();

        let unit = noise::randn(self.plan().latent.iter().product(), request.seed);
        let subject = Subject {
            old: &old_conditions,
            new: &new_conditions,
            base: Base {
                trajectory: base.trajectory,
                slots: base.slots,
                map_calls: base.map_calls,
            },
            noise: &unit,
            inverse: inverse.as_ref(),
        };
        let mut edited = edit_by(method, &mut self.denoiser, subject, &words, &options, &mut *observer)?;
        edited.timings.text = text;
        if edited.mask.is_empty() {
            return Ok(EditedImage {
                image: None,
                norms: None,
                edited,
            });
        }
        let started = Instant::now();
        let image = self.decode(&edited.trajectory.last_tensor(), observer)?;
        edited.timings.decode = started.elapsed();
        Ok(EditedImage {
            image: Some(image),
            norms: None,
            edited,
        })
    }

    /// Prompt-to-Prompt follows attention through most of the schedule, replaced words included; it computes the base's
    /// maps by itself.
    fn as_published(
        &self,
        method: Method,
        options: &EditOptions,
        map_calls: usize,
        request: &Request,
    ) -> Result<(EditOptions, usize), DiffusionError> {
        let calls = self.calls(request)?;
        if method != Method::PromptToPrompt {
            return Ok((options.clone(), map_calls.min(calls)));
        }
        if !self.plan().has_control() {
            return Err(DiffusionError::NoControl);
        }
        let control = ControlOptions {
            steering: Steering::Replace,
            ..options.control
        };
        let options = EditOptions {
            control,
            ..options.clone()
        };
        Ok((options, prompt_to_prompt_calls(calls)))
    }
}
