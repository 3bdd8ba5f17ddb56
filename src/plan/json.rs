//! JSON documents that carry their own checksum: `plan.json` and the manifests of remembered images.
//!
//! The checksum is the blake3 of the text with the checksum's digits written as zeros, so that any change of the file
//! is noticed, whoever made it.

use serde::Serialize;
use serde_json::Value;

use crate::FileHash;

const DIGITS: usize = 64;
const LINE: usize = 118;

/// `document`, which must serialize to an object, as text that carries its checksum after the first field.
pub fn seal(document: &impl Serialize) -> String {
    let mut fields = match serde_json::to_value(document).expect("plain data") {
        Value::Object(fields) => fields,
        other => unreachable!("a sealed document is an object, not {other}"),
    };
    fields.shift_insert(fields.len().min(1), "checksum".into(), "0".repeat(DIGITS).into());
    let mut text = String::new();
    write(&Value::Object(fields), 0, &mut text);
    text.push('\n');
    let sum = blake3::hash(text.as_bytes()).to_hex();
    let start = digits(&text).expect("just written");
    text.replace_range(start..start + DIGITS, &sum);
    text
}

/// Whether the text is as [`seal`] wrote it.
pub fn is_intact(text: &str) -> bool {
    let Some(start) = digits(text) else { return false };
    let Some(found) = text.get(start..start + DIGITS) else {
        return false;
    };
    let (before, after) = (&text[..start], &text[start + DIGITS..]);
    let zeroed = [before, &"0".repeat(DIGITS), after].concat();
    blake3::hash(zeroed.as_bytes()).to_hex().as_str() == found
}

/// Size and hash of bytes.
pub fn file_hash(bytes: &[u8]) -> FileHash {
    FileHash {
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    }
}

fn digits(text: &str) -> Option<usize> {
    const KEY: &str = "\"checksum\": \"";
    text.find(KEY).map(|at| at + KEY.len())
}

/// Objects and arrays go on one line where they fit.
fn write(value: &Value, indent: usize, out: &mut String) {
    let start = out.len();
    let is_document = indent == 0 && value.is_object();
    let room = LINE.saturating_sub(indent);
    if !is_document && flat(value, start.saturating_add(room), out) {
        return;
    }
    out.truncate(start);
    let items: Vec<(Option<&String>, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (Some(key), value)).collect(),
        Value::Array(items) => items.iter().map(|value| (None, value)).collect(),
        scalar => return out.push_str(&scalar.to_string()),
    };
    let (open, close) = if value.is_object() { ('{', '}') } else { ('[', ']') };
    out.push(open);
    for (index, (key, item)) in items.iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { ",\n" });
        out.extend(std::iter::repeat_n(' ', indent + 2));
        if let Some(key) = key {
            out.push_str(&format!("{}: ", Value::from(key.as_str())));
        }
        write(item, indent + 2, out);
    }
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
    out.push(close);
}

/// Appends a value on one line, as long as `out` stays within `most` bytes; whether it did. What is too long is given up
/// early, so that a document is not laid out flat once for every level of it.
fn flat(value: &Value, most: usize, out: &mut String) -> bool {
    match value {
        Value::Object(fields) => {
            out.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                let separator = if index == 0 { "" } else { ", " };
                out.push_str(&format!("{separator}{}: ", Value::from(key.as_str())));
                if !flat(value, most, out) {
                    return false;
                }
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, value) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                if !flat(value, most, out) {
                    return false;
                }
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
    out.len() <= most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\ ]{0,40}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec(("[a-z]{1,12}", inner), 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// A value is on one line exactly when it fits there, and nothing of it is lost.
        #[test]
        fn what_fits_is_on_one_line(value in json(), name in "[a-z]{1,8}") {
            let document = serde_json::json!({ "name": name, "value": value });
            let text = seal(&document);
            prop_assert!(is_intact(&text));
            let mut parsed: Value = serde_json::from_str(&text).unwrap();
            parsed.as_object_mut().unwrap().shift_remove("checksum");
            prop_assert_eq!(&parsed, &document);
            let mut line = String::new();
            flat(&value, usize::MAX, &mut line);
            let is_flat = text.lines().any(|each| each == format!("  \"value\": {line}"));
            let is_scalar = !value.is_object() && !value.is_array();
            prop_assert_eq!(is_flat, is_scalar || line.len() + 2 <= LINE);
        }
    }
}
