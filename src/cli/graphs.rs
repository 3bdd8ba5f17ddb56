//! Graphs to look at: of a model, of a plan, of IR text.

use std::path::{Path, PathBuf};

use fisec_ir::{Graph, text};
use fisec_passes::cost::CostTable;
use fisec_plan::{Bundle, NetworkKind};

use super::compile::{Choices, Model, Watcher, build, raise};
use super::failure::Failure;

/// What stands at a path.
pub struct Source {
    /// the files of a model, or of IR text
    pub files: Vec<PathBuf>,
    /// the raised model, `record`, `guide`, `edit`: those that there are
    pub graphs: Vec<Graph>,
    /// the plan, when it is one
    pub bundle: Option<Bundle>,
}

/// Name of the graph before it is split into programs.
pub const MODEL: &str = "model";

impl Source {
    /// Opens a plan, a `.fir` file or a model.
    pub fn open(path: &Path, choices: &Choices) -> Result<Self, Failure> {
        if path.join("plan.json").is_file() {
            let bundle = Bundle::open(path)?;
            let graphs = parse(&bundle.path("graph.fir"))?;
            return Ok(Source {
                files: Vec::new(),
                graphs,
                bundle: Some(bundle),
            });
        }
        let (files, graphs) = match path.extension().is_some_and(|extension| extension == "fir") {
            true => (vec![path.to_owned()], parse(path)?),
            false => programs(path, choices)?,
        };
        Ok(Source {
            files,
            graphs,
            bundle: None,
        })
    }

    /// The graph of a name; without one the raised model, else the last of the denoiser's programs.
    pub fn graph(&self, name: Option<&str>) -> Result<&Graph, Failure> {
        let chosen = match name {
            Some(name) => self.graphs.iter().find(|graph| graph.name() == name),
            None => self
                .graphs
                .iter()
                .find(|graph| graph.name() == MODEL)
                .or_else(|| self.graphs.iter().rfind(|graph| !is_network(graph)))
                .or(self.graphs.last()),
        };
        chosen.ok_or_else(|| {
            let names: Vec<&str> = self.graphs.iter().map(Graph::name).collect();
            Failure::new(format!("there is no program `{}`", name.unwrap_or_default()))
                .hint(format!("there is {}", names.join(", ")))
        })
    }
}

/// Whether a graph is a network beside the denoiser.
fn is_network(graph: &Graph) -> bool {
    NetworkKind::ALL.iter().any(|kind| kind.name() == graph.name())
}

/// The files of a model, its raised graph and its programs.
fn programs(path: &Path, choices: &Choices) -> Result<(Vec<PathBuf>, Vec<Graph>), Failure> {
    let model = Model::find(path, None)?;
    let mut watcher = Watcher::default();
    let imported = raise(&model, choices, &mut watcher)?;
    let (files, mut raised) = (imported.model_files, imported.graph);
    raised.set_name(MODEL);
    let table = CostTable::shipped("cpu").map_err(Failure::new)?;
    let mut graphs = vec![raised.clone()];
    // A model that is no denoiser is a graph all the same.
    if let Ok(Some(module)) = build(raised, choices, &table, &mut watcher) {
        graphs.extend([module.record, module.guide]);
        graphs.extend(module.edit);
    }
    Ok((files, graphs))
}

/// The graphs of a `.fir` file, one after another.
fn parse(path: &Path) -> Result<Vec<Graph>, Failure> {
    let source = fisec_files::read_text(path).map_err(Failure::file(path))?;
    let mut sections: Vec<(usize, String)> = Vec::new();
    for (number, line) in source.lines().enumerate() {
        if line.starts_with("graph ") || sections.is_empty() {
            sections.push((number, String::new()));
        }
        if let Some((_, section)) = sections.last_mut() {
            section.push_str(line);
            section.push('\n');
        }
    }
    let graphs = sections.iter().map(|(skipped, section)| {
        text::parse(section).map_err(|mut error| {
            error.line += skipped;
            Failure::new(format!("{}:{error}", path.display())).hint("`docs/ir.md` describes IR text")
        })
    });
    graphs.collect()
}
