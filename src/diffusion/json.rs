//! JSON as Python's `json` module writes and reads it: `NaN`, `Infinity` and `-Infinity` are numbers, integers have any
//! size, strings may hold lone surrogates, and a byte order mark may come first.
//!
//! Every JSON file of a model is read here. Accessors are as tolerant as Python code that uses the values: whole floats
//! and numerals in strings count as integers.

mod parse;

use std::path::Path;

use crate::DiffusionError;
use crate::error::read_text;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// any number, rounded to f64; not finite for `NaN`, `Infinity` and `-Infinity`
    Number(f64),
    /// a string; lone surrogates are U+FFFD
    Text(String),
    /// an array
    List(Vec<Json>),
    /// an object in the order of the file; of equal keys the last counts
    Map(Vec<(String, Json)>),
}

static NULL: Json = Json::Null;

impl Json {
    /// Parses a text.
    ///
    /// # Errors
    /// [`DiffusionError::Json`] names line and column of the first character that is not JSON.
    pub fn parse(text: &str) -> Result<Self, DiffusionError> {
        parse::document(text).map_err(DiffusionError::Json)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Fails when the file cannot be read, is not UTF-8 or not JSON; the error names the file.
    pub fn read(path: &Path) -> Result<Self, DiffusionError> {
        Json::parse(&read_text(path)?).map_err(|error| error.at(path))
    }

    /// The value of a key; null where there is none.
    pub fn get(&self, key: &str) -> &Json {
        self.find(key).unwrap_or(&NULL)
    }

    /// The value of a key, where it is given, be it null.
    pub fn find(&self, key: &str) -> Option<&Json> {
        let found = self.entries().iter().rfind(|(name, _)| name == key);
        found.map(|(_, value)| value)
    }

    /// Keys and values of an object; nothing of other values.
    pub fn entries(&self) -> &[(String, Json)] {
        match self {
            Json::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of an array; nothing of other values.
    pub fn items(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }

    /// Whether the value is `null`.
    pub fn is_null(&self) -> bool {
        *self == Json::Null
    }

    /// The string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, or the number that a string spells.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Json::Number(number) => Some(*number),
            Json::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The number where it is whole and at most 2^53 in size.
    pub fn as_i64(&self) -> Option<i64> {
        const LARGEST: f64 = (1u64 << 53) as f64;
        let number = self.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= LARGEST).then_some(number as i64)
    }

    /// The number where it is whole, not negative and at most 2^53.
    pub fn as_usize(&self) -> Option<usize> {
        self.as_i64().and_then(|number| usize::try_from(number).ok())
    }

    /// What Python's `if` makes of the value: null, zero and what is empty are false.
    pub fn is_true(&self) -> bool {
        match self {
            Json::Null => false,
            Json::Bool(value) => *value,
            Json::Number(number) => *number != 0.0,
            Json::Text(text) => !text.is_empty(),
            Json::List(items) => !items.is_empty(),
            Json::Map(entries) => !entries.is_empty(),
        }
    }
}

impl std::fmt::Display for Json {
    /// As Python writes it, on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Json::Number(number) if number.is_nan() => f.write_str("NaN"),
            Json::Number(number) if number.is_infinite() => {
                f.write_str(if *number > 0.0 { "Infinity" } else { "-Infinity" })
            }
            other => write!(f, "{}", serde_json::Value::from(other.clone())),
        }
    }
}

impl From<Json> for serde_json::Value {
    /// Numbers that are not finite become null: standard JSON does not have them.
    fn from(json: Json) -> Self {
        match json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(value) => value.into(),
            Json::Number(number) => match Json::Number(number).as_i64() {
                Some(whole) => whole.into(),
                None => number.into(),
            },
            Json::Text(text) => text.into(),
            Json::List(items) => items.into_iter().map(serde_json::Value::from).collect(),
            Json::Map(entries) => entries
                .into_iter()
                .map(|(key, value)| (key, serde_json::Value::from(value)))
                .collect(),
        }
    }
}
