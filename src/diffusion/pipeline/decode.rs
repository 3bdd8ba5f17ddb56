//! From latents to pixels: all of them, or those that an edit changes.

use fisec_tensor::{Area, HostTensor};

use super::{BaseImage, Pipeline, tell};
use crate::denoise::Edited;
use crate::paste::pasted;
use crate::{DiffusionError, Event, Image, Notice, Observer, Phase, VaeDecoder, paste, paste_part};

impl Pipeline {
    /// The image of latents `[1, C, H, W]`.
    pub fn decode(&mut self, latents: &HostTensor, observer: &mut Observer<'_>) -> Result<Image, DiffusionError> {
        tell(observer, Event::Decode)?;
        self.tell_refusal(observer)?;
        let image = self.decoder.decode(latents)?;
        self.tell_overflows(observer)?;
        Ok(image)
    }

    /// An edit in its base's pixels, where there are any, and the decoder's norms for edits of it: those of the base where
    /// they were used.
    pub(super) fn decode_edit(
        &mut self,
        base: &BaseImage<'_>,
        edited: &Edited,
        feather: usize,
        observer: &mut Observer<'_>,
    ) -> Result<(Image, Option<HostTensor>), DiffusionError> {
        let (height, width) = self.image_size();
        if let Some(image) = base
            .image
            .filter(|image| (image.height, image.width) != (height, width))
        {
            let reason = format!("its image has {}x{} pixels", image.width, image.height);
            return Err(DiffusionError::Base(reason));
        }
        let latents = edited.trajectory.last_tensor();
        if let (Some(image), Some(norms), Some(area)) = (base.image, base.norms, edited.mask.area()) {
            tell(observer, Event::Decode)?;
            self.tell_refusal(observer)?;
            let area = pasted(&area, latents_of(base));
            if let Some((part, shown)) = self.decoder.decode_part(&latents, &area, norms)? {
                self.tell_overflows(observer)?;
                let part = part.cropped(&area.within(&shown).scaled(self.files.vae_scale));
                let image = paste_part(image, &part, &area, &edited.mask, feather);
                return Ok((image, Some(norms.clone())));
            }
        }
        let decoded = self.decode(&latents, observer)?;
        let norms = self.decoder.network().norms()?;
        Ok(match base.image {
            Some(image) => (paste(image, &decoded, &edited.mask, feather), norms),
            None => (decoded, norms),
        })
    }

    fn tell_refusal(&mut self, observer: &mut Observer<'_>) -> Result<(), DiffusionError> {
        match self.denoiser.executor().take_refusal() {
            Some(reason) => tell(observer, Event::Notice(Notice::OnHost(reason))),
            None => Ok(()),
        }
    }

    fn tell_overflows(&mut self, observer: &mut Observer<'_>) -> Result<(), DiffusionError> {
        for network in [self.text_encoder.network(), self.decoder.network()] {
            if let Some(notice) = network.take_overflow() {
                tell(observer, Event::Notice(notice))?;
            }
        }
        Ok(())
    }
}

/// Makes the decoder ready for an edit's region while the device computes sparse steps and the host has nothing to do.
pub(super) struct Ahead<'a> {
    decoder: &'a mut VaeDecoder,
    latents: [usize; 2],
    /// whether a part can be decoded at all
    is_possible: bool,
    area: Option<Area>,
    prepared: Result<(), DiffusionError>,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(decoder: &'a mut VaeDecoder, base: &BaseImage<'_>) -> Self {
        Ahead {
            decoder,
            latents: latents_of(base),
            is_possible: base.image.is_some() && base.norms.is_some(),
            area: None,
            prepared: Ok(()),
        }
    }

    pub(super) fn on(&mut self, event: &Event) {
        match *event {
            Event::Mask { area, .. } => self.area = area.filter(|_| self.is_possible),
            Event::Step {
                phase: Phase::Sparse,
                step,
                steps,
            } if step + 1 == steps => {
                if let Some(area) = self.area.take() {
                    let area = pasted(&area, self.latents);
                    self.prepared = self.decoder.network().prepare_part(&area);
                }
            }
            _ => {}
        }
    }

    pub(super) fn finish(self) -> Result<(), DiffusionError> {
        self.prepared
    }
}

/// Rows and columns of a base's latents.
fn latents_of(base: &BaseImage<'_>) -> [usize; 2] {
    let [_, height, width] = base.trajectory.shape();
    [height, width]
}
