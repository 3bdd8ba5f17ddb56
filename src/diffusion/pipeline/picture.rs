//! A picture from elsewhere as a base for edits.

use std::time::Instant;

use fisec_runtime::SlotSink;

use super::{Generated, Pipeline, Request};
use crate::denoise::{self, Conditions, NO_GUIDANCE};
use crate::samplers::{Sampler, SamplerKind};
use crate::{DiffusionError, Image, Observer, Timings};

impl Pipeline {
    /// Inverts `picture`, of [`Pipeline::image_size`], along the request's schedule (DDIM), its prompt being what the
    /// picture shows. The result's image is the picture itself; with a `sink`, edits of it can start from what is
    /// recorded.
    pub fn invert(
        &mut self,
        request: &Request,
        picture: &Image,
        sink: Option<&mut dyn SlotSink>,
        observer: &mut Observer<'_>,
    ) -> Result<Generated, DiffusionError> {
        let started = Instant::now();
        let tokens = self.tokens(request, observer)?;
        let conditions = self.conditions(request, &tokens, observer)?;
        let inverse = self.backwards(request, &conditions)?;
        let latents = self.encode(picture, observer)?.to_f32_vec();
        let text = started.elapsed();

        let started = Instant::now();
        let inverted = denoise::invert(
            &mut self.denoiser,
            &conditions,
            &inverse,
            &latents,
            sink,
            &mut *observer,
        )?;
        Ok(Generated {
            image: picture.clone(),
            norms: None,
            trajectory: inverted.trajectory,
            work: inverted.work,
            timings: Timings {
                text,
                guide: started.elapsed(),
                ..Timings::default()
            },
        })
    }

    /// The same words along the schedule backwards, without guidance: inversion is stable that way only.
    pub(super) fn backwards(&self, request: &Request, forwards: &Conditions) -> Result<Conditions, DiffusionError> {
        Ok(Conditions {
            sampler: Sampler::new(SamplerKind::DdimInverse, &self.scheduler, request.steps)?,
            guidance: NO_GUIDANCE,
            ..forwards.clone()
        })
    }
}
