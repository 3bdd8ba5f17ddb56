//! `explain`, `bench`, `dump`, `diff`, `verify`.

use std::fs;

use crate::machine::{Machine, assert_fails, json, plan, stdout};

fn run(arguments: &[&str]) -> std::process::Output {
    let plan = plan().to_str().unwrap();
    let mut all = vec![arguments[0], plan];
    all.extend(&arguments[1..]);
    Machine::new().run(&all)
}

#[test]
fn explain_adds_up() {
    let explained = json(&run(&["explain", "--edit-size", "10%", "--json"]));
    let layers = explained["layers"].as_array().unwrap();
    let sum = |field: &str| -> u64 {
        let steps = layers.iter().filter(|layer| layer["stage"] == "step");
        steps.map(|layer| layer[field].as_u64().unwrap()).sum()
    };
    assert_eq!(explained["macs"].as_u64(), Some(sum("macs")));
    assert_eq!(explained["macs_dense"].as_u64(), Some(sum("macs_dense")));
    assert!(explained["macs"].as_u64() < explained["macs_dense"].as_u64());
    let sparse = layers.iter().find(|layer| layer["tile"].is_string()).unwrap();
    let name = sparse["name"].as_str().unwrap();
    let one = json(&run(&["explain", name, "--edit-size", "10%", "--json"]));
    let candidates = one["candidates"].as_array().unwrap();
    let cost = |candidate: &&serde_json::Value| candidate["predicted_ns"].as_f64().unwrap();
    let chosen = candidates.iter().find(|candidate| candidate["chosen"] == true).unwrap();
    let cheapest = candidates.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap();
    assert_eq!(chosen["tile"], cheapest["tile"], "the cheapest tile is chosen");
    assert!(stdout(&run(&["explain", name])).contains("paper's f(h,w)"));
}

#[test]
fn explain_names_layers_that_do_not_exist() {
    assert_fails(&run(&["explain", "no-such-layer"]), 1, "no layer `no-such-layer`");
}

