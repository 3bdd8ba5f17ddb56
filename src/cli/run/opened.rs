//! What edits need of an image beside its slots, kept while the process runs.

use std::collections::VecDeque;
use std::rc::Rc;

use fisec_diffusion::{DiffusionError, Image, Trajectory};
use fisec_runtime::cache::{CacheError, Entry};
use fisec_tensor::HostTensor;

/// Images kept: of 768x768 pixels and 50 steps, one takes 10 MB.
const MOST: usize = 4;

/// An image with its way there.
pub(super) struct Opened {
    pub(super) image: Image,
    pub(super) trajectory: Trajectory,
    /// of its decoder
    pub(super) norms: Option<HostTensor>,
}

/// The images that were opened or made last, by name.
#[derive(Default)]
pub(super) struct OpenedImages(VecDeque<(String, Rc<Opened>)>);

/// Why an image cannot be opened.
pub(super) enum OpenError {
    Files(CacheError),
    Contents(DiffusionError),
}

impl OpenedImages {
    /// What is known of a remembered image, or what its files hold.
    pub(super) fn get(&mut self, entry: &Entry) -> Result<Rc<Opened>, OpenError> {
        let known = self.0.iter().find(|(id, _)| id == entry.id());
        if let Some((_, opened)) = known {
            return Ok(Rc::clone(opened));
        }
        // of images that this process made, a device may have everything
        entry.prefetch_first();
        let trajectory = Trajectory::from_tensor(&entry.latents()?)?.with_drift(entry.drift()?.as_ref())?;
        let opened = Opened {
            image: Image::from_png(&entry.image()?)?,
            trajectory,
            norms: entry.norms()?,
        };
        Ok(self.keep(entry.id(), opened))
    }

    /// Keeps an image that was just remembered.
    pub(super) fn keep(&mut self, id: &str, opened: Opened) -> Rc<Opened> {
        self.0.retain(|(known, _)| known != id);
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        let opened = Rc::new(opened);
        self.0.push_back((id.to_owned(), Rc::clone(&opened)));
        opened
    }
}

impl From<CacheError> for OpenError {
    fn from(error: CacheError) -> Self {
        OpenError::Files(error)
    }
}

impl From<DiffusionError> for OpenError {
    fn from(error: DiffusionError) -> Self {
        OpenError::Contents(error)
    }
}
