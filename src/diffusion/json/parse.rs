//! The grammar.

use super::Json;

/// Arrays and objects inside one another, at most.
const DEPTH: usize = 128;

/// The value of a whole text; the error names line and column.
pub(super) fn document(text: &str) -> Result<Json, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.space();
    match parser.rest().is_empty() {
        true => Ok(value),
        false => Err(parser.error("nothing more")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn error(&self, expected: &str) -> String {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        match self.rest().chars().next() {
            None => format!("not JSON: the text ends at line {line} column {column}, where {expected} is expected"),
            Some(found) => {
                format!("not JSON: {found:?} at line {line} column {column}, where {expected} is expected")
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > DEPTH {
            return Err(self.error("less nesting"));
        }
        self.space();
        let words = [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
            ("NaN", Json::Number(f64::NAN)),
            ("Infinity", Json::Number(f64::INFINITY)),
            ("-Infinity", Json::Number(f64::NEG_INFINITY)),
        ];
        if let Some((_, value)) = words.into_iter().find(|(word, _)| self.take(word)) {
            return Ok(value);
        }
        match self.rest().chars().next() {
            Some('{') => self.map(depth),
            Some('[') => self.list(depth),
            Some('"') => self.string().map(Json::Text),
            Some('-' | '0'..='9') => self.number(),
            _ => Err(self.error("a value")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take("]") {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take("]") {
                return Ok(Json::List(items));
            }
            if !self.take(",") {
                return Err(self.error("`,` or `]`"));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Json, String> {
        self.at += 1;
        let mut entries = Vec::new();
        self.space();
        if self.take("}") {
            return Ok(Json::Map(entries));
        }
        loop {
            self.space();
            if !self.rest().starts_with('"') {
                return Err(self.error("a key in quotes"));
            }
            let key = self.string()?;
            self.space();
            if !self.take(":") {
                return Err(self.error("`:`"));
            }
            entries.push((key, self.value(depth + 1)?));
            self.space();
            if self.take("}") {
                return Ok(Json::Map(entries));
            }
            if !self.take(",") {
                return Err(self.error("`,` or `}`"));
            }
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let text = &rest[..length];
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_standard = digits.starts_with(|c: char| c.is_ascii_digit())
            && !(digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit())
            && !digits.ends_with('.');
        match text.parse() {
            Ok(number) if is_standard => {
                self.at += length;
                Ok(Json::Number(number))
            }
            _ => Err(self.error("a number")),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = self.rest();
            let plain = rest
                .find(|c| c == '"' || c == '\\' || c < ' ')
                .ok_or_else(|| self.end("`\"`"))?;
            out.push_str(&rest[..plain]);
            self.at += plain;
            match self.rest().as_bytes()[0] {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => out.push(self.escape()?),
                _ => return Err(self.error("no control character inside a string")),
            }
        }
    }

    /// The error of a text that ends early.
    fn end(&mut self, expected: &str) -> String {
        self.at = self.text.len();
        self.error(expected)
    }

    fn escape(&mut self) -> Result<char, String> {
        let mut chars = self.rest()[1..].chars();
        let Some(kind) = chars.next() else {
            return Err(self.end("an escape"));
        };
        let plain = match kind {
            '"' | '\\' | '/' => Some(kind),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'u' => None,
            _ => return Err(self.error("an escape")),
        };
        if let Some(plain) = plain {
            self.at += 2;
            return Ok(plain);
        }
        let Some(unit) = hex(&self.rest()[2..]) else {
            return Err(self.error("`\\u` with four hexadecimal digits"));
        };
        self.at += 6;
        let low = self.rest().strip_prefix("\\u").and_then(hex);
        let pair = low.and_then(|low| char::decode_utf16([unit, low]).next()?.ok().filter(|_| is_high(unit)));
        if let Some(pair) = pair {
            self.at += 6;
            return Ok(pair);
        }
        Ok(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

fn is_high(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

/// The four hexadecimal digits at the start of a text.
fn hex(text: &str) -> Option<u16> {
    let digits = text.get(..4)?;
    let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all.then(|| u16::from_str_radix(digits, 16).ok())?
}
