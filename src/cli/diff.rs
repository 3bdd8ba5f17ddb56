//! `fisec diff`: what was rewritten, by which pass, why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use fisec_ir::text::Printer;
use fisec_ir::{Graph, NodeId, Op};
use serde_json::{Value, json};

use super::compile::Choices;
use super::console::Console;
use super::failure::Failure;
use super::graphs::Source;
use super::{output, printable};

#[derive(Args, Debug)]
#[command(after_help = "Example:
  fisec diff demo.plan                      # its guide program against its edit program
  fisec diff models/demo demo.plan --to edit
  fisec diff old.plan new.plan")]
pub struct Arguments {
    /// Plan, model or .fir file
    before: PathBuf,
    /// The other one [default: the same]
    after: Option<PathBuf>,
    /// Program of the first [default: model or edit; guide when there is one source only]
    #[arg(long, value_name = "PROGRAM")]
    from: Option<String>,
    /// Program of the second [default: model or edit]
    #[arg(long, value_name = "PROGRAM")]
    to: Option<String>,
    #[command(flatten)]
    choices: Choices,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Nodes of both sides that stand for the same ONNX nodes.
struct Rewrite {
    before: Vec<String>,
    after: Vec<String>,
    pass: String,
    reason: String,
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    let before = Source::open(&arguments.before, &arguments.choices)?;
    let after = arguments
        .after
        .as_ref()
        .map(|path| Source::open(path, &arguments.choices))
        .transpose()?;
    let from = match (&arguments.from, &after) {
        (None, None) => Some("guide"),
        (from, _) => from.as_deref(),
    };
    let to = match (&arguments.to, &after) {
        (None, None) => Some("edit"),
        (to, _) => to.as_deref(),
    };
    let old = before.graph(from)?;
    let new = after.as_ref().unwrap_or(&before).graph(to)?;
    let rewrites = rewrites(old, new);
    if arguments.json {
        return output::print_json(&rewrites.iter().map(Rewrite::json).collect());
    }
    for rewrite in &rewrites {
        output::print(&rewrite.text())?;
    }
    let passes = rewrites
        .iter()
        .fold(BTreeMap::<&str, usize>::new(), |mut counts, rewrite| {
            *counts.entry(&rewrite.pass).or_default() += 1;
            counts
        });
    let passes: Vec<String> = passes
        .iter()
        .map(|(pass, count)| format!("{count} by {pass}"))
        .collect();
    console.say(&match rewrites.len() {
        0 => "no difference".to_owned(),
        count => format!("{count} rewrites: {}", passes.join(", ")),
    });
    Ok(())
}

/// Groups nodes of both graphs that share an ONNX name; a group that reads the same on both sides is no rewrite.
fn rewrites(old: &Graph, new: &Graph) -> Vec<Rewrite> {
    let (old, new) = (Side::new(old), Side::new(new));
    let mut rewrites = Vec::new();
    let mut seen = BTreeSet::new();
    let starts = new.nodes.iter().chain(&old.nodes).flat_map(|node| &node.names);
    for start in starts {
        if seen.contains(start) {
            continue;
        }
        let names = closure(start, &old, &new);
        seen.extend(names.iter().cloned());
        let (before, after) = (old.of(&names), new.of(&names));
        let statements = |nodes: &[&Statement]| nodes.iter().map(|node| node.text.clone()).collect::<Vec<_>>();
        let (texts, new_texts) = (statements(&before), statements(&after));
        if texts != new_texts {
            let reason = after.iter().rev().find(|node| !node.pass.is_empty());
            rewrites.push(Rewrite {
                before: texts,
                after: new_texts,
                pass: reason.map_or("removal".into(), |node| node.pass.clone()),
                reason: reason.map_or(String::new(), |node| node.reason.clone()),
            });
        }
    }
    rewrites
}

/// A node without the numbers of its values, which differ between any two graphs.
struct Statement {
    names: Vec<String>,
    text: String,
    pass: String,
    reason: String,
}

struct Side {
    nodes: Vec<Statement>,
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Side {
    fn new(graph: &Graph) -> Self {
        let printer = Printer::new(graph);
        let is_port = |id: &&NodeId| !matches!(graph.op(**id), Op::Input(_) | Op::Output(_));
        let nodes: Vec<Statement> = printer
            .order()
            .iter()
            .filter(is_port)
            .map(|id| Statement {
                names: graph.origin(*id).names.clone(),
                text: without_numbers(&printer.statement(*id)),
                pass: graph.origin(*id).pass.clone(),
                reason: graph.origin(*id).reason.clone(),
            })
            .collect();
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for name in &node.names {
                by_name.entry(name.clone()).or_default().push(index);
            }
        }
        Side { nodes, by_name }
    }

    fn of_name(&self, name: &str) -> impl Iterator<Item = &Statement> {
        self.by_name
            .get(name)
            .into_iter()
            .flatten()
            .map(|index| &self.nodes[*index])
    }

    fn of(&self, names: &BTreeSet<String>) -> Vec<&Statement> {
        let indices: BTreeSet<usize> = names
            .iter()
            .filter_map(|name| self.by_name.get(name))
            .flatten()
            .copied()
            .collect();
        indices.into_iter().map(|index| &self.nodes[index]).collect()
    }
}

/// Every ONNX name that `start` is connected to through nodes of either side.
fn closure(start: &str, old: &Side, new: &Side) -> BTreeSet<String> {
    let mut names = BTreeSet::from([start.to_owned()]);
    let mut open = vec![start.to_owned()];
    while let Some(name) = open.pop() {
        for other in old
            .of_name(&name)
            .chain(new.of_name(&name))
            .flat_map(|node| &node.names)
        {
            if names.insert(other.clone()) {
                open.push(other.clone());
            }
        }
    }
    names
}

/// `%12 = conv %11, @w` becomes `conv %, @w`.
fn without_numbers(statement: &str) -> String {
    let body = statement.split_once(" = ").map_or(statement, |(_, body)| body);
    let mut text = String::new();
    let mut after_percent = false;
    for letter in body.chars() {
        if !(after_percent && letter.is_ascii_digit()) {
            after_percent = letter == '%';
            text.push(letter);
        }
    }
    text
}

impl Rewrite {
    fn text(&self) -> String {
        let removed = self.before.iter().map(|line| format!("- {line}"));
        let added = self.after.iter().map(|line| format!("+ {line}"));
        let mut text = removed.chain(added).collect::<Vec<_>>().join("\n");
        if !self.pass.is_empty() {
            let because = if self.reason.is_empty() { "" } else { ": " };
            let reason = format!("  {}{because}{}", self.pass, self.reason);
            text += &format!("\n{}\n", printable::line(&reason));
        }
        text
    }

    fn json(&self) -> Value {
        json!({ "before": self.before, "after": self.after, "pass": self.pass, "reason": self.reason })
    }
}

#[cfg(test)]
mod tests {
    use super::without_numbers;

    #[test]
    fn statements_are_compared_without_value_numbers() {
        assert_eq!(without_numbers("%7 = add %5, %61 : f32[2,4]"), "add %, % : f32[2,4]");
    }
}
