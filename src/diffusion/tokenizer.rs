//! From a prompt to token ids, as transformers has them.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{Encoding, TruncationParams};

use crate::DiffusionError;
use crate::error::read_text;

/// A model's tokenizer: `tokenizer.json`, or CLIP's `vocab.json` and `merges.txt`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    length: usize,
    pad: u32,
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
    pub fn open(path: &Path, length: usize) -> Result<Self, DiffusionError> {
        let folder = if path.is_dir() {
            path
        } else {
            path.parent().unwrap_or(Path::new(""))
        };
        let file = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_path_buf()
        };
        let settings = Settings::read(folder)?;
        let description = match file.is_file() {
            true => read_text(&file)?,
            false => clip_description(folder)?,
        };
        let broken = |error: tokenizers::Error| DiffusionError::Tokenizer(error.to_string()).at(&file);
        let mut inner = tokenizers::Tokenizer::from_bytes(description).map_err(broken)?;
        let truncation = TruncationParams {
            max_length: length,
            ..Default::default()
        };
        inner.with_truncation(Some(truncation)).map_err(broken)?;
        inner.with_padding(None);
        let pad = settings
            .token(&["pad_token", "eos_token"])
            .and_then(|token| inner.token_to_id(&token))
            .or_else(|| {
                ["<|endoftext|>", "<eos>", "</s>"]
                    .iter()
                    .find_map(|token| inner.token_to_id(token))
            })
            .ok_or_else(|| DiffusionError::Tokenizer("it names no padding token".into()).at(&file))?;
        Ok(Tokenizer { inner, length, pad })
    }

    /// Number of ids of every prompt.
    pub fn length(&self) -> usize {
        self.length
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

/// `tokenizer_config.json` and `special_tokens_map.json`, where they are.
struct Settings(Vec<Value>);

impl Settings {
    fn read(folder: &Path) -> Result<Self, DiffusionError> {
        let files = ["tokenizer_config.json", "special_tokens_map.json"].map(|name| folder.join(name));
        let parsed = files.iter().filter(|file| file.is_file()).map(|file| parse(file));
        Ok(Settings(parsed.collect::<Result<_, _>>()?))
    }

    /// The first of these special tokens that is set: text, or an object with `content`.
    fn token(&self, names: &[&str]) -> Option<String> {
        let lookup = |name: &&str| {
            self.0.iter().find_map(|settings| {
                let value = settings.get(name)?;
                value
                    .as_str()
                    .or_else(|| value.get("content")?.as_str())
                    .map(str::to_string)
            })
        };
        names.iter().find_map(lookup)
    }
}

fn parse(file: &Path) -> Result<Value, DiffusionError> {
    serde_json::from_str(&read_text(file)?).map_err(|error| DiffusionError::Tokenizer(error.to_string()).at(file))
}

/// The `tokenizer.json` that CLIP's `vocab.json` and `merges.txt` mean: lower case, byte-level BPE with marked word ends.
fn clip_description(folder: &Path) -> Result<String, DiffusionError> {
    const BEGIN: &str = "<|startoftext|>";
    const END: &str = "<|endoftext|>";
    const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let vocabulary = parse(&folder.join("vocab.json"))?;
    let id = |token: &str| {
        let missing = || DiffusionError::Tokenizer(format!("vocab.json has no `{token}`")).at(folder);
        vocabulary.get(token).and_then(Value::as_u64).ok_or_else(missing)
    };
    let (begin, end) = (id(BEGIN)?, id(END)?);
    let merges = read_text(&folder.join("merges.txt"))?;
    let merges: Vec<&str> = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .collect();
    let added = |id: u64, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": true, "special": true})
    };
    let description = json!({
        "version": "1.0",
        "added_tokens": [added(begin, BEGIN), added(end, END)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, end], "cls": [BEGIN, begin],
                           "trim_offsets": false, "add_prefix_space": false},
        "model": {"type": "BPE", "unk_token": END, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
                  "vocab": vocabulary, "merges": merges},
    });
    Ok(description.to_string())
}
