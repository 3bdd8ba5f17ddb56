//! From a prompt to token ids, as transformers has them.

mod clip;
mod folder;
mod special;

use std::path::Path;

use tokenizers::{Encoding, TruncationParams};

use crate::DiffusionError;
use folder::Folder;

/// A model's tokenizer: `tokenizer.json`, or CLIP's `vocab.json` and `merges.txt`; with the added and special tokens of
/// the files beside them.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    length: usize,
    pad: u32,
    max_length: Option<usize>,
}

/// A prompt in the form that the text encoder reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// begin token, words, end token, padding: as many as the text encoder takes
    pub ids: Vec<u32>,
    /// how many of them come before the padding
    pub used: usize,
    /// byte range of the prompt that each token stands for; empty for begin, end and padding
    pub spans: Vec<(usize, usize)>,
    /// the end of the prompt that did not fit
    pub dropped: Option<String>,
}

impl Tokenizer {
    /// Opens a `tokenizer.json` or a folder. `length` is the number of tokens that the text encoder takes.
    ///
    /// # Errors
    /// Fails when a file is missing, damaged, or asks for padding or truncation on the left.
    pub fn open(path: &Path, length: usize) -> Result<Self, DiffusionError> {
        let folder = Folder::read(path)?;
        let broken = |error: tokenizers::Error| DiffusionError::Tokenizer(error.to_string()).at(folder.place());
        let special = folder.special()?;
        let description = folder.description(&special)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(description).map_err(broken)?;
        let added = special.to_add(&inner);
        inner.add_tokens(added).map_err(broken)?;
        inner.set_encode_special_tokens(special.are_split);
        let truncation = TruncationParams {
            max_length: length,
            ..Default::default()
        };
        inner.with_truncation(Some(truncation)).map_err(broken)?;
        inner.with_padding(None);
        let pad = special
            .padding()
            .find_map(|token| inner.token_to_id(token))
            .ok_or_else(|| DiffusionError::Tokenizer("it names no padding token".into()).at(folder.place()))?;
        Ok(Tokenizer {
            inner,
            length,
            pad,
            max_length: special.max_length,
        })
    }

    /// The `model_max_length` of the tokenizer in `path`: how many tokens its prompts have. `None` where the files name
    /// none, or a number that stands for no limit.
    ///
    /// # Errors
    /// Fails when `tokenizer_config.json` cannot be parsed.
    pub fn max_length_in(path: &Path) -> Result<Option<usize>, DiffusionError> {
        Ok(special::max_length(&folder::config(path)?))
    }

    /// `model_max_length`, where it is a limit.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Number of ids of every prompt.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Added tokens whose id is `vocabulary` or more, in the order of their ids.
    pub fn added_from(&self, vocabulary: u32) -> Vec<(u32, String)> {
        let added = self.inner.get_added_tokens_decoder();
        let beyond = added.into_iter().filter(|(id, _)| *id >= vocabulary);
        let mut beyond: Vec<(u32, String)> = beyond.map(|(id, token)| (id, token.content)).collect();
        beyond.sort();
        beyond
    }

    /// The ids of a prompt, cut or padded to [`Tokenizer::length`].
    pub fn encode(&self, prompt: &str) -> Result<Tokens, DiffusionError> {
        let encoding = self
            .inner
            .encode(prompt, true)
            .map_err(|error| DiffusionError::Tokenizer(error.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        let mut spans = encoding.get_offsets().to_vec();
        let used = ids.len();
        ids.resize(self.length, self.pad);
        spans.resize(self.length, (0, 0));
        let dropped = encoding
            .get_overflowing()
            .first()
            .and_then(|rest| dropped(prompt, rest));
        Ok(Tokens {
            ids,
            used,
            spans,
            dropped,
        })
    }
}

/// What of the prompt comes at or after the first word token that did not fit.
fn dropped(prompt: &str, rest: &Encoding) -> Option<String> {
    let word = rest
        .get_special_tokens_mask()
        .iter()
        .position(|&special| special == 0)?;
    let (start, _) = rest.get_offsets()[word];
    Some(prompt[prompt.floor_char_boundary(start)..].trim().to_string())
}
