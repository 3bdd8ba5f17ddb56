//! IR text (`.fir`): the graph as a language that people read and tests are written in.
//!
//! [`print`] and [`parse`] are inverse: parsing what was printed gives a graph that prints the same. Data of larger
//! weights are not part of the text; `docs/ir.md` is the reference.

mod attributes;
pub mod filetest;
mod lex;
mod ops;
mod parse;
mod print;
mod visible;
mod weights;

pub use parse::{ParseError, parse};
pub use print::{Printer, print};
pub use visible::{is_visible, visible};

/// Weights of at most this many elements are written out.
pub const INLINE_ELEMENTS: usize = 16;

/// Whether `word` needs no quotes as a name.
fn is_word(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
        && word != "_"
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if !is_visible(c) => quoted.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn word_or_quoted(text: &str) -> String {
    if is_word(text) { text.to_owned() } else { quoted(text) }
}
