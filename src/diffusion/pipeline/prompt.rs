//! A prompt as the pipeline understands it.

use crate::words::Emphasis;
use crate::{DiffusionError, Tokenizer, Tokens};

/// What a request says.
pub(super) struct PromptTokens {
    pub(super) prompt: Prompt,
    pub(super) negative: Prompt,
}

/// A prompt as it is understood.
pub(super) struct Prompt {
    pub(super) emphasis: Emphasis,
    pub(super) tokens: Tokens,
}

impl Prompt {
    pub(super) fn read(prompt: &str, tokenizer: &Tokenizer) -> Result<Self, DiffusionError> {
        let emphasis = Emphasis::parse(prompt)?;
        let tokens = tokenizer.encode(&emphasis.text)?;
        Ok(Prompt { emphasis, tokens })
    }

    /// One weight per token; begin, end and padding weigh 1.
    pub(super) fn weights(&self) -> Vec<f32> {
        let weight = |&(start, end): &(usize, usize)| if start < end { self.emphasis.at(start) } else { 1.0 };
        self.tokens.spans.iter().map(weight).collect()
    }

    /// Whether both give the same embedding.
    pub(super) fn means(&self, other: &Prompt) -> bool {
        self.tokens.ids == other.tokens.ids && self.weights() == other.weights()
    }
}
