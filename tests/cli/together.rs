//! Commands that run at once: all of them succeed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use fisec_plan::{Bundle, bytes_on_disk};
use fisec_runtime::cache::Store;
use serde_json::Value;

use crate::machine::{CAT, DOG, Machine, copy_folder, plan, stderr};

/// Rounds in the ordinary tests.
const FEW: usize = 2;

/// Rounds in the slow ones.
const MANY: usize = 20;

/// Starts all commands, then waits for them. All succeed, and every image is remembered.
fn together(commands: Vec<Command>, what: &str) -> Vec<Output> {
    let start = |mut command: Command| -> Child {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<Child> = commands.into_iter().map(start).collect();
    let outputs: Vec<Output> = children
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    for output in &outputs {
        assert!(output.status.success(), "{what}: {}", stderr(output));
        for failed in ["not remembered", "in use", "No such file"] {
            assert!(!stderr(output).contains(failed), "{what}: {}", stderr(output));
        }
    }
    outputs
}

fn painting(machine: &Machine, program: &[&str], name: &str, arguments: &[&str]) -> Command {
    let mut command = machine.command(&[]);
    if let [wrapper, wrapped @ ..] = program {
        let home = machine.home();
        command = Command::new(wrapper);
        command
            .args(wrapped)
            .arg(env!("CARGO_BIN_EXE_fisec"))
            .env("FISEC_HOME", home);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("FISEC_CACHE_LIMIT");
    }
    command.arg("run").arg(plan()).args(["--steps", "6", "--json", "-o"]);
    command.arg(machine.path(name)).args(arguments);
    command
}

/// Every image is whole, and nothing else is there. Returns how many.
fn check_store(home: &Path, what: &str) -> usize {
    let store = Store::open(Some(home)).unwrap();
    let listing = store.list().unwrap();
    for image in &listing.images {
        store
            .get(&image.id)
            .unwrap()
            .verify()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let names = fs::read_dir(store.folder()).unwrap().count();
    assert_eq!(names, listing.images.len(), "{what}: {listing:?}");
    listing.images.len()
}

fn prunes(rounds: usize) {
    let machine = Machine::new();
    let template = machine.path("template");
    for seed in ["1", "2", "3", "4"] {
        let arguments = ["--prompt", DOG, "--base", "none", "--seed", seed];
        assert!(
            painting(&machine, &[], "dog.png", &arguments)
                .output()
                .unwrap()
                .status
                .success()
        );
    }
    copy_folder(&machine.home(), &template);
    for round in 0..rounds {
        fs::remove_dir_all(machine.home()).unwrap();
        copy_folder(&template, &machine.home());
        let prune = |_| machine.command(&["sessions", "prune", "--keep", "0", "--json"]);
        let outputs = together((0..4).map(prune).collect(), &format!("round {round}"));
        let removed = outputs.iter().map(|output| {
            let pruned: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(pruned["kept_bytes"], 0);
            pruned["removed"].as_array().unwrap().len()
        });
        assert_eq!(removed.sum::<usize>(), 4);
        assert_eq!(check_store(&machine.home(), "pruned"), 0);
    }
}

fn runs_under_a_small_limit(rounds: usize) {
    const LIMIT: u64 = 3_000_000;
    let machine = Machine::new();
    for round in 0..rounds {
        let run = |number: usize| {
            let seed = (4 * round + number).to_string();
            let arguments = [
                "--prompt",
                DOG,
                "--base",
                "none",
                "--seed",
                &seed,
                "--cache-limit",
                "3M",
            ];
            painting(&machine, &[], &format!("{number}.png"), &arguments)
        };
        together((0..4).map(run).collect(), &format!("round {round}"));
        assert!(check_store(&machine.home(), "run") > 0);
        let bytes = bytes_on_disk(&machine.home());
        assert!(bytes <= LIMIT, "round {round}: {bytes}");
    }
}

fn chains(rounds: usize) {
    for round in 0..rounds {
        let machine = Machine::new();
        let chain = |number: usize| {
            let snow = "a cat on the left in snow";
            let arguments = [
                "--prompt",
                DOG,
                "--then",
                CAT,
                "--then",
                snow,
                "--edit-size",
                "20%",
                "--sparse",
            ];
            painting(&machine, &[], &format!("{number}.png"), &arguments)
        };
        let outputs = together((0..2).map(chain).collect(), &format!("round {round}"));
        for output in outputs {
            let made: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(made.as_array().unwrap().len(), 3);
            assert!(
                made.as_array().unwrap().iter().all(|image| image["id"].is_string()),
                "{made}"
            );
        }
        check_store(&machine.home(), "chained");
    }
}

fn equal_process_ids(rounds: usize) {
    let namespace = ["unshare", "--pid", "--fork", "--mount-proc"];
    let probe = Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine permits no new namespace of process ids (`unshare --pid`)");
        return;
    }
    for round in 0..rounds {
        let machine = Machine::new();
        let run = |number: usize| {
            let arguments = ["--prompt", DOG, "--base", "none"];
            painting(&machine, &namespace, &format!("{number}.png"), &arguments)
        };
        together((0..2).map(run).collect(), &format!("runs, round {round}"));
        assert_eq!(check_store(&machine.home(), "run"), 1);
        assert_eq!(machine.pixels("0.png"), machine.pixels("1.png"));
        let target = machine.path("nano.plan");
        let compile = |_| {
            let mut command = Command::new(namespace[0]);
            command.args(&namespace[1..]).arg(env!("CARGO_BIN_EXE_fisec"));
            command.current_dir(env!("CARGO_MANIFEST_DIR"));
            command.args(["compile", "tests/data/nano-pipeline", "-o"]).arg(&target);
            command
        };
        together((0..2).map(compile).collect(), &format!("compilations, round {round}"));
        Bundle::open(&target).unwrap().verify_all().unwrap();
        let hidden = fs::read_dir(target.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert!(!hidden.into_iter().any(|name| name.to_string_lossy().starts_with('.')));
    }
}

#[test]
fn four_prunes() {
    prunes(FEW);
}

#[test]
fn four_runs_under_a_small_limit() {
    runs_under_a_small_limit(FEW);
}

#[test]
fn a_chain_twice() {
    chains(FEW);
}

#[test]
fn two_processes_of_one_process_id() {
    equal_process_ids(FEW);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn four_prunes_in_twenty_rounds() {
    prunes(MANY);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn four_runs_under_a_small_limit_in_twenty_rounds() {
    runs_under_a_small_limit(MANY);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn a_chain_twice_in_twenty_rounds() {
    chains(MANY);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn two_processes_of_one_process_id_in_twenty_rounds() {
    equal_process_ids(MANY);
}
