//! Text to graph.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use fisec_tensor::{Constant, DType, Shape};

use super::lex::{Placed, Token, lex};
use super::ops::{self, Bag};
use super::{attributes, weights};
use crate::{Attribute, Extent, Graph, LevelId, Operand, Origin, SlotInfo, ValueId, ValueType, WeightInfo};

/// Most elements that all `random` weights of a text may have together.
const RANDOM_ELEMENTS: usize = 1 << 24;

/// Why and where a text is not a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// line, from 1
    pub line: usize,
    /// column in characters, from 1
    pub column: usize,
    /// what is wrong
    pub message: String,
    /// the line
    pub text: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParseError {
            line,
            column,
            message,
            text,
        } = self;
        write!(f, "{line}:{column}: {message}\n  | {text}\n  | {:>column$}", "^")
    }
}

impl std::error::Error for ParseError {}

/// The graph that `source` describes. Weights whose data the text does not give are NaN throughout.
pub fn parse(source: &str) -> Result<Graph, ParseError> {
    let parser = Parser {
        lines: source.lines().collect(),
        tokens: lex(source)?,
        at: 0,
        graph: Graph::default(),
        values: HashMap::new(),
        random: 0,
    };
    parser.graph()
}

struct Parser<'s> {
    lines: Vec<&'s str>,
    tokens: Vec<Placed>,
    at: usize,
    graph: Graph,
    values: HashMap<String, ValueId>,
    random: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl Parser<'_> {
    fn graph(mut self) -> Parsed<Graph> {
        self.skip_newlines();
        self.keyword("graph")?;
        let name = self.word_or_text()?;
        self.graph.set_name(name);
        self.end_of_line()?;
        loop {
            self.skip_newlines();
            match self.peek() {
                Token::End => return Ok(self.graph),
                Token::Word(word) if word == "slots" => self.section(Self::slot)?,
                Token::Word(word) if word == "weights" => self.section(Self::weight)?,
                _ => self.statement()?,
            }
        }
    }

    fn section(&mut self, entry: fn(&mut Self) -> Parsed<()>) -> Parsed<()> {
        self.next();
        self.mark('{')?;
        self.skip_newlines();
        while !self.take('}') {
            entry(self)?;
            self.end_of_line()?;
            self.skip_newlines();
        }
        self.end_of_line()
    }

    fn slot(&mut self) -> Parsed<()> {
        let place = self.at;
        let number = match self.next() {
            Token::Word(word) => ops::slot_number(&word),
            _ => None,
        };
        let expected = self.graph.slots().len() as u32;
        if number != Some(expected) {
            return Err(self.error_at(place, format!("expected slot `s{expected}`")));
        }
        let name = self.text()?;
        self.mark(':')?;
        let value_type = self.value_type()?;
        let mut level = None;
        if matches!(self.peek(), Token::Word(word) if word == "level") {
            self.next();
            level = Some(LevelId(self.number()?));
        }
        self.graph.add_slot(SlotInfo {
            name,
            value_type,
            level,
        });
        Ok(())
    }

    fn weight(&mut self) -> Parsed<()> {
        let place = self.at;
        let Token::Weight(name) = self.next() else {
            return Err(self.error_at(place, "expected a weight such as `@name`".to_owned()));
        };
        if self.graph.weight_named(&name).is_some() {
            return Err(self.error_at(place, format!("weight `@{name}` is declared twice")));
        }
        self.mark(':')?;
        let (dtype, shape) = self.tensor_type()?;
        let data = match self.take('=') {
            true => self.data(dtype, &shape)?,
            false => Constant::filled(dtype, shape, f64::NAN),
        };
        self.graph.add_weight(WeightInfo { name, data });
        Ok(())
    }

    fn data(&mut self, dtype: DType, shape: &Shape) -> Parsed<Constant> {
        let place = self.at;
        let word = match self.peek() {
            Token::Mark('[') => {
                let words = self.list()?;
                let tensor = weights::from_words(dtype, shape, &words);
                return tensor
                    .map(Constant::from)
                    .map_err(|message| self.error_at(place, message));
            }
            Token::Word(word) => word.clone(),
            _ => String::new(),
        };
        self.next();
        match word.as_str() {
            "fill" => {
                self.mark('(')?;
                let value = self.number()?;
                self.mark(')')?;
                Ok(Constant::filled(dtype, shape.clone(), value))
            }
            "random" => {
                self.mark('(')?;
                let seed = self.number()?;
                self.mark(',')?;
                let scale = self.number()?;
                self.mark(')')?;
                self.random = self.random.saturating_add(shape.elements());
                if self.random > RANDOM_ELEMENTS {
                    return Err(self.error_at(place, "too many random elements".to_owned()));
                }
                Ok(weights::random(dtype, shape, seed, scale).into())
            }
            _ => Err(self.error_at(
                place,
                "expected `[…]`, `fill(value)` or `random(seed, scale)`".to_owned(),
            )),
        }
    }

    fn statement(&mut self) -> Parsed<()> {
        let names = self.definitions()?;
        let place = self.at;
        let Token::Word(name) = self.next() else {
            return Err(self.error_at(place, "expected an operator".to_owned()));
        };
        let (operands, bag) = self.arguments(&name)?;
        let op = ops::build(&name, bag).map_err(|message| self.error_at(place, format!("`{name}`: {message}")))?;
        let types_place = self.at;
        let types = self.types()?;
        if types.len() != names.len() {
            let message = format!("{} values are defined with {} types", names.len(), types.len());
            return Err(self.error_at(types_place, message));
        }
        let origin = self.provenance()?;
        self.end_of_line()?;
        let node = self.graph.add(op, operands, types, origin);
        for (output, name) in names.into_iter().enumerate() {
            self.values.insert(
                name,
                ValueId {
                    node,
                    output: output as u32,
                },
            );
        }
        Ok(())
    }

    fn definitions(&mut self) -> Parsed<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        while let Token::Value(name) = self.peek() {
            let name = name.clone();
            if self.values.contains_key(&name) || names.contains(&name) {
                return Err(self.error_at(self.at, format!("value `%{name}` is defined twice")));
            }
            names.push(name);
            self.next();
            if !self.take(',') {
                self.mark('=')?;
                break;
            }
        }
        Ok(names)
    }

    fn arguments(&mut self, op: &str) -> Parsed<(Vec<Operand>, Bag)> {
        let mut bag = Bag::default();
        let mut operands = Vec::new();
        if op == "onnx" {
            bag.onnx_type = Some(self.word_or_text()?);
        }
        loop {
            let place = self.at;
            match self.next() {
                Token::Mark(',') => {}
                Token::Mark('{') => bag.onnx = self.onnx_attributes()?,
                Token::Value(name) => match self.values.get(&name) {
                    Some(&value) => operands.push(value.into()),
                    None => return Err(self.error_at(place, format!("value `%{name}` is not defined above"))),
                },
                Token::Weight(name) => match self.graph.weight_named(&name) {
                    Some(weight) => operands.push(weight.into()),
                    None => return Err(self.error_at(place, format!("weight `@{name}` is not declared"))),
                },
                Token::Word(word) if word == "_" => operands.push(Operand::Absent),
                Token::Word(word) if self.take('=') => {
                    let values = self.attribute_words()?;
                    if bag.pairs.insert(word.clone(), values).is_some() {
                        return Err(self.error_at(place, format!("`{word}` is given twice")));
                    }
                }
                Token::Word(word) => bag.words.push(word),
                Token::Text(text) => bag.texts.push(text),
                Token::Mark(':' | ';') | Token::Newline | Token::End => {
                    self.at = place;
                    return Ok((operands, bag));
                }
                other => return Err(self.error_at(place, format!("{} is not an operand", other.describe()))),
            }
        }
    }

    fn attribute_words(&mut self) -> Parsed<Vec<String>> {
        let place = self.at;
        if matches!(self.peek(), Token::Mark('[')) {
            return self.list();
        }
        match self.next() {
            Token::Word(word) | Token::Number(word) | Token::Text(word) => Ok(vec![word]),
            other => Err(self.error_at(place, format!("expected a value, found {}", other.describe()))),
        }
    }

    /// `[a, b]`: words, numbers or strings, as written.
    fn list(&mut self) -> Parsed<Vec<String>> {
        self.mark('[')?;
        let mut words = Vec::new();
        while !self.take(']') {
            let place = self.at;
            match self.next() {
                Token::Word(word) | Token::Number(word) | Token::Text(word) => words.push(word),
                other => return Err(self.error_at(place, format!("{} does not belong in a list", other.describe()))),
            }
            if !self.take(',') && !matches!(self.peek(), Token::Mark(']')) {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
        Ok(words)
    }

    fn onnx_attributes(&mut self) -> Parsed<BTreeMap<String, Attribute>> {
        let mut found = BTreeMap::new();
        while !self.take('}') {
            let place = self.at;
            let name = self.word_or_text()?;
            self.mark('=')?;
            let value = self.onnx_attribute()?;
            if found.insert(name.clone(), value).is_some() {
                return Err(self.error_at(place, format!("`{name}` is given twice")));
            }
            self.take(',');
        }
        Ok(found)
    }

    fn onnx_attribute(&mut self) -> Parsed<Attribute> {
        let place = self.at;
        if matches!(self.peek(), Token::Mark('[')) {
            let texts = matches!(self.tokens[self.at + 1].token, Token::Text(_));
            let words = self.list()?;
            return self.onnx_list(place, texts, words);
        }
        match self.next() {
            Token::Text(text) => Ok(Attribute::String(text)),
            Token::Word(word) if word == "ints" => Ok(Attribute::Ints(Vec::new())),
            Token::Word(word) if word == "floats" => Ok(Attribute::Floats(Vec::new())),
            Token::Word(word) if word == "strings" => Ok(Attribute::Strings(Vec::new())),
            Token::Word(word) if word == "tensor" => {
                self.mark('(')?;
                let (dtype, shape) = self.tensor_type()?;
                let words = self.list()?;
                self.mark(')')?;
                let tensor = weights::from_words(dtype, &shape, &words);
                tensor
                    .map(Attribute::Tensor)
                    .map_err(|message| self.error_at(place, message))
            }
            Token::Word(word) | Token::Number(word) if attributes::is_float(&word) => {
                self.parsed(place, &word).map(Attribute::Float)
            }
            Token::Number(word) => self.parsed(place, &word).map(Attribute::Int),
            other => Err(self.error_at(place, format!("{} is not an attribute's value", other.describe()))),
        }
    }

    fn onnx_list(&self, place: usize, texts: bool, words: Vec<String>) -> Parsed<Attribute> {
        if texts {
            return Ok(Attribute::Strings(words));
        }
        if words.iter().any(|word| attributes::is_float(word)) {
            let values: Parsed<Vec<f32>> = words.iter().map(|word| self.parsed(place, word)).collect();
            return values.map(Attribute::Floats);
        }
        let values: Parsed<Vec<i64>> = words.iter().map(|word| self.parsed(place, word)).collect();
        values.map(Attribute::Ints)
    }

    fn types(&mut self) -> Parsed<Vec<ValueType>> {
        let mut types = Vec::new();
        if self.take(':') {
            types.push(self.value_type()?);
            while self.take(',') {
                types.push(self.value_type()?);
            }
        }
        Ok(types)
    }

    fn value_type(&mut self) -> Parsed<ValueType> {
        let (dtype, shape) = self.tensor_type()?;
        let mut extent = Extent::Full;
        if let Token::Weight(level) = self.peek() {
            let numbered = |prefix: char| Some(LevelId(level.strip_prefix(prefix)?.parse().ok()?));
            let active = numbered('a').map(Extent::Active);
            let named = active.or_else(|| numbered('r').map(Extent::Around));
            extent = named.ok_or_else(|| self.unexpected("a level such as `@a0` or `@r0`"))?;
            self.next();
        }
        Ok(ValueType { dtype, shape, extent })
    }

    fn tensor_type(&mut self) -> Parsed<(DType, Shape)> {
        let place = self.at;
        let dtype = match self.next() {
            Token::Word(word) => word.parse::<DType>().map_err(|message| self.error_at(place, message))?,
            other => return Err(self.error_at(place, format!("expected a type, found {}", other.describe()))),
        };
        let place = self.at;
        let dims: Parsed<Vec<usize>> = self.list()?.iter().map(|word| self.parsed(place, word)).collect();
        Ok((dtype, dims?.into()))
    }

    fn provenance(&mut self) -> Parsed<Origin> {
        let mut origin = Origin::default();
        if !self.take(';') {
            return Ok(origin);
        }
        loop {
            let place = self.at;
            match self.next() {
                Token::Word(word) if word == "names" => {
                    while let Token::Text(_) = self.peek() {
                        origin.names.push(self.text()?);
                    }
                }
                Token::Word(word) if word == "pass" => origin.pass = self.text()?,
                Token::Word(word) if word == "reason" => origin.reason = self.text()?,
                _ => return Err(self.error_at(place, "expected `names`, `pass` or `reason`".to_owned())),
            }
            if !self.take(',') {
                return Ok(origin);
            }
        }
    }

    fn keyword(&mut self, keyword: &str) -> Parsed<()> {
        match self.peek() {
            Token::Word(word) if word == keyword => {
                self.next();
                Ok(())
            }
            _ => Err(self.unexpected(&format!("`{keyword}`"))),
        }
    }

    fn word_or_text(&mut self) -> Parsed<String> {
        match self.peek().clone() {
            Token::Word(word) | Token::Text(word) => {
                self.next();
                Ok(word)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    fn text(&mut self) -> Parsed<String> {
        match self.peek().clone() {
            Token::Text(text) => {
                self.next();
                Ok(text)
            }
            _ => Err(self.unexpected("a string in quotes")),
        }
    }

    fn number<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        let place = self.at;
        match self.next() {
            Token::Number(word) | Token::Word(word) => self.parsed(place, &word),
            other => Err(self.error_at(place, format!("expected a number, found {}", other.describe()))),
        }
    }

    fn parsed<T: std::str::FromStr>(&self, place: usize, word: &str) -> Parsed<T> {
        word.parse()
            .map_err(|_| self.error_at(place, format!("`{word}` is not a number that fits here")))
    }

    fn end_of_line(&mut self) -> Parsed<()> {
        match self.peek() {
            Token::Newline => {
                self.next();
                Ok(())
            }
            Token::End => Ok(()),
            _ => Err(self.unexpected("the end of the line")),
        }
    }

    fn skip_newlines(&mut self) {
        while matches!(self.peek(), Token::Newline) {
            self.at += 1;
        }
    }

    fn mark(&mut self, mark: char) -> Parsed<()> {
        if self.take(mark) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{mark}`")))
        }
    }

    fn take(&mut self, mark: char) -> bool {
        let found = *self.peek() == Token::Mark(mark);
        if found {
            self.at += 1;
        }
        found
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].token.clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn unexpected(&self, wanted: &str) -> ParseError {
        self.error_at(self.at, format!("expected {wanted}, found {}", self.peek().describe()))
    }

    fn error_at(&self, at: usize, message: String) -> ParseError {
        let Placed { line, column, .. } = self.tokens[at.min(self.tokens.len() - 1)];
        let text = self.lines.get(line - 1).copied().unwrap_or_default().to_owned();
        ParseError {
            line,
            column,
            message,
            text,
        }
    }
}
