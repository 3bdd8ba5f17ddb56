//! `fisec verify`: a model against recorded outputs, at every stage of the compiler.

mod network;
mod npz;
mod routes;
mod sizes;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fisec_ir::{Graph, Op};
use fisec_oracle::{Difference, Tensor, difference};
use fisec_tensor::HostTensor;
use serde_json::{Value, json};

use super::compile::{Choices, Watcher, import};
use super::console::Console;
use super::failure::Failure;
use super::{numbers, output};

/// Rounding of f32 sums in another order, relative to the largest output.
const TOLERANCE: f64 = 1e-3;

#[derive(Args, Debug)]
#[command(after_help = "Example:
  fisec verify unet/model.onnx --io io.npz
  fisec verify unet/model.onnx --io io.npz --through plan --tol 1e-4")]
pub struct Arguments {
    /// The model
    model: PathBuf,
    /// Arrays `in_<input>` and `out_<output>`, as numpy.savez writes them
    #[arg(long, value_name = "IO.npz")]
    io: PathBuf,
    /// What computes the outputs [default: each in turn]
    #[arg(long, value_enum)]
    through: Option<Through>,
    /// Largest error, relative to the largest recorded output
    #[arg(long, default_value_t = TOLERANCE, allow_negative_numbers = true, value_parser = numbers::decimal(numbers::TOLERANCE))]
    tol: f64,
    #[command(flatten)]
    choices: Choices,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A stage of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Through {
    /// the model as it is, in ONNX Runtime
    Ort,
    /// imported and written again, in ONNX Runtime
    Import,
    /// raised to semantic operators and written again, in ONNX Runtime
    Raised,
    /// compiled, in the plan's runtime: the dense program, and the sparse one with everything active
    Plan,
    /// raised, in the f64 oracle
    Oracle,
}

const ALL: [Through; 5] = [
    Through::Ort,
    Through::Import,
    Through::Raised,
    Through::Plan,
    Through::Oracle,
];

/// Tensors by name.
pub type Tensors = BTreeMap<String, HostTensor>;

/// Recorded inputs and outputs.
pub struct Recorded {
    pub inputs: Tensors,
    pub outputs: Tensors,
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    let recorded = npz::read(&arguments.io)?;
    let stages = arguments.through.map_or(ALL.to_vec(), |stage| vec![stage]);
    let mut rows = vec![
        ["through", "output", "max error", "relative", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut data = Vec::new();
    let mut worst = 0.0f64;
    let mut failures = Vec::new();
    for stage in stages {
        let runs = match stage.compute(arguments, &recorded) {
            // Asked for everything, what can be computed is compared all the same.
            Err(Trouble { failure, is_defect }) if arguments.through.is_none() => {
                console.warn(&format!("{} cannot compute it: {}", stage.name(), failure.message()));
                failures.extend(is_defect.then_some((stage, failure)));
                continue;
            }
            other => other.map_err(|trouble| trouble.failure)?,
        };
        for Run { program, outputs } in runs {
            let mut computed = outputs.keys().filter(|_| stage == Through::Plan);
            if let Some(missing) = computed.find(|name| !recorded.outputs.contains_key(*name)) {
                return Err(Failure::new(format!("no array `out_{missing}` is recorded"))
                    .hint("record that output too: it is the one that a plan computes"));
            }
            for (name, expected) in &recorded.outputs {
                if stage == Through::Plan && !outputs.contains_key(name) {
                    continue; // a plan has the one output that a pipeline reads
                }
                let error = compare(name, outputs.get(name), expected)?;
                worst = worst.max(error.relative);
                rows.push(stage.row(program, name, error, arguments.tol));
                data.push(stage.json(program, name, error));
            }
        }
    }
    match arguments.json {
        true => output::print_json(&json!({ "tolerance": arguments.tol, "results": data }))?,
        false => output::print(&output::table(&rows, &[2, 3]))?,
    }
    if let Some((stage, failure)) = failures.into_iter().next() {
        let context = format!("the model cannot be verified through {}", stage.name());
        return Err(failure.within(&context));
    }
    if worst <= arguments.tol {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the largest relative error is {worst:.2e}, more than {:.0e}",
        arguments.tol
    ))
    .hint("the first stage that is off is where to look; `--tol` allows more, e.g. for f16 models"))
}

fn compare(name: &str, found: Option<&HostTensor>, expected: &HostTensor) -> Result<Difference, Failure> {
    let Some(found) = found else {
        return Err(Failure::new(format!("the model has no output `{name}`"))
            .hint("name recorded arrays `out_<output>` after the model's outputs"));
    };
    let (found, expected) = (Tensor::from_host(found), Tensor::from_host(expected));
    difference(&found, &expected).map_err(|error| {
        Failure::new(format!("output `{name}`: {error}"))
            .hint("record inputs and outputs of the same run of this model")
    })
}

/// Why a stage computes nothing.
struct Trouble {
    failure: Failure,
    /// whether every model should pass here
    is_defect: bool,
}

impl Trouble {
    fn defect(failure: Failure) -> Self {
        Trouble {
            failure,
            is_defect: true,
        }
    }

