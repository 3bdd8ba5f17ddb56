//! Stable Diffusion 2's U-Net at its real size, as two exporters write it, without its weights.

#[path = "../../tests/support/npz.rs"]
mod npz;
#[path = "../../tests/support/routes.rs"]
mod routes;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::copy;
use std::ops::ControlFlow;

use fisec_ir::{Activation, Graph, NodeId, Op, Operand, Stage};
use fisec_onnx::Bindings;
use fisec_passes::analysis::{Levels, REFERENCE_SHARES, dense_macs, representative_mask, sparse_macs};
use fisec_passes::cost::{CostTable, pooled_masks};
use fisec_passes::{Module, Pipeline};
use fisec_plan::{CompileOptions, Halos, Keys, Norm, Samples};
use fisec_tensor::DType;
use flate2::read::GzDecoder;
use routes::{data, raised};
use tempfile::tempdir;

const MODELS: [&str; 2] = ["torchscript", "dynamo"];
/// A hole of this size stands for the weights, see `tools/export/skeleton.py`.
const WEIGHTS: u64 = 4 << 30;
const LATENTS: usize = 96;
/// Levels, finest first, and what belongs to none.
const COLUMNS: usize = 5;

/// The graph at 768×768 pixels, guidance batch, raised.
fn full_size(name: &str) -> Graph {
    let folder = tempdir().expect("a folder");
    let packed = File::open(data().join("sd2").join(format!("{name}.onnx.gz"))).expect("the model");
    let model = folder.path().join("model.onnx");
    copy(&mut GzDecoder::new(packed), &mut File::create(&model).expect("a file")).expect("unpacks");
    let weights = File::create(folder.path().join("weights")).expect("a file");
    weights.set_len(WEIGHTS).expect("a hole");
    let graph = raised(&model, &Bindings::unet(2, LATENTS, LATENTS, 77));
    fs::remove_file(model).expect("no longer needed");
    graph
}

fn count(graph: &Graph, kind: impl Fn(&Op) -> bool) -> usize {
    graph.ids().into_iter().filter(|&id| kind(graph.op(id))).count()
}

#[test]
fn the_structure_is_that_of_stable_diffusion() {
    for name in MODELS {
        let graph = full_size(name);
        let expected = [
            ("conv", 66),
            ("group_norm", 61),
            ("layer_norm", 48),
            ("attention", 32),
            ("geglu", 16),
            ("upsample", 3),
            ("concat", 12),
            ("linear", 216),
            ("onnx", 0),
        ];
        for (kind, wanted) in expected {
            assert_eq!(count(&graph, |op| op.name() == kind), wanted, "{name}: {kind}");
        }
        let silu = |op: &Op| matches!(op, Op::GroupNorm(norm) if norm.activation == Activation::Silu);
        let transformer = |op: &Op| matches!(op, Op::GroupNorm(norm) if norm.epsilon == 1e-6);
        assert_eq!((count(&graph, silu), count(&graph, transformer)), (45, 16), "{name}");
    }
}

/// Multiply-accumulates in units of 0.1 G by kind of work; columns are the levels 96, 48, 24, 12 and the rest.
const WORK: [(&str, [u64; COLUMNS]); 9] = [
    ("conv 3x3", [3062, 2888, 2208, 722, 0]),
    ("conv 1x1", [132, 132, 113, 28, 0]),
    ("conv stride 2", [0, 42, 42, 42, 0]),
    ("self-attention products", [5436, 679, 85, 1, 0]),
    ("cross-attention products", [45, 23, 11, 1, 0]),
    ("feed-forward", [1132, 1132, 1132, 57, 0]),
    ("projections and self-attention", [566, 566, 566, 28, 0]),
    ("cross-attention queries and outputs", [189, 189, 189, 9, 0]),
    ("text and time", [0, 0, 0, 0, 40]),
];

#[test]
fn work_at_768_pixels_is_2149_giga() {
    for name in MODELS {
        let graph = full_size(name);
        let sample = graph.input("sample").expect("latents");
        let levels = Levels::of(&graph, &graph.value_type(sample).shape);
        let mut found: BTreeMap<&str, [u64; COLUMNS]> = BTreeMap::new();
        let mut total = 0;
        for id in graph.ids() {
            let macs = dense_macs(&graph, id);
            let level = levels.fitting(&graph.node(id).outputs().first().cloned().unwrap_or_else(no_type));
            let column = level.map_or(COLUMNS - 1, |level| level.0 as usize);
            total += macs;
            if let Some(kind) = kind(&graph, id) {
                found.entry(kind).or_default()[column] += macs;
            }
        }
        for (kind, expected) in WORK {
            let rounded = found[kind].map(|macs| (macs + 50_000_000) / 100_000_000);
            for (column, (&found, &expected)) in rounded.iter().zip(&expected).enumerate() {
                // the table is rounded, and sums of rounded rows are off by one
                assert!(
                    found.abs_diff(expected) <= 1,
                    "{name}: {kind}, column {column}: {found}"
                );
            }
        }
        assert_eq!(
            found.values().flatten().sum::<u64>(),
            total,
            "{name}: every kind is listed"
        );
        assert_eq!((total + 50_000_000) / 100_000_000, 21_491, "{name}: {total}");
    }
}

