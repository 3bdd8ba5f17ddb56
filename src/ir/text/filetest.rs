//! File tests: passes tested in IR text.
//!
//! A test file holds directives, the input graph, a line `expect:` and the graph that the passes make of it:
//!
//! ```text
//! # why this test exists
//! test passes
//! test oracle tol=1e-9 ; sums in another order
//! passes: freeze_norm, fuse_conv
//! options: sparse_levels=1
//!
//! graph edit
//! …
//!
//! expect:
//!
//! graph edit
//! …
//! ```
//!
//! `options:` are words for passes that need more than the graph; what they mean is the runner's affair.
//! `test oracle` evaluates both graphs on the same data and compares their outputs. With `FISEC_BLESS=1` in the
//! environment [`run_folder`] rewrites the expectations, for a person to read before committing.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{ParseError, parse, print};
use crate::Graph;
use crate::verify::verify;

/// Runs the pass of this name, with the file's options, over a graph.
pub type RunPass<'a> = &'a dyn Fn(&str, &[String], &mut Graph) -> Result<(), String>;

/// Compares the outputs of two graphs within a relative tolerance.
pub type Compare<'a> = &'a dyn Fn(&Graph, &Graph, f64) -> Result<(), String>;

/// What executes a test's directives.
#[derive(Clone, Copy)]
pub struct Executors<'a> {
    /// for `passes:`
    pub pass: RunPass<'a>,
    /// for `test oracle`
    pub oracle: Option<Compare<'a>>,
}

/// Why a file test fails.
#[derive(Debug, Error)]
pub enum FileTestError {
    /// The file is not a test.
    #[error("line {line}: {message}")]
    Directive {
        /// line, from 1
        line: usize,
        /// what is wrong
        message: String,
    },
    /// The input is not IR text.
    #[error("input: {0}")]
    Parse(#[from] ParseError),
    /// A graph is not well formed.
    #[error("{stage}: {errors}")]
    Verify {
        /// `input`, or the pass that made the graph
        stage: String,
        /// all that is wrong
        errors: String,
    },
    /// A pass failed.
    #[error("pass `{pass}`: {message}")]
    Pass {
        /// its name
        pass: String,
        /// its error
        message: String,
    },
    /// The passes made another graph than expected.
    #[error("not as expected\n{0}")]
    Differs(String),
    /// The oracle tells input and result apart.
    #[error("oracle: {0}")]
    Oracle(String),
    /// The file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
}

#[derive(Debug, Default)]
struct Test {
    head: String,
    passes: Vec<String>,
    options: Vec<String>,
    compare_text: bool,
    tolerance: Option<f64>,
    input: String,
    expected: String,
}

/// Runs one test, given as text.
pub fn check(source: &str, executors: Executors) -> Result<(), FileTestError> {
    let test = split(source)?;
    let result = print(&transformed(&test, executors)?);
    if test.compare_text && result.trim() != test.expected.trim() {
        return Err(FileTestError::Differs(difference(test.expected.trim(), result.trim())));
    }
    Ok(())
}

/// The test's text with the expectation replaced by what the passes make now.
pub fn bless(source: &str, executors: Executors) -> Result<String, FileTestError> {
    let test = split(source)?;
    let result = print(&transformed(&test, executors)?);
    Ok(match test.compare_text {
        true => format!("{}{}\n\nexpect:\n\n{}\n", test.head, test.input.trim(), result.trim()),
        false => source.to_owned(),
    })
}

/// Runs every `.fir` file of a folder, in order of their names, or blesses them. Returns how many there are and what
/// failed.
pub fn run_folder(
    folder: &Path,
    executors: Executors,
) -> Result<(usize, Vec<(PathBuf, FileTestError)>), FileTestError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |error| FileTestError::File(path, error)
    };
    let entries = std::fs::read_dir(folder).map_err(file_error(folder))?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(file_error(folder))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "fir"));
    paths.sort();
    let blessing = std::env::var_os("FISEC_BLESS").is_some_and(|value| value == "1");
    let run = |path: &PathBuf| {
        let source = std::fs::read_to_string(path).map_err(file_error(path))?;
        match blessing {
            true => std::fs::write(path, bless(&source, executors)?).map_err(file_error(path)),
            false => check(&source, executors),
        }
    };
    let failed = paths
        .iter()
        .filter_map(|path| run(path).err().map(|error| (path.clone(), error)))
        .collect();
    Ok((paths.len(), failed))
}

