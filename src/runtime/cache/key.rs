//! What makes two images the same computation.

use serde::{Deserialize, Serialize};

/// Everything that a first image follows from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageKey {
    /// hash of the plan
    pub plan: String,
    /// what to see
    pub prompt: String,
    /// what not to see
    pub negative: String,
    /// noise
    pub seed: u64,
    /// name of the sampler
    pub sampler: String,
    /// steps of the schedule
    pub steps: usize,
    /// factor of classifier-free guidance
    pub guidance: f64,
    /// pixels
    pub width: usize,
    /// pixels
    pub height: usize,
}

impl ImageKey {
    /// Whether an edit may go from one to the other: all but the prompt agree.
    pub fn is_neighbour(&self, other: &ImageKey) -> bool {
        let prompt = other.prompt.clone();
        ImageKey { prompt, ..self.clone() } == *other
    }

    /// Name of the image made of this key and, for an edit, of `parent` and whatever else `settings` says.
    pub(crate) fn id(&self, parent: Option<&str>, settings: &str) -> String {
        let text = serde_json::to_string(&(self, parent, settings)).expect("plain data");
        blake3::hash(text.as_bytes()).to_hex()[..12].to_owned()
    }
}