/// Bytes that a step records in units of 1 MB, maps in f16, no maps of attention.
const CACHE: u64 = 397;

/// Work of an edit in units of 1 G under two discs of 5, 15 and 30 %, every level sparse, doubled maps by parity, one latent,
/// halos computed where that is cheap.
const EDITS: [u64; 3] = [121, 332, 643];

/// The programs with every level sparse.
fn compiled(graph: Graph, levels: &Levels) -> Module {
    let options = CompileOptions {
        keys: Keys::Full,
        norm: Norm::Frozen,
        sparse_levels: Some(levels.sizes().len()),
        cache_dtype: DType::F16,
        control_levels: Some(0),
        samples: Samples::Shared,
        remainder: fisec_plan::Remainder::Native,
        halos: Halos::Computed,
    };
    let table = CostTable::shipped("cpu").expect("shipped");
    let mut listener = |_: usize, _: &str, _: &Graph| ControlFlow::Continue(());
    let module = Module::build(graph, &options, &table, &mut Pipeline::new(&mut listener));
    module.expect("compiles").expect("not stopped")
}

#[test]
fn edits_at_768_pixels_are_predicted() {
    let graph = full_size(MODELS[0]);
    let sample = graph.input("sample").expect("latents");
    let levels = Levels::of(&graph, &graph.value_type(sample).shape);
    let module = compiled(graph, &levels);
    let edit = module.edit.expect("every level is sparse");
    let stages = module.roles.stages(&edit).expect("acyclic");
    let predicted = REFERENCE_SHARES.map(|share| {
        let masks = pooled_masks(representative_mask(LATENTS, LATENTS, share), &levels);
        let steps = edit.ids().into_iter().filter(|&id| stages.get(id) == Stage::Step);
        let macs: u64 = steps.map(|id| sparse_macs(&edit, id, &masks)).sum();
        (macs + 500_000_000) / 1_000_000_000
    });
    assert_eq!(predicted, EDITS);
    let bytes = module.record.slots().iter().map(|slot| {
        let width = if slot.level.is_some() { DType::F16 } else { DType::F32 };
        (slot.value_type.shape.elements() * width.size()) as u64
    });
    assert_eq!((bytes.sum::<u64>() + 500_000) / 1_000_000, CACHE);
}

fn no_type() -> fisec_ir::ValueType {
    fisec_ir::ValueType::full(DType::F32, Vec::new())
}

/// What a node's work belongs to.
fn kind(graph: &Graph, id: NodeId) -> Option<&'static str> {
    match graph.op(id) {
        Op::Conv(conv) if conv.stride == [2, 2] => Some("conv stride 2"),
        Op::Conv(conv) if conv.kernel == [1, 1] => Some("conv 1x1"),
        Op::Conv(_) => Some("conv 3x3"),
        Op::Attention { .. } => Some(match is_cross(graph, id) {
            true => "cross-attention products",
            false => "self-attention products",
        }),
        Op::Linear(_) => Some(linear_kind(graph, id)),
        _ => None,
    }
}

fn is_cross(graph: &Graph, id: NodeId) -> bool {
    let tokens = |position: usize| {
        graph
            .operand_type(graph.operands(id)[position])
            .map(|value| value.shape[1])
    };
    tokens(0) != tokens(1)
}

fn linear_kind(graph: &Graph, id: NodeId) -> &'static str {
    let (input, output) = (graph.operands(id)[0], &graph.node(id).outputs()[0]);
    let rows = &graph.operand_type(input).expect("rows").shape;
    if rows.len() < 3 || rows[1] == 77 {
        return "text and time";
    }
    if rows[2] != output.shape[2] {
        return "feed-forward";
    }
    let value = fisec_ir::ValueId { node: id, output: 0 };
    let users = graph.users(value);
    let queries = users
        .iter()
        .any(|&(user, at)| at == 0 && attends(graph, user) && is_cross(graph, user));
    let source = match input {
        Operand::Value(value) => Some(value.node),
        _ => None,
    };
    let outputs = source.is_some_and(|source| attends(graph, source) && is_cross(graph, source));
    match queries || outputs {
        true => "cross-attention queries and outputs",
        false => "projections and self-attention",
    }
}

fn attends(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.op(id), Op::Attention { .. })
}