fn transformed(test: &Test, executors: Executors) -> Result<Graph, FileTestError> {
    let input = parse(&test.input)?;
    verified("input", &input)?;
    let mut graph = input.clone();
    for pass in &test.passes {
        let failed = |message| FileTestError::Pass {
            pass: pass.clone(),
            message,
        };
        (executors.pass)(pass, &test.options, &mut graph).map_err(failed)?;
        verified(pass, &graph)?;
    }
    if let Some(tolerance) = test.tolerance {
        let oracle = executors
            .oracle
            .ok_or_else(|| FileTestError::Oracle("there is none here".to_owned()))?;
        oracle(&input, &graph, tolerance).map_err(FileTestError::Oracle)?;
    }
    Ok(graph)
}

fn verified(stage: &str, graph: &Graph) -> Result<(), FileTestError> {
    verify(graph).map_err(|errors| FileTestError::Verify {
        stage: stage.to_owned(),
        errors: errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    })
}

fn split(source: &str) -> Result<Test, FileTestError> {
    let mut test = Test::default();
    let mut lines = source.lines().enumerate();
    let mut rest = None;
    for (index, line) in lines.by_ref() {
        // what follows `;` or `#` is for people: the reason of a tolerance
        let words: Vec<&str> = line
            .split([';', '#'])
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        if words.first() == Some(&"graph") {
            rest = Some(line);
            break;
        }
        directive(&mut test, &words, line).map_err(|message| FileTestError::Directive {
            line: index + 1,
            message,
        })?;
        test.head.push_str(line);
        test.head.push('\n');
    }
    let mut seen = false;
    for line in rest.into_iter().chain(lines.map(|(_, line)| line)) {
        if line.trim() == "expect:" {
            seen = true;
            continue;
        }
        let section = if seen { &mut test.expected } else { &mut test.input };
        section.push_str(line);
        section.push('\n');
    }
    if !test.compare_text && test.tolerance.is_none() {
        let message = "the file asks for no test".to_owned();
        return Err(FileTestError::Directive { line: 1, message });
    }
    Ok(test)
}

fn directive(test: &mut Test, words: &[&str], line: &str) -> Result<(), String> {
    match words {
        [] => {}
        ["test", "passes"] => test.compare_text = true,
        ["test", "oracle", tolerance] => {
            let value = tolerance.strip_prefix("tol=").and_then(|value| value.parse().ok());
            test.tolerance = Some(value.ok_or("`test oracle` needs `tol=` and a number")?);
        }
        ["passes:", ..] => {
            let names = words[1..].iter().flat_map(|word| word.split(','));
            test.passes
                .extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        }
        ["options:", options @ ..] => test.options.extend(options.iter().map(|word| (*word).to_owned())),
        _ => return Err(format!("unknown directive `{}`", line.trim())),
    }
    Ok(())
}

/// Lines that only one side has, in place: `-` expected, `+` found.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let start = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let shared = expected.len().min(found.len()) - start;
    let end = expected
        .iter()
        .rev()
        .zip(found.iter().rev())
        .take(shared)
        .take_while(|(a, b)| a == b)
        .count();
    let lines = |side: &[&str], sign: char| -> Vec<String> {
        side[start..side.len() - end]
            .iter()
            .map(|line| format!("{sign} {line}"))
            .collect()
    };
    let mut text = vec![format!("from line {} of the expectation:", start + 1)];
    text.extend(lines(&expected, '-'));
    text.extend(lines(&found, '+'));
    text.join("\n")
}
