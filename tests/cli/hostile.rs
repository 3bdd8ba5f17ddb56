//! Models made to take all memory, all of the disk, or for ever: they compile within bounds, or are refused with one error.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{Machine, assert_fails, stderr};
use crate::onnx::{FLOAT, Model, SAMPLE, Value};

/// Address space of a compilation, KiB: what is reserved and not used counts as well.
const MEMORY: &str = "3000000";
/// A generous guard, ten times what it takes.
const LIMIT: Duration = Duration::from_secs(120);
/// Bytes of a plan that nothing was stored for.
const SMALL_PLAN: u64 = 4 << 20;

/// Compiles under a limit of memory and time.
fn compile(machine: &Machine, model: &Model, more: &[&str]) -> Output {
    let (file, plan) = (machine.path("hostile.onnx"), machine.path("hostile.plan"));
    fs::write(&file, model.encode()).unwrap();
    let child = Command::new("sh")
        .args([
            "-c",
            "ulimit -v \"$0\" && exec \"$@\"",
            MEMORY,
            env!("CARGO_BIN_EXE_fisec"),
            "compile",
        ])
        .arg(&file)
        .args(["--size", "128", "-o"])
        .arg(&plan)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id();
    let started = Instant::now();
    let waiting = thread::spawn(move || child.wait_with_output().unwrap());
    while !waiting.is_finished() {
        if started.elapsed() > LIMIT {
            Command::new("kill").args(["-9", &id.to_string()]).status().unwrap();
            panic!("it did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    waiting.join().unwrap()
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| entry.metadata().unwrap().len()).sum()
}

/// The model compiles to a small plan: what would be large is left to ONNX Runtime.
#[track_caller]
fn stays_small(model: &Model) {
    let machine = Machine::new();
    let output = compile(&machine, model, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let bytes = folder_bytes(&machine.path("hostile.plan"));
    assert!(bytes < SMALL_PLAN, "{bytes} bytes");
}

/// The model compiles, to a plan in proportion to it, or fails with one error.
#[track_caller]
fn ends_well(model: &Model, most: u64) {
    let machine = Machine::new();
    let output = compile(&machine, model, &[]);
    match output.status.code() {
        Some(0) => assert!(folder_bytes(&machine.path("hostile.plan")) < most),
        _ => assert_fails(&output, 1, "error: "),
    }
}

/// `sample + mean(value)`: whatever the value is, the result is a prediction.
fn add_mean(model: &mut Model, value: &str) {
    model.node("ReduceMean", &[value], &["mean"], &[("keepdims", Value::Int(0))]);
    model.node("Add", &["sample", "mean"], &["result"], &[]);
    model.output("result", &SAMPLE);
}

#[test]
fn constants_of_one_value_are_not_written_out() {
    for dims in [[2048, 1 << 20], [750, 1 << 20], [1 << 16, 1 << 16]] {
        let mut filled = Model::default();
        filled.ints("dims", &[2], &dims);
        filled.node("ConstantOfShape", &["dims"], &["large"], &[]);
        add_mean(&mut filled, "large");
        stays_small(&filled);
        let mut expanded = Model::default();
        expanded.ints("dims", &[2], &dims);
        expanded.floats("one", &[1], &[1.5]);
        expanded.node("Expand", &["one", "dims"], &["large"], &[]);
        expanded.node("Transpose", &["large"], &["turned"], &[]);
        expanded.node("Add", &["turned", "one"], &["sum"], &[]);
        add_mean(&mut expanded, "sum");
        stays_small(&expanded);
    }
}

#[test]
fn parts_and_copies_of_large_constants_stay_operators() {
    let mut gathered = Model::default();
    gathered.ints("dims", &[2], &[1 << 16, 1 << 16]);
    gathered.node("ConstantOfShape", &["dims"], &["large"], &[]);
    gathered.ints("rows", &[2], &[5, -1]);
    gathered.node("Gather", &["large", "rows"], &["some"], &[("axis", Value::Int(0))]);
    add_mean(&mut gathered, "some");
    stays_small(&gathered);

    let mut doubled = Model::default();
    doubled.floats("w0", &[2], &[1.0, 2.0]);
    for index in 0..33 {
        let (of, to) = (format!("w{index}"), format!("w{}", index + 1));
        doubled.node("Concat", &[&of, &of], &[&to], &[("axis", Value::Int(0))]);
    }
    add_mean(&mut doubled, "w33");
    ends_well(&doubled, 256 << 20);

    let mut compared = Model::default();
    compared.ints("start", &[], &[0]);
    compared.ints("end", &[], &[40_000]);
    compared.ints("step", &[], &[1]);
    compared.ints("column", &[2], &[40_000, 1]);
    compared.node("Range", &["start", "end", "step"], &["range"], &[]);
    compared.node("Reshape", &["range", "column"], &["turned"], &[]);
    compared.node("Less", &["range", "turned"], &["below"], &[]);
    compared.node("Where", &["below", "range", "turned"], &["large"], &[]);
    compared.node("Cast", &["large"], &["floats"], &[("to", Value::Int(FLOAT))]);
    add_mean(&mut compared, "floats");
    ends_well(&compared, SMALL_PLAN);
}

#[test]
fn many_constants_share_one_budget() {
    let mut ranges = Model::default();
    ranges.ints("start", &[], &[0]);
    ranges.ints("end", &[], &[2_000_000]);
    ranges.ints("step", &[], &[1]);
    let mut terms = vec!["sample".to_owned()];
    for index in 0..300 {
        let [range, float, mean] = ["r", "f", "m"].map(|name| format!("{name}{index}"));
        ranges.node("Range", &["start", "end", "step"], &[&range], &[]);
        ranges.node("Cast", &[&range], &[&float], &[("to", Value::Int(FLOAT))]);
        ranges.node("ReduceMean", &[&float], &[&mean], &[("keepdims", Value::Int(0))]);
        terms.push(mean);
    }
    let terms: Vec<&str> = terms.iter().map(String::as_str).collect();
    ranges.node("Sum", &terms, &["result"], &[]);
    ranges.output("result", &SAMPLE);
    ends_well(&ranges, 256 << 20);

    // overlapping parts of one constant
    let mut slices = Model::default();
    slices.floats("w", &[100_000], &vec![0.5; 100_000]);
    slices.ints("end", &[1], &[100_000]);
    slices.ints("axis", &[1], &[0]);
    let mut terms = vec!["sample".to_owned()];
    for index in 0..2000 {
        let [start, part, mean] = ["b", "s", "m"].map(|name| format!("{name}{index}"));
        slices.ints(&start, &[1], &[index]);
        slices.node("Slice", &["w", &start, "end", "axis"], &[&part], &[]);
        slices.node("ReduceMean", &[&part], &[&mean], &[("keepdims", Value::Int(0))]);
        terms.push(mean);
    }
    let terms: Vec<&str> = terms.iter().map(String::as_str).collect();
    slices.node("Sum", &terms, &["result"], &[]);
    slices.output("result", &SAMPLE);
    ends_well(&slices, 512 << 20);
}

#[test]
fn long_chains_of_layouts_do_not_exhaust_the_stack() {
    let mut model = Model::default();
    model.floats("t0", &[80, 80], &vec![1.0; 6400]);
    model.ints("flat", &[1], &[-1]);
    model.ints("square", &[2], &[80, 80]);
    const LINKS: usize = 5000;
    for index in 0..LINKS {
        let [of, turned, flat, to] = [
            format!("t{index}"),
            format!("x{index}"),
            format!("y{index}"),
            format!("t{}", index + 1),
        ];
        model.node("Transpose", &[&of], &[&turned], &[("perm", Value::Ints(vec![1, 0]))]);
        model.node("Reshape", &[&turned, "flat"], &[&flat], &[]);
        model.node("Reshape", &[&flat, "square"], &[&to], &[]);
    }
    add_mean(&mut model, &format!("t{LINKS}"));
    ends_well(&model, 256 << 20);
}

#[test]
fn weights_that_no_file_holds_are_refused() {
    let mut model = Model::default();
    model.ints("dims", &[4], &[100_000_000, 4, 3, 3]);
    model.node("ConstantOfShape", &["dims"], &["w"], &[("value_", Value::Int(0))]);
    model.node("Conv", &["sample", "w"], &["c"], &[("pads", Value::Ints(vec![1; 4]))]);
    add_mean(&mut model, "c");
    ends_well(&model, SMALL_PLAN);
    let machine = Machine::new();
    for target in ["cpu", "cuda:sm_90a"] {
        let output = compile(&machine, &model, &["--sparse-levels", "1", "--target", target]);
        assert_fails(&output, 1, "error: ");
    }
}

#[test]
fn values_that_no_memory_holds_are_refused() {
    let mut model = Model::default();
    model.ints("dims", &[5], &[1_000_000_000, 2, 4, 16, 16]);
    model.node("Expand", &["sample", "dims"], &["large"], &[]);
    add_mean(&mut model, "large");
    let machine = Machine::new();
    assert_fails(&compile(&machine, &model, &[]), 1, "the largest value of a plan");
}

/// A model of many nodes: `wire` adds them, and gives the last value.
fn wired(wire: impl FnOnce(&mut Model) -> String) -> Model {
    let mut model = Model::default();
    let last = wire(&mut model);
    model.output(&last, &SAMPLE);
    model
}

/// Ten thousand links of a chain; each gets the name of the value that it reads, and its number.
fn chain(model: &mut Model, link: impl Fn(&mut Model, &str, &str, usize)) -> String {
    let mut last = "sample".to_owned();
    for index in 0..10_000 {
        let next = format!("v{index}");
        link(model, &last, &next, index);
        last = next;
    }
    last
}

#[test]
fn chains_of_any_operator_compile_in_time_proportional_to_their_length() {
    let relus = wired(|model| chain(model, |model, from, to, _| model.node("Relu", &[from], &[to], &[])));
    let convs = wired(|model| {
        model.floats("w", &[4, 4, 3, 3], &[0.1; 144]);
        let pads = || Value::Ints(vec![1; 4]);
        chain(model, |model, from, to, _| {
            model.node("Conv", &[from, "w"], &[to], &[("pads", pads())])
        })
    });
    let products = wired(|model| {
        model.floats("c", &[], &[1.5]);
        chain(model, |model, from, to, _| model.node("Mul", &[from, "c"], &[to], &[]))
    });
    let casts = wired(|model| {
        let to_type = |index: usize| Value::Int(if index.is_multiple_of(2) { 10 } else { FLOAT });
        chain(model, |model, from, to, index| {
            model.node("Cast", &[from], &[to], &[("to", to_type(index))])
        })
    });
    let gates = wired(|model| {
        chain(model, |model, from, to, index| {
            let gate = format!("g{index}");
            model.node("Sigmoid", &[from], &[&gate], &[]);
            model.node("Mul", &[from, &gate], &[to], &[]);
        })
    });
    for model in [relus, convs, products, casts, gates] {
        let machine = Machine::new();
        let output = compile(&machine, &model, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn wide_graphs_compile_in_time_proportional_to_their_width() {
    const WIDTH: usize = 10_000;
    let names: Vec<String> = (0..WIDTH).map(|index| format!("u{index}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let slope = |index: usize| [("alpha", Value::Float(index as f32))];
    let users = wired(|model| {
        all.iter()
            .enumerate()
            .for_each(|(index, to)| model.node("LeakyRelu", &["sample"], &[to], &slope(index)));
        model.node("Sum", &all, &["sum"], &[]);
        "sum".into()
    });
    let equal = wired(|model| {
        all.iter().for_each(|to| model.node("Relu", &["sample"], &[to], &[]));
        model.node("Sum", &all, &["sum"], &[]);
        "sum".into()
    });
    let joined = wired(|model| {
        all.iter()
            .enumerate()
            .for_each(|(index, to)| model.node("LeakyRelu", &["sample"], &[to], &slope(index)));
        model.node("Concat", &all, &["joined"], &[("axis", Value::Int(1))]);
        model.node("ReduceMean", &["joined"], &["mean"], &[("axes", Value::Ints(vec![1]))]);
        model.node("Add", &["sample", "mean"], &["sum"], &[]);
        "sum".into()
    });
    let weights = wired(|model| {
        chain(model, |model, from, to, index| {
            let weight = format!("w{index}");
            model.floats(&weight, &[4, 1, 1], &[index as f32, 1.0, 2.0, 3.0]);
            model.node("Add", &[from, &weight], &[to], &[]);
        })
    });
    let mut outputs = Model::default();
    for (index, name) in all.iter().enumerate() {
        outputs.node("LeakyRelu", &["sample"], &[name], &slope(index));
        outputs.output(name, &SAMPLE);
    }
    let machine = Machine::new();
    let refused = compile(&machine, &outputs, &[]);
    assert_fails(&refused, 1, "and 9984 more");
    assert!(refused.stderr.len() < 4096, "a message stays readable");
    let named: &[&str] = &["--prediction", "u0"];
    for (model, more) in [
        (users, &[][..]),
        (equal, &[]),
        (joined, &[]),
        (weights, &[]),
        (outputs, named),
    ] {
        let machine = Machine::new();
        let output = compile(&machine, &model, more);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}
