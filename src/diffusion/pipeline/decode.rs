//! From latents to pixels: all of them, or those that an edit changes.

use fisec_tensor::{Area, HostTensor};

use super::{BaseImage, Pipeline, tell};
use crate::denoise::Edited;
use crate::{DiffusionError, Event, Image, Notice, Observer, Phase, VaeDecoder, paste, paste_part, pieces};

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
        edited: &mut Edited,
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
        if let (Some(image), Some(norms)) = (base.image, base.norms) {
            tell(observer, Event::Decode)?;
            self.tell_refusal(observer)?;
            if let Some(image) = self.pasted(image, &latents, norms, edited, feather)? {
                self.tell_overflows(observer)?;
                return Ok((image, Some(norms.clone())));
            }
        }
        let decoded = self.decode(&latents, observer)?;
        edited.timings.on_device[2] += self.decoder.network().device_time();
        let norms = self.decoder.network().norms()?;
        Ok(match base.image {
            Some(image) => (paste(image, &decoded, &edited.mask, feather), norms),
            None => (decoded, norms),
        })
    }

    /// The pieces of an edit in its base's pixels; `None` where only the whole can be decoded.
    fn pasted(
        &mut self,
        base: &Image,
        latents: &HostTensor,
        norms: &HostTensor,
        edited: &mut Edited,
        feather: usize,
    ) -> Result<Option<Image>, DiffusionError> {
        let mut image = base.clone();
        for area in pieces(&edited.mask) {
            let Some((part, shown)) = self.decoder.decode_part(latents, &area, norms)? else {
                return Ok(None);
            };
            edited.timings.on_device[2] += self.decoder.network().device_time();
            let part = part.cropped(&area.within(&shown).scaled(self.files.vae_scale));
            image = paste_part(&image, &part, &area, &edited.mask, feather);
        }
        Ok(Some(image))
    }

    fn tell_refusal(&mut self, observer: &mut Observer<'_>) -> Result<(), DiffusionError> {
        match self.denoiser.executor().take_refusal() {
            Some(reason) => tell(observer, Event::Notice(Notice::OnHost(reason))),
            None => Ok(()),
        }
    }

    /// Says which networks have overflowed since this was last called.
    pub(super) fn tell_overflows(&mut self, observer: &mut Observer<'_>) -> Result<(), DiffusionError> {
        let encoder = self.encoder.as_mut().map(|encoder| encoder.network());
        let networks = [self.text_encoder.network(), self.decoder.network()].into_iter();
        for network in networks.chain(encoder) {
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
    /// whether a part can be decoded at all
    is_possible: bool,
    pieces: Vec<Area>,
    prepared: Result<(), DiffusionError>,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(decoder: &'a mut VaeDecoder, base: &BaseImage<'_>) -> Self {
        Ahead {
            decoder,
            is_possible: base.image.is_some() && base.norms.is_some(),
            pieces: Vec::new(),
            prepared: Ok(()),
        }
    }

    pub(super) fn on(&mut self, event: &Event) {
        match event {
            Event::Mask { pieces, .. } if self.is_possible => self.pieces.clone_from(pieces),
            Event::Step {
                phase: Phase::Sparse,
                step,
                steps,
            } if step + 1 == *steps => {
                let network = self.decoder.network();
                self.prepared = self.pieces.iter().try_for_each(|area| network.prepare_part(area));
            }
            _ => {}
        }
    }

    pub(super) fn finish(self) -> Result<(), DiffusionError> {
        self.prepared
    }
}
