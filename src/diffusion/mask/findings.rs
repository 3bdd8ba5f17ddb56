//! What the guided steps have shown of the region.

use fisec_tensor::Mask;

use super::{Attention, Difference, largest};
use crate::DiffusionError;
use crate::denoise::{MaskFrom, Region};

/// How far latents have moved and where changed words are looked at.
#[derive(Clone, Debug)]
pub struct Findings {
    /// moved latents
    pub difference: Difference,
    /// attention to changed words
    pub attention: Attention,
    /// which of them counts
    from: MaskFrom,
}

impl Findings {
    /// Nothing yet, for latents of this size.
    pub fn new(height: usize, width: usize, from: MaskFrom) -> Self {
        Findings {
            difference: Difference::new(height, width),
            attention: Attention::new(height, width),
            from,
        }
    }

    /// Whether attention has to be listened to.
    pub fn listens(&self) -> bool {
        self.from != MaskFrom::Latents
    }

    /// The region before it is grown: what has to stay the same for guiding to stop.
    pub fn core(&self, region: &Region) -> Result<Mask, DiffusionError> {
        match region {
            Region::Changed { .. } => Ok(self.union(Difference::mask)),
            Region::Share(share) => self.largest(*share),
            Region::Given(mask) => Ok(mask.clone()),
        }
    }

    /// The region.
    pub fn region(&self, region: &Region) -> Result<Mask, DiffusionError> {
        let Region::Changed { grow } = *region else {
            return self.core(region);
        };
        if self.from == MaskFrom::Attention {
            return Ok(self.attention.mask().dilated(grow));
        }
        Ok(self.union(|difference| difference.region(grow)))
    }

    fn union(&self, of_difference: impl Fn(&Difference) -> Mask) -> Mask {
        match self.from {
            MaskFrom::Latents => of_difference(&self.difference),
            MaskFrom::Attention => self.attention.mask(),
            MaskFrom::Both => of_difference(&self.difference).union(&self.attention.mask()),
        }
    }

    fn largest(&self, share: f64) -> Result<Mask, DiffusionError> {
        let size = self.difference.size();
        match self.from {
            MaskFrom::Latents => self.difference.largest(share),
            MaskFrom::Attention => largest(&self.attention.normalised(), size, share),
            MaskFrom::Both => {
                let both = self
                    .difference
                    .normalised()
                    .into_iter()
                    .zip(self.attention.normalised());
                let sums: Vec<f64> = both.map(|(moved, looked)| moved + looked).collect();
                largest(&sums, size, share)
            }
        }
    }
}
