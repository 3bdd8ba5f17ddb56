//! Emphasis in prompts, as tools for Stable Diffusion write it.
//!
//! `(word)` weighs 1.1, `[word]` 1/1.1, `(word:1.4)` 1.4; nested ones multiply. `\(`, `\)`, `\[`, `\]` and `\\` stand for
//! the characters themselves. What is opened and never closed reaches to the end; a closing bracket that nothing opened
//! is text.

use std::ops::RangeInclusive;

use crate::DiffusionError;

/// Weight of plain brackets.
const STEP: f32 = 1.1;
/// What a word may weigh, all brackets around it together.
const WEIGHTS: RangeInclusive<f32> = -100.0..=100.0;

/// A prompt without its brackets, and how much each part of it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Emphasis {
    /// what is tokenised
    pub text: String,
    /// end of each part in bytes of `text`, and its weight
    parts: Vec<(usize, f32)>,
}

impl Emphasis {
    /// Reads a prompt.
    ///
    /// # Errors
    /// Fails when a part weighs more than 100, or less than -100.
    pub fn parse(prompt: &str) -> Result<Self, DiffusionError> {
        let mut reader = Reader::default();
        let mut rest = prompt;
        while let Some(first) = rest.chars().next() {
            let length = reader.take(rest, first);
            rest = &rest[length..];
        }
        let emphasis = reader.finish();
        match emphasis.parts.iter().position(|(_, weight)| !WEIGHTS.contains(weight)) {
            Some(part) => Err(emphasis.too_heavy(part)),
            None => Ok(emphasis),
        }
    }

    fn too_heavy(&self, part: usize) -> DiffusionError {
        let (end, weight) = self.parts[part];
        let start = part.checked_sub(1).map_or(0, |before| self.parts[before].0);
        let words = self.text[start..end].trim().chars().take(40).collect();
        DiffusionError::Weight { words, weight }
    }

    /// The weight of the text at a byte; 1 behind the end.
    pub fn at(&self, byte: usize) -> f32 {
        let part = self.parts.iter().find(|(end, _)| byte < *end);
        part.map_or(1.0, |(_, weight)| *weight)
    }

    /// Whether nothing is emphasised.
    pub fn is_plain(&self) -> bool {
        self.parts.iter().all(|(_, weight)| *weight == 1.0)
    }
}

#[derive(Default)]
struct Reader {
    /// text with weights, in order
    parts: Vec<(String, f32)>,
    /// parts that precede each open `(`
    round: Vec<usize>,
    /// parts that precede each open `[`
    square: Vec<usize>,
}

impl Reader {
    /// Reads what `rest` begins with; returns its bytes.
    fn take(&mut self, rest: &str, first: char) -> usize {
        match first {
            '\\' => return self.escaped(rest),
            '(' => self.round.push(self.parts.len()),
            '[' => self.square.push(self.parts.len()),
            ':' => return self.weighted(rest),
            ')' => match self.round.pop() {
                Some(start) => self.scale(start, STEP),
                None => self.text(")"),
            },
            ']' => match self.square.pop() {
                Some(start) => self.scale(start, 1.0 / STEP),
                None => self.text("]"),
            },
            _ => {
                let end = rest.find(['\\', '(', '[', ':', ')', ']']).unwrap_or(rest.len());
                self.text(&rest[..end]);
                return end;
            }
        }
        1
    }

    fn escaped(&mut self, rest: &str) -> usize {
        match rest[1..].chars().next() {
            Some(next @ ('(' | ')' | '[' | ']' | '\\')) => {
                self.text(next.encode_utf8(&mut [0; 4]));
                2
            }
            _ => {
                self.text("\\");
                1
            }
        }
    }

    /// `:1.4)` closes the innermost round bracket; any other colon is text.
    fn weighted(&mut self, rest: &str) -> usize {
        let inside = rest.find(')').map(|end| (end, rest[1..end].trim()));
        let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
        let weight = inside.filter(|(_, text)| is_number(text));
        let weight = weight.and_then(|(end, text)| Some((end, text.parse::<f32>().ok()?)));
        match (weight, self.round.pop()) {
            (Some((end, weight)), Some(start)) => {
                self.scale(start, weight);
                end + 1
            }
            (_, open) => {
                self.round.extend(open);
                self.text(":");
                1
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.parts.push((text.to_owned(), 1.0));
    }

    fn scale(&mut self, start: usize, factor: f32) {
        self.parts[start..].iter_mut().for_each(|(_, weight)| *weight *= factor);
    }

    fn finish(mut self) -> Emphasis {
        for start in std::mem::take(&mut self.round) {
            self.scale(start, STEP);
        }
        for start in std::mem::take(&mut self.square) {
            self.scale(start, 1.0 / STEP);
        }
        let mut text = String::new();
        let mut parts: Vec<(usize, f32)> = Vec::new();
        for (part, weight) in &self.parts {
            text += part;
            match parts.last_mut() {
                Some((end, last)) if last == weight => *end = text.len(),
                _ => parts.push((text.len(), *weight)),
            }
        }
        Emphasis { text, parts }
    }
}