#[test]
fn bench_times_every_kind_of_step() {
    let measured = json(&run(&[
        "bench",
        "--edit-size",
        "10%",
        "--runs",
        "2",
        "--per-node",
        "--json",
    ]));
    let steps = measured["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["record", "dense", "guide", "edit 10.0 %"]);
    assert!(steps.iter().all(|step| step["median_seconds"].as_f64() > Some(0.0)));
    assert!(steps[3]["binding_seconds"].as_f64() > Some(0.0));
    assert!(!steps[3]["nodes"].as_array().unwrap().is_empty());
    assert_eq!(steps[1]["of_dense"].as_f64(), Some(1.0));
}

#[test]
fn slots_of_a_cpu_plan_have_one_place() {
    assert_fails(&run(&["bench", "--tiers"]), 1, "only plans for a GPU");
}

const NANO: &str = "tests/data/nano-pipeline";

#[test]
fn dumps_have_every_format() {
    let text = stdout(&run(&["dump"]));
    assert!(text.starts_with("graph edit\n") && text.contains(" = conv "), "{text}");
    let calls = stdout(&run(&["dump", "--format", "calls"]));
    let last = calls.trim_end().lines().last().unwrap_or_default();
    assert!(
        calls.contains(" tiles=") && last.starts_with("output prediction = %"),
        "{calls}"
    );
    let json: serde_json::Value = serde_json::from_str(&stdout(&run(&["dump", "--format", "json"]))).unwrap();
    assert_eq!(json["format"], "fisec-graph");
    assert!(stdout(&run(&["dump", "--format", "dot"])).starts_with("digraph"));
    assert!(stdout(&run(&["dump", "--format", "svg", "--program", "guide"])).contains("<svg"));
    assert!(stdout(&run(&["dump", "--format", "html"])).contains("<html"));
    assert_fails(&run(&["dump", "--program", "paint"]), 1, "no program `paint`");
}

#[test]
fn a_dumped_graph_is_read_again() {
    let machine = Machine::new();
    let path = machine.path("model.fir");
    let path = path.to_str().unwrap();
    let first = machine.run(&["dump", NANO, "-o", path]);
    assert!(first.status.success() && first.stdout.is_empty());
    assert_eq!(
        stdout(&machine.run(&["dump", path])),
        stdout(&machine.run(&["dump", NANO]))
    );
    fs::write(path, "graph broken\n%0 = polish %1\n").unwrap();
    assert_fails(&machine.run(&["dump", path]), 1, "model.fir:2:");
}

#[test]
fn one_node_is_shown_with_its_neighbours() {
    let text = stdout(&Machine::new().run(&["dump", NANO, "--node", "/unet/conv_in/Conv"]));
    let marked: Vec<&str> = text.lines().filter(|line| line.starts_with('→')).collect();
    assert!(marked.len() == 1 && marked[0].contains("@conv_in.weight"), "{text}");
    assert!(text.lines().count() > 2 && text.contains("input \"sample\""), "{text}");
    assert_fails(
        &Machine::new().run(&["dump", NANO, "--node", "no-such-node"]),
        1,
        "no-such-node",
    );
}

/// Cut anywhere or with one byte changed, IR text is an error with a line, or a graph.
#[test]
fn damaged_text_is_refused_with_its_line() {
    let machine = Machine::new();
    let path = machine.path("damaged.fir");
    let whole = fs::read_to_string("tests/ir/spread_demand.fir").unwrap();
    let graph = &whole[whole.find("graph ").unwrap()..whole.find("expect:").unwrap()];
    let mut refused = 0;
    for at in (7..graph.len()).step_by(graph.len() / 24) {
        let mut flipped = graph.as_bytes().to_vec();
        flipped[at] ^= 1 << (at % 7);
        for damaged in [&graph.as_bytes()[..at], &flipped] {
            fs::write(&path, damaged).unwrap();
            let output = machine.run(&["dump", path.to_str().unwrap()]);
            if !output.status.success() {
                assert_fails(&output, 1, "damaged.fir:");
                refused += 1;
            }
        }
    }
    assert!(refused > 24, "only {refused} were noticed");
}

#[test]
fn an_exported_dump_computes_the_same() {
    let machine = Machine::new();
    let route = "tests/data/onnx/ts17_static";
    let exported = machine.path("again.onnx");
    let exported = exported.to_str().unwrap();
    let model = machine.unpacked(&format!("{route}/model.onnx.gz"));
    let dumped = machine.run(&["dump", &model, "--format", "onnx", "--size", "128", "-o", exported]);
    assert!(dumped.status.success(), "{}", crate::machine::stderr(&dumped));
    let io = format!("{route}/io.npz");
    let results = json(&machine.run(&["verify", exported, "--io", &io, "--through", "ort", "--json"]));
    assert!(results["results"][0]["relative"].as_f64() < Some(1e-4), "{results}");
}

#[test]
fn a_diff_says_which_pass_rewrote_what() {
    let output = run(&["diff"]);
    let text = stdout(&output);
    assert!(
        text.contains("- group_norm %") && text.contains("+ cache.read s"),
        "{text}"
    );
    assert!(text.contains("  mark_sparse: level a0 is sparse"), "{text}");
    let rewrites = json(&run(&["diff", "--json"]));
    assert!(!rewrites.as_array().unwrap().is_empty());
    let same = run(&["diff", "--from", "edit"]);
    assert!(same.stdout.is_empty() && crate::machine::stderr(&same).contains("no difference"));
}

#[test]
fn every_stage_of_the_compiler_gives_the_recorded_outputs() {
    let machine = Machine::new();
    let route = "tests/data/onnx/ts17_static";
    let (model, io) = (
        machine.unpacked(&format!("{route}/model.onnx.gz")),
        format!("{route}/io.npz"),
    );
    let verified = json(&machine.run(&["verify", &model, "--io", &io, "--tol", "1e-4", "--json"]));
    let stages: Vec<&str> = verified["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["through"].as_str().unwrap())
        .collect();
    // a plan's dense program and its sparse one
    assert_eq!(stages, ["ort", "import", "raised", "plan", "plan", "oracle"]);
    let strict = machine.run(&["verify", &model, "--io", &io, "--tol", "1e-12", "--through", "oracle"]);
    assert_fails(&strict, 1, "more than 1e-12");
    assert_fails(&machine.run(&["verify", &model, "--io", "README.md"]), 1, "README.md");
}

#[test]
fn a_cost_table_of_another_machine_is_used_or_refused() {
    let machine = Machine::new();
    let target = machine.path("p.plan");
    let compile = |table: &str| {
        let target = target.to_str().unwrap();
        machine.run(&["compile", NANO, "--costs", table, "-o", target])
    };
    assert!(compile("passes/cost/cpu.json").status.success());
    assert_fails(&compile("README.md"), 1, "malformed cost table");
}
