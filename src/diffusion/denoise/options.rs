//! What an edit is asked for, and what it came to.

use fisec_runtime::SlotSource;
use fisec_tensor::Mask;

use crate::words::ControlOptions;
use crate::{Timings, Trajectory, Work};

/// What is recorded of the image to edit.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// its latents after every call of the same schedule
    pub trajectory: &'a Trajectory,
    /// its activations
    pub slots: &'a dyn SlotSource,
    /// first calls of which its cross-attention maps are recorded
    pub map_calls: usize,
}

/// Which latents may change.
#[derive(Clone, Debug, PartialEq)]
pub enum Region {
    /// those that the new prompt moves (Otsu's threshold, opening), made whole and grown by `grow` latents; see
    /// [`crate::mask::Difference::region`]
    Changed {
        /// Chebyshev distance in latents
        grow: usize,
    },
    /// this share of all latents, 0 to 1: those that the new prompt moves most
    Share(f64),
    /// these, at the latents' size
    Given(Mask),
}

/// What tells which region changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskFrom {
    /// how far the guided steps move latents away from the recorded ones
    #[default]
    Latents,
    /// where the changed words are looked at
    Attention,
    /// either
    Both,
}

/// How many of the first steps are dense with the new prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuideSteps {
    /// until the mask stays the same; none for a given region
    #[default]
    Auto,
    /// this many, at most the whole schedule; a region that has to be found needs one
    Exactly(usize),
}

/// How to edit: latents, words ([`EditOptions::control`]) and pixels ([`EditOptions::feather`]).
#[derive(Clone, Debug, PartialEq)]
pub struct EditOptions {
    /// which latents may change
    pub region: Region,
    /// what finds them
    pub mask_from: MaskFrom,
    /// how the guided steps follow the base's attention
    pub control: ControlOptions,
    /// dense steps before
    pub guide_steps: GuideSteps,
    /// compute the same edit with no sparsity
    pub dense: bool,
    /// share of active latents above which dense steps are used
    pub break_even: f64,
    /// pixels inside the region's edge over which the edited picture fades in
    pub feather: usize,
}

/// What an edit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// the prompt means the same: the base is the result
    Unchanged,
    /// no latent changes: the base is the result
    EmptyMask,
    /// sparse steps
    Sparse,
    /// dense steps inside the mask
    Dense,
}

impl Outcome {
    /// Whether the result is the base, so that there is nothing to remember.
    pub fn is_base(self) -> bool {
        matches!(self, Outcome::Unchanged | Outcome::EmptyMask)
    }
}

/// An edited image's latents and what they cost.
#[derive(Clone, Debug)]
pub struct Edited {
    /// latents after every call; after the guided ones, the recorded ones outside the mask
    pub trajectory: Trajectory,
    /// active latents
    pub mask: Mask,
    /// what happened
    pub outcome: Outcome,
    /// dense steps that found the mask
    pub guided_steps: usize,
    /// those of them that followed recorded attention
    pub controlled_steps: usize,
    /// sparse steps after them
    pub sparse_steps: usize,
    /// other dense steps; for other methods all that they spent, finding masks and inverting included
    pub dense_steps: usize,
    /// what all steps cost
    pub work: Work,
    /// multiply-accumulates of the whole schedule, dense
    pub macs_dense: u64,
    /// where the time went
    pub timings: Timings,
}

impl Edited {
    /// The base itself, at no cost.
    pub fn unchanged(base: &Trajectory) -> Self {
        let [_, height, width] = base.shape();
        Edited {
            trajectory: base.clone(),
            mask: Mask::filled(height, width, false),
            outcome: Outcome::Unchanged,
            guided_steps: 0,
            controlled_steps: 0,
            sparse_steps: 0,
            dense_steps: 0,
            work: Work::default(),
            macs_dense: 0,
            timings: Timings::default(),
        }
    }
}
