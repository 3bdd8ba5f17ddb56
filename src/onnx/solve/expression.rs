//! Arithmetic in the name of a dimension: `8*(((height - 1)//8)) + 8`, as dynamo writes sizes that follow from others.

/// The value of an expression of integers, names, `+ - * / // %` and parentheses; `None` for anything else.
pub fn evaluate(text: &str, value_of: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
    let mut reader = Reader {
        rest: text,
        value_of,
        depth: 0,
    };
    let value = reader.sum()?;
    reader.skip_spaces();
    reader.rest.is_empty().then_some(value)
}

/// Parentheses and signs deeper than this are no sizes.
const DEEPEST: usize = 64;

struct Reader<'a> {
    rest: &'a str,
    value_of: &'a dyn Fn(&str) -> Option<i64>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn takes(&mut self, token: &str) -> bool {
        self.skip_spaces();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn sum(&mut self) -> Option<i64> {
        let mut value = self.product()?;
        loop {
            if self.takes("+") {
                value = value.checked_add(self.product()?)?;
            } else if self.takes("-") {
                value = value.checked_sub(self.product()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<i64> {
        let mut value = self.factor()?;
        loop {
            if self.takes("//") {
                value = floor_divided(value, self.factor()?)?;
            } else if self.takes("*") {
                value = value.checked_mul(self.factor()?)?;
            } else if self.takes("/") {
                let divisor = self.factor()?;
                value = value.checked_rem(divisor)?.eq(&0).then(|| value / divisor)?;
            } else if self.takes("%") {
                value = value.checked_rem_euclid(self.factor()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn factor(&mut self) -> Option<i64> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let value = if self.takes("-") {
            self.factor()?.checked_neg()
        } else if self.takes("(") {
            let value = self.sum()?;
            self.takes(")").then_some(value)
        } else {
            self.atom()
        };
        self.depth -= 1;
        value
    }

    fn atom(&mut self) -> Option<i64> {
        self.skip_spaces();
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word.chars().next()? {
            first if first.is_ascii_digit() => word.parse().ok(),
            _ => (self.value_of)(word),
        }
    }
}

fn floor_divided(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    Some(quotient - i64::from(a % b != 0 && (a < 0) != (b < 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ninety(text: &str) -> Option<i64> {
        evaluate(text, &|name| (name == "height").then_some(90))
    }

    #[test]
    fn sizes_follow_from_sizes() {
        assert_eq!(at_ninety("8*(((height - 1)//8)) + 8"), Some(96));
        assert_eq!(at_ninety("height * 8"), Some(720));
        assert_eq!(at_ninety("(height + 1)//2 - -3"), Some(48));
        assert_eq!(at_ninety("-height//4"), Some(-23));
        assert_eq!(at_ninety("height/4"), None, "not whole");
        assert_eq!(at_ninety("height//0"), None);
        assert_eq!(at_ninety("width"), None);
        assert_eq!(at_ninety("Max(1, height)"), None);
        assert_eq!(at_ninety(""), None);
        assert_eq!(at_ninety(&"(".repeat(100_000)), None);
    }
}
