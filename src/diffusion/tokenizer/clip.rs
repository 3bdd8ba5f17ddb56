//! CLIP's `vocab.json` and `merges.txt`.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::folder;
use super::special::Special;
use crate::DiffusionError;
use crate::error::read_text;

/// Merges that transformers reads at most: CLIP's vocabulary without single bytes and special tokens.
const MOST_MERGES: usize = 49_152 - 256 - 2;

/// Words that no merge makes, at most: special tokens that are part of the vocabulary.
const MOST_UNMADE: usize = 16;

/// A vocabulary with its merges.
pub(super) struct Clip {
    vocabulary: Map<String, Value>,
    merges: Vec<[String; 2]>,
}

impl Clip {
    pub(super) fn read(folder: &Path) -> Result<Self, DiffusionError> {
        let file = folder.join("vocab.json");
        let words = folder::json(&file)?;
        let mut vocabulary = Map::new();
        for (word, id) in words.entries() {
            let id = id.as_usize().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                let reason = format!("`{word}` has the id {id}, which is none");
                DiffusionError::Tokenizer(reason).at(&file)
            })?;
            vocabulary.insert(word.clone(), id.into());
        }
        if vocabulary.is_empty() {
            return Err(DiffusionError::Tokenizer("it holds no vocabulary".into()).at(&file));
        }
        let file = folder.join("merges.txt");
        let merges = merges(&read_text(&file)?).map_err(|error| error.at(&file))?;
        let clip = Clip { vocabulary, merges };
        match clip.words_without_merge() {
            0..=MOST_UNMADE => Ok(clip),
            count => {
                let reason = format!("{count} words of vocab.json are made by none of its pairs: it was cut short");
                Err(DiffusionError::Tokenizer(reason).at(&file))
            }
        }
    }

    /// Words of more than one symbol that no merge makes: special tokens, and what a file that was cut short has lost.
    fn words_without_merge(&self) -> usize {
        let made: HashSet<String> = self.merges.iter().map(|pair| pair.concat()).collect();
        let is_symbol = |word: &str| word.strip_suffix("</w>").unwrap_or(word).chars().count() <= 1;
        let words = self.vocabulary.keys();
        words.filter(|word| !is_symbol(word) && !made.contains(*word)).count()
    }

    /// The `tokenizer.json` that they mean: NFC, lower case, byte-level BPE with marked word ends.
    pub(super) fn description(&self, special: &Special) -> Result<String, DiffusionError> {
        const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
        let vocabulary = self.with_added(special);
        let id = |token: &str| {
            let missing = || DiffusionError::Tokenizer(format!("vocab.json has no `{token}`"));
            vocabulary.get(token).cloned().ok_or_else(missing)
        };
        let [begin, end, unknown] = ["bos_token", "eos_token", "unk_token"].map(|key| special.content(key));
        let description = json!({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ]},
            "post_processor": {"type": "RobertaProcessing", "sep": [end, id(end)?], "cls": [begin, id(begin)?],
                               "trim_offsets": false, "add_prefix_space": false},
            "model": {"type": "BPE", "unk_token": unknown, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": self.merges},
        });
        Ok(description.to_string())
    }

    /// The vocabulary with added tokens: those whose ids the folder gives at these, then special ones that have none at
    /// the next free ids.
    fn with_added(&self, special: &Special) -> Map<String, Value> {
        let mut vocabulary = self.vocabulary.clone();
        for (id, token) in &special.decoder {
            vocabulary.insert(token.content.clone(), (*id).into());
        }
        let taken: BTreeSet<u64> = vocabulary.values().filter_map(Value::as_u64).collect();
        let mut free = (vocabulary.len() as u64..).filter(|id| !taken.contains(id));
        for content in special.contents() {
            if !vocabulary.contains_key(content) {
                vocabulary.insert(content.to_owned(), free.next().expect("endless").into());
            }
        }
        vocabulary
    }
}

/// The pairs of `merges.txt`. As in transformers up to 4.57 the first line is always the version, be it one or not.
fn merges(text: &str) -> Result<Vec<[String; 2]>, DiffusionError> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = text.trim().split('\n').enumerate().skip(1).take(MOST_MERGES);
    let pairs = lines.filter(|(_, line)| !line.trim().is_empty()).map(|(index, line)| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        match parts[..] {
            [left, right] => Ok([left.to_owned(), right.to_owned()]),
            _ => Err(DiffusionError::Tokenizer(format!(
                "line {} is no pair to merge",
                index + 1
            ))),
        }
    });
    pairs.collect()
}
