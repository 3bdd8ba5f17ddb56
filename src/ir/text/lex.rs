//! Words, numbers, strings and punctuation, each with its place.

use super::ParseError;

/// A token of IR text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `conv`, `cache.read`, `f16`
    Word(String),
    /// anything that starts like a number: `12`, `-1e-5`, `3x3`
    Number(String),
    /// `"…"`, unescaped
    Text(String),
    /// `%12`
    Value(String),
    /// `@name` or `@"…"`
    Weight(String),
    /// one of `{}[](),:=;`
    Mark(char),
    /// end of a line
    Newline,
    /// end of the text
    End,
}

impl Token {
    /// How a message names the token.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(text) | Token::Number(text) => format!("`{text}`"),
            Token::Text(text) => super::quoted(text),
            Token::Value(name) => format!("`%{name}`"),
            Token::Weight(name) => format!("`@{name}`"),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::Newline => "the end of the line".to_owned(),
            Token::End => "the end of the text".to_owned(),
        }
    }
}

/// A token and where it starts, both counted from 1.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Splits `source` into tokens; comments from `#` to the end of a line are dropped.
pub(super) fn lex(source: &str) -> Result<Vec<Placed>, ParseError> {
    let mut tokens = Vec::new();
    for (row, text) in source.lines().enumerate() {
        Line {
            source: text,
            letters: text.chars().collect(),
            at: 0,
            row: row + 1,
        }
        .lex(&mut tokens)?;
        tokens.push(Placed {
            token: Token::Newline,
            line: row + 1,
            column: text.chars().count() + 1,
        });
    }
    tokens.push(Placed {
        token: Token::End,
        line: source.lines().count() + 1,
        column: 1,
    });
    Ok(tokens)
}

struct Line<'s> {
    source: &'s str,
    letters: Vec<char>,
    at: usize,
    row: usize,
}

impl Line<'_> {
    fn lex(&mut self, tokens: &mut Vec<Placed>) -> Result<(), ParseError> {
        loop {
            while self.peek().is_some_and(char::is_whitespace) {
                self.at += 1;
            }
            let column = self.at + 1;
            match self.peek() {
                None | Some('#') => return Ok(()),
                Some(_) => tokens.push(Placed {
                    token: self.token()?,
                    line: self.row,
                    column,
                }),
            }
        }
    }

    fn token(&mut self) -> Result<Token, ParseError> {
        let start = self.at;
        let first = self.letters[start];
        self.at += 1;
        match first {
            '"' => self.text().map(Token::Text),
            '%' => self
                .name(start, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
                .map(Token::Value),
            '@' if self.peek() == Some('"') => {
                self.at += 1;
                self.text().map(Token::Weight)
            }
            '@' => self.name(start, is_weight_letter).map(Token::Weight),
            '{' | '}' | '[' | ']' | '(' | ')' | ',' | ':' | '=' | ';' => Ok(Token::Mark(first)),
            c if c.is_ascii_digit() || c == '-' => Ok(Token::Number(self.number(start))),
            c if c.is_ascii_alphabetic() || c == '_' => {
                let word = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
                Ok(Token::Word(format!("{c}{word}")))
            }
            c => Err(self.error(start, format!("`{}` starts nothing", c.escape_default()))),
        }
    }

    fn name(&mut self, start: usize, belongs: impl Fn(char) -> bool) -> Result<String, ParseError> {
        let name = self.take(belongs);
        if name.is_empty() {
            return Err(self.error(start, format!("`{}` without a name", self.letters[start])));
        }
        Ok(name)
    }

    fn number(&mut self, start: usize) -> String {
        while let Some(c) = self.peek() {
            let exponent_sign = matches!(c, '+' | '-') && matches!(self.letters[self.at - 1], 'e' | 'E');
            if !(c.is_ascii_alphanumeric() || c == '.' || exponent_sign) {
                break;
            }
            self.at += 1;
        }
        self.letters[start..self.at].iter().collect()
    }

    fn text(&mut self) -> Result<String, ParseError> {
        let start = self.at - 1;
        let mut text = String::new();
        loop {
            let Some(letter) = self.peek() else {
                return Err(self.error(start, "a string without its closing quote".to_owned()));
            };
            self.at += 1;
            match letter {
                '"' => return Ok(text),
                '\\' => text.push(self.escape()?),
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let start = self.at - 1;
        let letter = self.peek();
        self.at += 1;
        match letter {
            Some('n') => Ok('\n'),
            Some(c @ ('"' | '\\')) => Ok(c),
            Some('u') if self.peek() == Some('{') => {
                self.at += 1;
                let code = self.take(|c| c.is_ascii_hexdigit());
                let closed = self.peek() == Some('}');
                self.at += 1;
                let letter = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                letter
                    .filter(|_| closed)
                    .ok_or_else(|| self.error(start, "not a character".to_owned()))
            }
            _ => Err(self.error(start, "unknown escape".to_owned())),
        }
    }

    fn take(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
        self.letters[start..self.at].iter().collect()
    }

    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn error(&self, at: usize, message: String) -> ParseError {
        ParseError {
            line: self.row,
            column: at + 1,
            message,
            text: self.source.to_owned(),
        }
    }
}

/// Whether a weight's name may hold the letter without quotes.
pub(super) fn is_weight_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '/' | '-')
}
