//! `fisec dump`: a model or a plan as text, data or a drawing.

mod costs;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fisec_ir::dump::Dump;
use fisec_ir::text::Printer;
use fisec_ir::{Graph, NodeId, text};
use fisec_onnx::{Location, Ports, SinkError, WeightSink, export};
use fisec_plan::{Plan, ProgramKind};
use fisec_tensor::Constant;

use super::compile::Choices;
use super::console::Console;
use super::failure::Failure;
use super::graphs::Source;
use super::output;
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
    let source = Source::open(&arguments.source, &arguments.choices)?;
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
        Format::Json => write(arguments, &format!("{:#}", dump.json())),
        Format::Dot => write(arguments, &dump.dot()),
        Format::Svg => write(arguments, &dump.svg()),
        Format::Html => write(arguments, &dump.html()),
        Format::Onnx => write_onnx(arguments, graph),
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
        Some(name) => name.parse::<ProgramKind>().map_err(Failure::new)?,
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
    output::write_file(path, &model)
}

/// Weights in one file beside the model.
pub struct BesideModel {
    name: String,
    file: File,
    length: u64,
}

impl BesideModel {
    pub fn create(model: &Path) -> Result<Self, Failure> {
        let name = format!("{}.data", model.file_name().unwrap_or_default().to_string_lossy());
        let path = model.with_file_name(&name);
        let file = File::create(&path).map_err(Failure::file(&path))?;
        Ok(BesideModel { name, file, length: 0 })
    }
}

impl WeightSink for BesideModel {
    fn place(&mut self, _name: &str, data: &Constant) -> Result<Location, SinkError> {
        let tensor = data.materialize();
        let written = self.file.write_all(tensor.data());
        written.map_err(|error| SinkError::new(error.to_string()))?;
        let location = Location {
            file: self.name.clone(),
            offset: self.length,
            length: tensor.data().len() as u64,
        };
        self.length += location.length;
        Ok(location)
    }
}
