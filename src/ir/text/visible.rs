//! Characters that a terminal or a browser would obey instead of showing.

use std::borrow::Cow;

/// Whether a terminal and a browser show the character: not a control character (C0, DEL, C1), which may move the cursor
/// or start an escape sequence; not a control of writing direction, which reorders the text around it; not a separator
/// of lines or paragraphs; not a noncharacter, which XML forbids.
pub fn is_visible(letter: char) -> bool {
    let is_hidden = letter.is_control()
        || matches!(letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}');
    !is_hidden
}

/// The text on one line, with every character that is not visible as an escape: `\n`, `\t`, `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            letter if is_visible(letter) => shown.push(letter),
            letter => shown.push_str(&format!("\\u{{{:x}}}", u32::from(letter))),
        }
    }
    Cow::Owned(shown)
}
