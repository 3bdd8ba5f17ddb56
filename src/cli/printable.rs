//! What is shown on a terminal: text from models, images and paths cannot move the cursor, recolour or imitate messages.

use std::borrow::Cow;

use fisec_ir::text::{is_visible, visible};

/// One line: line breaks are shown as `\n`.
pub fn line(text: &str) -> Cow<'_, str> {
    visible(text)
}

/// Several lines that the command laid out itself. Text from elsewhere passed through [`line`] before it got there.
pub fn lines(text: &str) -> Cow<'_, str> {
    let is_kept = |letter: char| is_visible(letter) || matches!(letter, '\n' | '\t');
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let escaped = text.split('\n').map(|line| {
        let cells = line.split('\t').map(visible);
        cells.collect::<Vec<_>>().join("\t")
    });
    Cow::Owned(escaped.collect::<Vec<_>>().join("\n"))
}

/// A message of several lines. Lines after the first are indented, so that none of them begins like a message of its own.
pub fn message(text: &str) -> Cow<'_, str> {
    let escaped = lines(text);
    let is_flush = |line: &str| !line.is_empty() && !line.starts_with(' ');
    if !escaped.split('\n').skip(1).any(is_flush) {
        return escaped;
    }
    let indented = escaped.split('\n').enumerate().map(|(number, line)| match number {
        0 => line.to_owned(),
        _ if is_flush(line) => format!("  {line}"),
        _ => line.to_owned(),
    });
    Cow::Owned(indented.collect::<Vec<_>>().join("\n"))
}

/// A JSON document in which every character is visible. Outside strings JSON has no other characters.
pub fn json(text: &str) -> Cow<'_, str> {
    let is_kept = |letter: char| is_visible(letter) || letter == '\n';
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match is_kept(letter) {
            true => escaped.push(letter),
            false => escaped.push_str(&format!("\\u{:04x}", u32::from(letter))),
        }
    }
    Cow::Owned(escaped)
}

/// A word for a POSIX shell: quoted where it needs quotes.
pub fn shell_word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:=,+@%".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(
            line("a\u{1b}[31mb\nc\td\u{202e}e\u{9b}"),
            "a\\u{1b}[31mb\\nc\\td\\u{202e}e\\u{9b}"
        );
        assert_eq!(lines("a\u{7}\n\tb\r\n"), "a\\u{7}\n\tb\\u{d}\n");
        assert_eq!(line("größer als 🦊"), "größer als 🦊");
    }

    #[test]
    fn no_line_of_a_message_looks_like_another_message() {
        assert_eq!(
            message("it is broken\n  --> a\nhint: trust me"),
            "it is broken\n  --> a\n  hint: trust me"
        );
    }

    #[test]
    fn words_for_a_shell_are_quoted() {
        assert_eq!(shell_word("demo.plan"), "demo.plan");
        assert_eq!(shell_word("a dog's hat; ls"), "'a dog'\\''s hat; ls'");
        assert_eq!(shell_word(""), "''");
    }

    proptest! {
        #[test]
        fn nothing_invisible_is_left(text in any::<String>()) {
            prop_assert!(line(&text).chars().all(is_visible));
            for shown in [lines(&text), message(&text)] {
                prop_assert!(shown.chars().all(|letter| is_visible(letter) || matches!(letter, '\n' | '\t')));
            }
        }

        #[test]
        fn json_means_the_same(text in any::<String>()) {
            let document = serde_json::to_string_pretty(&serde_json::json!({ text.clone(): text.clone() })).unwrap();
            let shown = json(&document);
            prop_assert!(shown.chars().all(|letter| is_visible(letter) || letter == '\n'));
            let parsed: serde_json::Value = serde_json::from_str(&shown).unwrap();
            prop_assert_eq!(parsed[&text].as_str(), Some(text.as_str()));
        }
    }
}
