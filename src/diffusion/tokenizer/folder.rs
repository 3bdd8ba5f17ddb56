//! The files of a tokenizer.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::clip::Clip;
use super::special::{Special, Token};
use crate::DiffusionError;
use crate::error::read_text;
use crate::json::Json;

/// What stands in a tokenizer's folder. Files that are missing are null.
pub(super) struct Folder {
    /// the file or folder to name in errors
    place: PathBuf,
    /// `tokenizer_config.json`
    pub(super) config: Json,
    /// `special_tokens_map.json`
    pub(super) map: Json,
    /// `added_tokens.json`
    pub(super) added: Json,
    source: Source,
}

/// Where the vocabulary is.
enum Source {
    /// `tokenizer.json`: its text and what it says
    Backend(String, Json),
    /// `vocab.json` and `merges.txt`
    Clip(Clip),
}

impl Folder {
    /// Reads a folder, or the folder of a `tokenizer.json`.
    pub(super) fn read(path: &Path) -> Result<Self, DiffusionError> {
        let folder = folder(path);
        let file = match path.is_dir() {
            true => path.join("tokenizer.json"),
            false => path.to_path_buf(),
        };
        let source = match file.is_file() {
            true => {
                let text = read_text(&file)?;
                let json = Json::parse(&text).map_err(|error| damaged(error).at(&file))?;
                Source::Backend(text.trim_start_matches('\u{feff}').to_owned(), json)
            }
            false => Source::Clip(Clip::read(folder)?),
        };
        Ok(Folder {
            place: if file.is_file() { file } else { folder.to_path_buf() },
            config: optional(folder, "tokenizer_config.json")?,
            map: optional(folder, "special_tokens_map.json")?,
            added: optional(folder, "added_tokens.json")?,
            source,
        })
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// `tokenizer.json`; null where there is none.
    pub(super) fn backend(&self) -> &Json {
        match &self.source {
            Source::Backend(_, json) => json,
            Source::Clip(_) => &Json::Null,
        }
    }

    /// Whether this is CLIP's tokenizer, whose class has special tokens of its own.
    pub(super) fn is_clip(&self) -> bool {
        match (&self.source, self.config.get("tokenizer_class").as_str()) {
            (Source::Clip(_), _) => true,
            (Source::Backend(..), Some(class)) => class.starts_with("CLIP"),
            (Source::Backend(_, json), None) => json.get("model").get("end_of_word_suffix").as_str() == Some("</w>"),
        }
    }

    /// The special and added tokens.
    pub(super) fn special(&self) -> Result<Special, DiffusionError> {
        Special::of(self).map_err(|error| error.at(&self.place))
    }

    /// The tokenizer without its added tokens, in the form of a `tokenizer.json`. Added tokens whose ids the folder gives
    /// are words of its vocabulary, so that they get these ids.
    pub(super) fn description(&self, special: &Special) -> Result<String, DiffusionError> {
        match &self.source {
            Source::Backend(text, json) => Ok(with_words(text, json, &special.decoder)),
            Source::Clip(clip) => clip.description(special).map_err(|error| error.at(&self.place)),
        }
    }
}

/// `tokenizer_config.json` of a tokenizer; null where there is none.
pub(super) fn config(path: &Path) -> Result<Json, DiffusionError> {
    optional(folder(path), "tokenizer_config.json")
}

fn folder(path: &Path) -> &Path {
    match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    }
}

fn optional(folder: &Path, name: &str) -> Result<Json, DiffusionError> {
    let file = folder.join(name);
    match file.is_file() {
        true => json(&file),
        false => Ok(Json::Null),
    }
}

/// A file of a tokenizer.
pub(super) fn json(file: &Path) -> Result<Json, DiffusionError> {
    Json::parse(&read_text(file)?).map_err(|error| damaged(error).at(file))
}

fn damaged(error: DiffusionError) -> DiffusionError {
    DiffusionError::Tokenizer(error.to_string())
}

/// `tokenizer.json` with the tokens that it does not know as words of its vocabulary.
fn with_words(text: &str, json: &Json, decoder: &[(u32, Token)]) -> String {
    let known = json.get("added_tokens").items();
    let is_known = |content: &str| {
        let is_added = known.iter().any(|token| token.get("content").as_str() == Some(content));
        is_added || json.get("model").get("vocab").find(content).is_some()
    };
    let new: Vec<_> = decoder.iter().filter(|(_, token)| !is_known(&token.content)).collect();
    if new.is_empty() {
        return text.to_owned();
    }
    let mut description = Value::from(json.clone());
    if let Some(vocabulary) = description.pointer_mut("/model/vocab").and_then(Value::as_object_mut) {
        for (id, token) in new {
            vocabulary.insert(token.content.clone(), (*id).into());
        }
    }
    description.to_string()
}
