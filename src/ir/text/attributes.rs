//! Attributes of opaque operators in text.

use super::{quoted, weights};
use crate::Attribute;

/// The value of an attribute. A float is told from an integer by its point, exponent or name (`inf`, `NaN`); empty
/// lists say what they are lists of.
pub(super) fn text(attribute: &Attribute) -> String {
    match attribute {
        Attribute::Int(value) => value.to_string(),
        Attribute::Float(value) => format!("{value:?}"),
        Attribute::String(value) => quoted(value),
        Attribute::Ints(values) => list("ints", values.iter().map(ToString::to_string)),
        Attribute::Floats(values) => list("floats", values.iter().map(|value| format!("{value:?}"))),
        Attribute::Strings(values) => list("strings", values.iter().map(|value| quoted(value))),
        Attribute::Tensor(tensor) => {
            format!(
                "tensor({}[{}] {})",
                tensor.dtype(),
                tensor.shape(),
                weights::elements(tensor)
            )
        }
    }
}

fn list(kind: &str, items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        kind.to_owned()
    } else {
        format!("[{}]", items.join(", "))
    }
}

/// Whether a written number is a float.
pub(super) fn is_float(word: &str) -> bool {
    word.contains(['.', 'e', 'E']) || word.ends_with("inf") || word.eq_ignore_ascii_case("nan")
}
