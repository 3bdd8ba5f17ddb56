//! Added and special tokens, with the precedence that transformers 4.57 gives the files that name them.
//!
//! `added_tokens_decoder` of `tokenizer_config.json`, where it is there, is all: `special_tokens_map.json`,
//! `added_tokens.json` and the added tokens of `tokenizer.json` are older files then. Without it these three count, and
//! the special tokens of the map win over those of the config.

use tokenizers::AddedToken;

use super::folder::Folder;
use crate::DiffusionError;
use crate::json::Json;

const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Keys of special tokens, in the order in which those that the vocabulary lacks are added.
const KEYS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Where lists of further special tokens stand.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Longest `model_max_length` that is a limit: transformers writes 1e30 for none.
const LONGEST: f64 = 1e6;

/// A token that is cut out of the prompt before words are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    /// absent: normalized unless `special`
    normalized: Option<bool>,
    special: bool,
    /// given as text, without flags
    is_plain: bool,
}

impl Token {
    fn plain(content: &str) -> Self {
        Token {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: false,
            is_plain: true,
        }
    }

    /// A text, or an object with `content` and flags.
    fn read(json: &Json) -> Option<Self> {
        let content = json.as_str().or_else(|| json.get("content").as_str())?;
        Some(Token {
            single_word: json.get("single_word").is_true(),
            lstrip: json.get("lstrip").is_true(),
            rstrip: json.get("rstrip").is_true(),
            normalized: json.find("normalized").map(Json::is_true),
            special: json.get("special").is_true(),
            is_plain: json.as_str().is_some(),
            ..Token::plain(content)
        })
    }

    fn added(&self, special: bool) -> AddedToken {
        AddedToken::from(self.content.clone(), special)
            .normalized(self.normalized.unwrap_or(!special))
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
    }
}

/// What a folder says of tokens beside the vocabulary.
pub(super) struct Special {
    /// added tokens with their ids, in the order of these
    pub(super) decoder: Vec<(u32, Token)>,
    /// special tokens by key
    named: Vec<(String, Token)>,
    /// further special tokens
    more: Vec<Token>,
    /// padding of `tokenizer.json`
    backend_padding: Option<String>,
    /// whether special tokens inside a prompt are cut as words are
    pub(super) are_split: bool,
    /// `model_max_length`, where it is a limit
    pub(super) max_length: Option<usize>,
}

impl Special {
    pub(super) fn of(folder: &Folder) -> Result<Self, DiffusionError> {
        refuse_left(folder)?;
        let Folder { config, map, added, .. } = folder;
        let is_legacy = config.find("added_tokens_decoder").is_none();
        let named = KEYS.iter().filter_map(|&key| {
            let mapped = map.find(key).filter(|_| is_legacy);
            let found = mapped.or_else(|| config.find(key)).and_then(Token::read);
            Some((key.to_owned(), found?))
        });
        let mut special = Special {
            decoder: Vec::new(),
            named: named.collect(),
            more: more(config, map, is_legacy),
            backend_padding: folder
                .backend()
                .get("padding")
                .get("pad_token")
                .as_str()
                .map(str::to_owned),
            are_split: config.get("split_special_tokens").is_true(),
            max_length: max_length(config),
        };
        special.decoder = match is_legacy {
            true => special.legacy_decoder(added, folder.backend()),
            false => decoder(config.get("added_tokens_decoder")),
        };
        special.decoder.sort_by_key(|(id, _)| *id);
        special.decoder.dedup_by_key(|(id, _)| *id);
        if folder.is_clip() {
            special.default_to_clip(folder.backend().is_null());
        }
        for (_, token) in &mut special.named {
            if let Some((_, added)) = special.decoder.iter().find(|(_, added)| added.content == token.content) {
                *token = added.clone();
            }
        }
        Ok(special)
    }

    /// `added_tokens.json`, and over it the added tokens of `tokenizer.json`.
    fn legacy_decoder(&self, added: &Json, backend: &Json) -> Vec<(u32, Token)> {
        let of_backend = backend.get("added_tokens").items().iter();
        let mut tokens: Vec<(u32, Token)> = of_backend
            .filter_map(|token| Some((id(token.get("id"))?, Token::read(token)?)))
            .collect();
        tokens.reverse(); // of equal ids the first stays
        for (content, number) in added.entries() {
            let special = self.contents().any(|known| known == content);
            let token = Token {
                normalized: Some(!special),
                special,
                is_plain: false,
                ..Token::plain(content)
            };
            tokens.extend(id(number).map(|id| (id, token)));
        }
        tokens
    }

