//! What a caller is told while an image is made.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use fisec_tensor::Area;

/// Which program a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// dense, recording a first image
    Generate,
    /// dense, an edit's first steps
    Guide,
    /// sparse
    Sparse,
    /// dense inside a mask, because the mask is too large or was asked to be
    Dense,
    /// dense, finding the noise of a picture and recording the way back
    Invert,
    /// none: what a device has kept of the step goes to where images are remembered
    Remember,
}

/// Progress, and what should be said aloud.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// prompts are being encoded
    Text,
    /// call `step` (from 0) of `steps` is done
    Step {
        /// which program ran
        phase: Phase,
        /// index of the call
        step: usize,
        /// calls of the whole schedule
        steps: usize,
    },
    /// the mask is known
    Mask {
        /// share of active latents, 0 to 1
        share: f64,
        /// where they are pasted: see [`crate::pieces`]
        pieces: Vec<Area>,
    },
    /// latents are being decoded
    Decode,
    /// something that the user should know
    Notice(Notice),
}

/// Something that the user should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// a prompt was too long; this is what was left out
    Truncated(String),
    /// the prompt means the same as the base's: the base is the result
    Unchanged,
    /// nothing changed enough to make a mask: the base is the result
    EmptyMask,
    /// the mask is so large that dense steps are faster
    LargeMask {
        /// share of active latents
        share: f64,
        /// share from which dense steps are faster
        break_even: f64,
    },
    /// the plan has no sparse program
    NoSparseProgram,
    /// a network overflows half precision; ONNX Runtime computes it in f32 from now on
    Overflow {
        /// text encoder, VAE decoder or encoder
        network: &'static str,
        /// whether the plan's device has overflowed, not the ONNX file
        on_device: bool,
    },
    /// guidance at or below 1 is none: the prompt alone is followed
    NoGuidance {
        /// as it was given
        guidance: f32,
        /// the negative prompt, which has no effect
        negative: String,
    },
    /// a part of the steps runs on the host although the plan is for a device; this is why
    OnHost(String),
}

/// Characters of a prompt that a notice shows at most.
const SHOWN_WORDS: usize = 200;

impl Notice {
    /// Whether something was not as it should be, although an image comes out.
    pub fn is_warning(&self) -> bool {
        matches!(self, Notice::Overflow { .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Truncated(dropped) => {
                let shown: String = dropped.chars().take(SHOWN_WORDS).collect();
                let more = if shown.len() < dropped.len() { " …" } else { "" };
                write!(formatter, "the prompt is too long; left out: `{shown}{more}`")
            }
            Notice::Unchanged => write!(formatter, "the prompt is that of the base image, which is returned"),
            Notice::EmptyMask => write!(
                formatter,
                "the changed words change no region; the base image is returned"
            ),
            Notice::LargeMask { share, break_even } => write!(
                formatter,
                "the mask covers {:.1} % of the image; above {:.1} % dense steps are faster and are used",
                share * 100.0,
                break_even * 100.0
            ),
            Notice::Overflow { network, on_device } => {
                write!(
                    formatter,
                    "the {network} overflows half precision; ONNX Runtime computes it again in f32, which takes longer; "
                )?;
                match on_device {
                    true => write!(
                        formatter,
                        "a plan compiled with `--target cpu` computes it in f32 at once"
                    ),
                    false => write!(formatter, "an f32 export of the {network} is computed once"),
                }
            }
            Notice::NoGuidance { guidance, negative } if negative.is_empty() => write!(
                formatter,
                "guidance {guidance} is no guidance and counts as 1: the prompt alone is followed"
            ),
            Notice::NoGuidance { guidance, .. } => write!(
                formatter,
                "guidance {guidance} is no guidance: the prompt alone is followed, the negative prompt is ignored"
            ),
            Notice::OnHost(reason) => write!(formatter, "slow: {reason}"),
            Notice::NoSparseProgram => write!(formatter, "the plan has no sparse program; dense steps are used"),
        }
    }
}

/// Called with every event; `Break` stops the work with [`crate::DiffusionError::Interrupted`].
pub type Observer<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// tokenizer and text encoder
    pub text: Duration,
    /// dense steps of a first image, or an edit's guided steps
    pub guide: Duration,
    /// making the mask and binding it to the plan
    pub bind: Duration,
    /// the remaining steps, sparse or dense
    pub edit: Duration,
    /// what a device worked on the steps of `guide`, on those of `edit` and on the image; zero on the CPU
    pub on_device: [Duration; 3],
    /// VAE
    pub decode: Duration,
}

impl Timings {
    /// The sum.
    pub fn total(&self) -> Duration {
        self.text + self.guide + self.bind + self.edit + self.decode
    }
}
