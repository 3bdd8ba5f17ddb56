//! `fisec dump`: a model or a plan as text, data or a drawing.

mod beside;
mod costs;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fisec_ir::dump::Dump;
use fisec_ir::text::Printer;
use fisec_ir::{Graph, NodeId, text};
use fisec_onnx::{Ports, export};
use fisec_plan::{Plan, ProgramKind};

use super::compile::Choices;
use super::console::Console;
use super::failure::Failure;
use super::graphs::Source;
use super::output::{self, Closed, NewFile, Place, Planned};
pub use beside::BesideModel;
use costs::with_costs;

#[derive(Args, Debug)]
#[command(after_help = "Example:
  fisec dump models/demo --format html -o demo.html
  fisec dump demo.plan --program edit --node conv_in")]
pub struct Arguments {
    /// Pipeline folder, .onnx file, plan, or .fir file
    source: PathBuf,
    /// The model before it is split, or one of its programs: model, record, guide, edit; of a plan for a GPU also
    /// text_encoder, vae_decoder, vae_encoder
    #[arg(long)]
    program: Option<String>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Only this node and its neighbours, by its ONNX name or a part of it (text only)
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where it goes [default: stdout]
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    choices: Choices,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// IR text
    Text,
    /// kernel calls of a plan
    Calls,
    /// versioned, for programs
    Json,
    /// Graphviz
    Dot,
    /// a drawing
    Svg,
    /// a page to search and zoom
    Html,
    /// a model that computes the same; weights go into a file beside it
    Onnx,
}

pub fn run(arguments: &Arguments, _console: &Console) -> Result<(), Failure> {
    arguments.check(&[])?;
    let source = Source::open(&arguments.source, &arguments.choices)?;
    arguments.check(&source.files)?;
    let program = arguments.program.as_deref();
    if arguments.format == Format::Calls {
        let Some(bundle) = &source.bundle else {
            return Err(Failure::new("only plans have kernel calls").hint("compile the model first"));
        };
        return write(arguments, &calls(bundle.plan(), program)?);
    }
    let graph = source.graph(program)?;
    if let Some(name) = &arguments.node {
        if arguments.format != Format::Text {
            return Err(Failure::new("`--node` shows one node as text").hint("leave out `--format`"));
        }
        return write(arguments, &neighbourhood(graph, name)?);
    }
    let dump = match &source.bundle {
        Some(bundle) => with_costs(graph, bundle.plan()),
        None => Dump::new(graph),
    };
    match arguments.format {
        Format::Text | Format::Calls => write(arguments, text::print(graph).trim_end()),
        Format::Json if arguments.output.is_none() => output::print_json(&dump.json()),
        Format::Json => write(arguments, &format!("{:#}", dump.json())),
        Format::Dot => write(arguments, &dump.dot()),
        Format::Svg => write(arguments, &dump.svg()),
        Format::Html => write(arguments, &dump.html()),
        Format::Onnx => write_onnx(arguments, graph),
    }
}

impl Arguments {
    /// Fails where the output cannot be written, or would replace one of the files that the source is read from.
    fn check(&self, sources: &[PathBuf]) -> Result<(), Failure> {
        let Some(path) = &self.output else { return Ok(()) };
        let planned = |role, path: PathBuf| Planned { role, path };
        let mut outputs = vec![planned("-o", path.clone())];
        if self.format == Format::Onnx {
            if !matches!(Place::of(path), Ok(Place::File(..) | Place::Folder) | Err(_)) {
                return Err(Failure::new(format!(
                    "{}: an ONNX model and its weights are two files",
                    path.display()
                ))
                .hint("name a file: `-o model.onnx`"));
            }
            outputs.push(planned("-o", BesideModel::place(path)));
        }
        let mut sources: Vec<Planned> = sources.iter().map(|path| planned("the model", path.clone())).collect();
        sources.push(planned("what is dumped", self.source.clone()));
        let is_plan = self.source.join("plan.json").is_file();
        let closed = Closed {
            role: "the plan",
            path: &self.source,
        };
        output::check(
            &outputs,
            &sources,
            if is_plan { std::slice::from_ref(&closed) } else { &[] },
        )
    }
}

fn write(arguments: &Arguments, text: &str) -> Result<(), Failure> {
    match &arguments.output {
        Some(path) => output::write_file(path, text.as_bytes()),
        None => output::print(text),
    }
}

fn calls(plan: &Plan, program: Option<&str>) -> Result<String, Failure> {
    let network = plan.networks.iter().find(|(kind, _)| Some(kind.name()) == program);
    if let Some((_, network)) = network {
        return Ok(fisec_plan::program_text(plan, network).trim_end().to_owned());
    }
    let kind = match program {
        Some(name) => name.parse::<ProgramKind>().map_err(|error| {
            Failure::new(error)
                .hint("give one of record, guide, edit, or of a plan for a GPU text_encoder, vae_decoder, vae_encoder")
        })?,
        None if plan.programs.edit.is_some() => ProgramKind::Edit,
        None => ProgramKind::Guide,
    };
    let Some(program) = plan.programs.get(kind) else {
        return Err(Failure::new(format!("the plan has no `{kind}` program")).hint("every level of it is dense"));
    };
    Ok(fisec_plan::program_text(plan, program).trim_end().to_owned())
}

/// A node's line between those of the nodes that it reads and of those that read it.
fn neighbourhood(graph: &Graph, name: &str) -> Result<String, Failure> {
    let printer = Printer::new(graph);
    let has_name = |id: &NodeId| graph.origin(*id).names.iter().any(|known| known == name);
    let contains = |id: &NodeId| printer.line(*id).contains(name);
    let mut found: Vec<NodeId> = printer.order().iter().copied().filter(has_name).collect();
    if found.is_empty() {
        found = printer.order().iter().copied().filter(contains).collect();
    }
    if found.is_empty() {
        return Err(Failure::new(format!("no node has `{name}` in its name"))
            .hint("`fisec dump` without `--node` shows all of them"));
    }
    let near = |id: &NodeId| {
        found.contains(id)
            || found
                .iter()
                .any(|center| reads(graph, *center, *id) || reads(graph, *id, *center))
    };
    let lines = printer.order().iter().filter(|id| near(id)).map(|id| {
        let mark = if found.contains(id) { "→ " } else { "  " };
        format!("{mark}{}", printer.line(*id))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn reads(graph: &Graph, reader: NodeId, read: NodeId) -> bool {
    let mut values = graph.operands(reader).iter().filter_map(|operand| operand.value());
    values.any(|value| value.node == read)
}

fn write_onnx(arguments: &Arguments, graph: &Graph) -> Result<(), Failure> {
    let Some(path) = &arguments.output else {
        return Err(Failure::new("an ONNX model goes into a file").hint("say where: `-o model.onnx`"));
    };
    let mut weights = BesideModel::create(path)?;
    let model = export(graph, Ports::Plain, &mut weights)
        .map_err(|error| Failure::new(error.to_string()).hint("`record` and `guide` are dense programs"))?;
    let mut file = NewFile::create(path)?;
    file.write_all(&model).map_err(NewFile::failure(path))?;
    // One after the other, with nothing in between: the model names its weights by their file.
    weights.publish()?;
    file.publish()
}