    /// The special tokens that CLIP's class has where the files name none. A class that reads the vocabulary itself takes
    /// them with flags.
    fn default_to_clip(&mut self, reads_vocabulary: bool) {
        for (key, content) in [
            ("bos_token", BEGIN),
            ("eos_token", END),
            ("unk_token", END),
            ("pad_token", END),
        ] {
            if !self.named.iter().any(|(known, _)| known == key) {
                self.named.push((key.to_owned(), Token::plain(content)));
            }
        }
        self.named
            .sort_by_key(|(key, _)| KEYS.iter().position(|known| known == key));
        for (key, token) in &mut self.named {
            if reads_vocabulary && token.is_plain && ["bos_token", "eos_token", "unk_token"].contains(&key.as_str()) {
                (token.is_plain, token.normalized) = (false, Some(true));
            }
        }
    }

    /// Every special token once or more often, in the order in which they are added.
    pub(super) fn contents(&self) -> impl Iterator<Item = &str> {
        self.tokens().map(|token| token.content.as_str())
    }

    fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.named.iter().map(|(_, token)| token).chain(&self.more)
    }

    /// The special token of a key; empty where there is none.
    pub(super) fn content(&self, key: &str) -> &str {
        let found = self.named.iter().find(|(known, _)| known == key);
        found.map_or("", |(_, token)| &token.content)
    }

    /// What is to be added to a tokenizer: the folder's added tokens, then special tokens that it does not have.
    pub(super) fn to_add(&self, tokenizer: &tokenizers::Tokenizer) -> Vec<AddedToken> {
        let known = tokenizer.get_added_tokens_decoder();
        let mut contents: Vec<&str> = known.values().map(|token| token.content.as_str()).collect();
        let mut tokens = Vec::new();
        for (_, token) in &self.decoder {
            let special = token.special || self.contents().any(|content| content == token.content);
            tokens.push(token.added(special));
            contents.push(&token.content);
        }
        for token in self.tokens() {
            if !contents.contains(&token.content.as_str()) {
                tokens.push(token.added(true));
                contents.push(&token.content);
            }
        }
        tokens
    }

    /// Candidates for the padding token, best first.
    pub(super) fn padding(&self) -> impl Iterator<Item = &str> {
        let named = ["pad_token"].map(|key| self.content(key)).into_iter();
        let ends = [self.content("eos_token"), END, "<eos>", "</s>"];
        named.chain(self.backend_padding.as_deref()).chain(ends)
    }
}

/// `model_max_length`, where it is a limit.
pub(super) fn max_length(config: &Json) -> Option<usize> {
    let length = config.get("model_max_length").as_f64()?;
    (1.0..=LONGEST).contains(&length).then_some(length as usize)
}

/// Special tokens beyond those with a key of their own.
fn more(config: &Json, map: &Json, is_legacy: bool) -> Vec<Token> {
    let files = [Some(config), is_legacy.then_some(map)];
    let lists = files
        .into_iter()
        .flatten()
        .flat_map(|file| LISTS.map(|key| file.get(key)));
    let tokens = lists.flat_map(|list| {
        let named = list.entries().iter().map(|(_, token)| token);
        list.items().iter().chain(named).filter_map(Token::read)
    });
    tokens.collect()
}

fn decoder(json: &Json) -> Vec<(u32, Token)> {
    let entries = json.entries().iter();
    entries
        .filter_map(|(id, token)| Some((id.trim().parse().ok()?, Token::read(token)?)))
        .collect()
}

fn id(json: &Json) -> Option<u32> {
    json.as_usize().and_then(|id| u32::try_from(id).ok())
}

/// Prompts are padded and cut at their ends.
fn refuse_left(folder: &Folder) -> Result<(), DiffusionError> {
    let backend = folder.backend();
    for (key, other) in [("padding_side", "padding"), ("truncation_side", "truncation")] {
        let side = folder.config.get(key).as_str();
        let side = side.or_else(|| backend.get(other).get("direction").as_str());
        if side.is_some_and(|side| side.eq_ignore_ascii_case("left")) {
            return Err(DiffusionError::Tokenizer(format!("`{key}` left is not supported")));
        }
    }
    Ok(())
}
