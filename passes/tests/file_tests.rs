//! Runs `tests/ir/*.fir`; `FISEC_BLESS=1` rewrites their expectations.

use std::path::Path;

use fisec_ir::text::filetest::{Executors, run_folder};
use fisec_ir::{Graph, LevelId, NodeId};
use fisec_oracle::compare;
use fisec_passes::analysis::{Levels, Places};
use fisec_passes::canonical::{CANONICAL, NamedPass};
use fisec_passes::control::{control_attention, cross_attentions, expose_maps};
use fisec_passes::sparse::{self, Sparsity};
use fisec_passes::{Changes, PassError, Roles, fuse, share_halves, widen_floats};
use fisec_plan::{CompileOptions, Halos, Samples};
use fisec_tensor::DType;
use serde_json::{Map, Value};

/// Passes that need nothing but the graph and stand outside the canonical list.
const OTHERS: &[NamedPass] = &[
    ("fuse_conv_prologue", fuse::fuse_conv_prologue),
    ("fuse_conv_epilogue", fuse::fuse_conv_epilogue),
    ("fuse_linear", fuse::fuse_linear),
    ("fold_upsample", fuse::fold_upsample),
    ("sink_views", fuse::sink_views),
    ("widen_floats", widen_floats),
];

fn run_pass(name: &str, options: &[String], graph: &mut Graph) -> Result<(), String> {
    let known = CANONICAL.iter().chain(OTHERS).find(|(known, _)| *known == name);
    match known {
        Some((_, pass)) => pass(graph).map(drop).map_err(|error| error.to_string()),
        None if name == "share_halves" => {
            let roles = Roles::of(graph).map_err(|error| error.to_string())?;
            share_halves(graph, &roles).map(drop).map_err(|error| error.to_string())
        }
        None => run_sparse(name, &compile_options(options)?, graph).map(drop),
    }
}

/// Passes that must know which levels are sparse: `options: sparse_levels=1 norm=frozen keys=full`, as in `plan.json`.
fn run_sparse(name: &str, options: &CompileOptions, graph: &mut Graph) -> Result<Changes, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let roles = Roles::of(graph).map_err(|error| text(&error))?;
    let stages = roles.stages(graph).map_err(|error| text(&error))?;
    let sample = graph.input(&roles.sample).expect("just found");
    let levels = Levels::of(graph, &graph.value_type(sample).shape);
    let mut sparsity = Sparsity {
        places: Places::of(graph, &roles, &levels).map_err(|error| text(&error))?,
        levels,
        sparse_levels: options.sparse_levels.ok_or("`options:` must give sparse_levels")?,
        rings: Default::default(),
        recorded: Default::default(),
    };
    let changes = match name {
        "freeze_norm" => sparse::freeze_norm(graph, &mut sparsity, options.norm),
        "mark_sparse" => sparse::mark_sparse(graph, &mut sparsity, &stages, options.keys),
        "spread_demand" | "narrow_demand" => sparse::spread_demand(graph, &mut sparsity),
        "update_stats" => sparse::update_stats(graph, &mut sparsity),
        "control_attention" => control(
            graph,
            &cross_attentions(graph, &stages, &sparsity.places, options.control_levels),
        ),
        _ => return Err("there is no such pass".to_owned()),
    };
    changes.map_err(|error| text(&error))
}

/// The maps of these attentions exposed, then followed.
fn control(graph: &mut Graph, attentions: &[(NodeId, LevelId)]) -> Result<Changes, PassError> {
    let mut exposed = Vec::new();
    expose_maps(graph, attentions, &mut exposed)?;
    control_attention(graph, &exposed)
}

/// `name=value` words as the options of a plan; what is not given has its default.
fn compile_options(words: &[String]) -> Result<CompileOptions, String> {
    let defaults = CompileOptions {
        keys: Default::default(),
        norm: Default::default(),
        sparse_levels: None,
        cache_dtype: DType::F16,
        control_levels: None,
        samples: Samples::Shared,
        remainder: fisec_plan::Remainder::Native,
        halos: Halos::Recorded,
    };
    let defaults = serde_json::to_value(defaults).expect("plain data");
    let Value::Object(mut fields) = defaults else {
        unreachable!("a struct")
    };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("`{word}` has no value"))?;
        set(&mut fields, name, value)?;
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
}

fn set(fields: &mut Map<String, Value>, name: &str, value: &str) -> Result<(), String> {
    let field = fields
        .get_mut(name)
        .ok_or_else(|| format!("there is no option `{name}`"))?;
    *field = value.parse::<u64>().map_or_else(|_| value.into(), Value::from);
    Ok(())
}

#[test]
fn files_meet_their_expectations() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ir");
    let executors = Executors {
        pass: &run_pass,
        oracle: Some(&compare),
    };
    let (count, failed) = run_folder(&folder, executors).unwrap_or_else(|error| panic!("{error}"));
    let failed: Vec<String> = failed
        .iter()
        .map(|(path, error)| format!("{}: {error}", path.display()))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(count >= 8, "the tests are there: {count}");
}
