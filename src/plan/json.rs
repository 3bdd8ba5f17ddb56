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
    let flat = flat(value);
    let items: Vec<(Option<&String>, &Value)> = match value {
        Value::Object(fields) if indent == 0 || flat.len() + indent > LINE => {
            fields.iter().map(|(key, value)| (Some(key), value)).collect()
        }
        Value::Array(items) if flat.len() + indent > LINE => items.iter().map(|value| (None, value)).collect(),
        _ => return out.push_str(&flat),
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

fn flat(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), flat(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(", ")),
        scalar => scalar.to_string(),
    }
}