    fn expected(failure: Failure) -> Self {
        Trouble {
            failure,
            is_defect: false,
        }
    }
}

/// Whether there are operators that are not raised; the oracle knows some of them.
fn has_opaque(graph: &Graph) -> bool {
    graph.ids().into_iter().any(|id| matches!(graph.op(id), Op::Onnx(_)))
}

/// Outputs of a stage.
struct Run {
    /// which of several programs computed them
    program: Option<&'static str>,
    outputs: Tensors,
}

impl From<Tensors> for Run {
    fn from(outputs: Tensors) -> Self {
        Run { program: None, outputs }
    }
}

fn through_plan(graph: Graph, choices: &Choices, recorded: &Recorded) -> Result<Vec<Run>, Failure> {
    if let Some(outputs) = network::compute(&graph, choices, recorded)? {
        return Ok(vec![outputs.into()]);
    }
    let compiled = routes::plan(graph, choices, recorded)?;
    let edit = compiled.edit.map(|outputs| Run {
        program: Some("edit"),
        outputs,
    });
    Ok(std::iter::once(compiled.dense.into()).chain(edit).collect())
}

impl Through {
    fn name(self) -> &'static str {
        match self {
            Through::Ort => "ort",
            Through::Import => "import",
            Through::Raised => "raised",
            Through::Plan => "plan",
            Through::Oracle => "oracle",
        }
    }

    fn compute(self, arguments: &Arguments, recorded: &Recorded) -> Result<Vec<Run>, Trouble> {
        let one = |outputs: Tensors| vec![Run::from(outputs)];
        if self == Through::Ort {
            // it refuses some files that fisec reads
            let computed = routes::onnx_runtime(&arguments.model, &recorded.inputs, &recorded.outputs);
            return computed.map(one).map_err(Trouble::expected);
        }
        let bindings = sizes::bindings(arguments, recorded).map_err(Trouble::expected)?;
        let mut graph = import::import(&arguments.model, &bindings)
            .map_err(Trouble::defect)?
            .graph;
        let raised = match self {
            // Written models declare the types of their outputs, and shape arithmetic must be gone for that.
            Through::Import => import::fold(&mut graph),
            _ => import::raise_graph(&mut graph, &mut Watcher::default()),
        };
        raised.map_err(Trouble::defect)?;
        match self {
            Through::Oracle => routes::oracle(&graph, &recorded.inputs)
                .map(one)
                .map_err(|failure| Trouble {
                    failure,
                    is_defect: !has_opaque(&graph),
                }),
            // only a denoiser makes a plan for every target
            Through::Plan => through_plan(graph, &arguments.choices, recorded).map_err(Trouble::expected),
            _ => routes::exported(&graph, &recorded.inputs, &recorded.outputs)
                .map(one)
                .map_err(Trouble::defect),
        }
    }

    fn row(self, program: Option<&str>, output: &str, error: Difference, tolerance: f64) -> Vec<String> {
        let verdict = if error.relative <= tolerance { "ok" } else { "too far" };
        vec![
            [Some(self.name()), program]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", "),
            output.to_owned(),
            format!("{:.2e}", error.absolute),
            format!("{:.2e}", error.relative),
            verdict.to_owned(),
        ]
    }

    fn json(self, program: Option<&str>, output: &str, error: Difference) -> Value {
        json!({ "through": self.name(), "program": program, "output": output, "absolute": error.absolute, "relative": error.relative })
    }
}
