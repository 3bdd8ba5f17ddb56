//! Commands that are killed at random moments: every name stands for something whole, and nothing is left that is not shown.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fisec_plan::{Bundle, list_scratch};
use fisec_runtime::cache::Store;

use crate::machine::{CAT, DOG, Machine, copy_folder, json, plan, stderr};

/// Kills of each command in the ordinary tests.
const FEW: usize = 3;

/// Kills of each command in the slow ones.
const MANY: usize = 40;

/// Moments that look random: xorshift, so that a run can be repeated.
struct Moments(u64);

impl Moments {
    /// Between nothing and a little more than `whole`.
    fn next(&mut self, whole: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        whole.mul_f64((self.0 >> 11) as f64 / (1u64 << 53) as f64 * 1.05)
    }
}

/// Runs the command once to see how long it takes, then kills it at that many moments, each time with a check.
fn kill(times: usize, mut command: impl FnMut(usize) -> Command, mut check: impl FnMut(&str)) {
    let mut first = command(0);
    let started = Instant::now();
    let output = first.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let whole = started.elapsed();
    check("not killed");
    let mut moments = Moments(0x9e37_79b9_7f4a_7c15);
    let mut killed = 0;
    for number in 1..=times {
        let moment = moments.next(whole);
        let mut child = command(number)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        check(&format!("killed after {moment:?} of {whole:?}"));
    }
    println!("{killed} of {times} were killed before they ended, of {whole:?} each");
}

/// Checks a store: names are whole, and everything in it is listed. Returns the names.
fn check_store(home: &Path, when: &str) -> BTreeSet<String> {
    let store = Store::open(Some(home)).unwrap();
    let listing = store.list().unwrap();
    assert!(listing.damaged.is_empty(), "{when}: {:?}", listing.damaged);
    assert!(listing.unfinished.is_empty(), "{when}: {:?}", listing.unfinished);
    let images: BTreeSet<String> = listing.images.iter().map(|image| image.id.clone()).collect();
    for id in &images {
        store
            .get(id)
            .unwrap()
            .verify()
            .unwrap_or_else(|error| panic!("{when}: {error}"));
    }
    let leftovers = listing.leftovers.iter().map(|scratch| scratch.name.clone());
    let listed: BTreeSet<String> = images.iter().cloned().chain(leftovers).collect();
    assert_eq!(names_in(store.folder()), listed, "{when}: all of it is listed");
    images
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// The next commands leave images only, and nothing beside the pictures.
fn check_tidied(machine: &Machine, names: &BTreeSet<String>) {
    let output = machine.paint("a fish in the sea", "dog.png", &["--base", "none"]);
    let id = json(&output)["id"].as_str().unwrap().to_owned();
    let mut expected = names.clone();
    expected.insert(id);
    assert_eq!(names_in(&machine.home().join("images")), expected);
    let hidden = |name: &String| name.starts_with('.');
    assert!(!names_in(machine.path("dog.png").parent().unwrap()).iter().any(hidden));
    let pruned = json(&machine.run(&["sessions", "prune", "--keep", "0", "--json"]));
    assert_eq!(pruned["kept_bytes"], 0);
    assert_eq!(names_in(&machine.home().join("images")).len(), 0);
}

fn painting(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.command(&["run"]);
    command
        .arg(plan())
        .args(["--steps", "6", "-o"])
        .arg(machine.path("dog.png"));
    command.args(arguments);
    command
}

fn kill_first_images(times: usize) {
    let machine = Machine::new();
    let mut names = BTreeSet::new();
    let command = |number: usize| {
        // every other one is made again over itself
        let seed = (number / 2).to_string();
        painting(&machine, &["--prompt", DOG, "--base", "none", "--seed", &seed])
    };
    kill(times, command, |when| {
        let found = check_store(&machine.home(), when);
        assert!(found.is_superset(&names), "{when}: {names:?} were there, {found:?} are");
        names = found;
    });
    check_tidied(&machine, &names);
}

fn kill_edits(times: usize) {
    let machine = Machine::new();
    let base = machine.painted(DOG, "dog.png", &[])["id"].as_str().unwrap().to_owned();
    let mut names = BTreeSet::from([base.clone()]);
    let command = |number: usize| {
        let share = format!("{}%", 20 + number / 4);
        painting(
            &machine,
            &["--prompt", CAT, "--base", &base, "--sparse", "--edit-size", &share],
        )
    };
    kill(times, command, |when| {
        let found = check_store(&machine.home(), when);
        assert!(found.is_superset(&names), "{when}: {names:?} were there, {found:?} are");
        names = found;
    });
    check_tidied(&machine, &names);
}

fn kill_compilations(times: usize) {
    let machine = Machine::new();
    let target = machine.path("nano.plan");
    let command = |number: usize| {
        let levels = (1 + number % 2).to_string();
        let mut command = machine.command(&["compile", "tests/data/nano-pipeline", "--sparse-levels", &levels, "-o"]);
        command.arg(&target);
        command
    };
    let check = |when: &str| {
        let opened = Bundle::open(&target).and_then(|bundle| bundle.verify_all());
        opened.unwrap_or_else(|error| panic!("{when}: {error}"));
        let folder = target.parent().unwrap();
        let scratch = list_scratch(folder).unwrap().into_iter().map(|scratch| scratch.name);
        let hidden = names_in(folder).into_iter().filter(|name| name.starts_with('.'));
        assert_eq!(hidden.collect::<Vec<_>>(), scratch.collect::<Vec<_>>(), "{when}");
    };
    kill(times, command, check);
    // a compilation to any name in the folder removes what was left
    let other = machine.path("other.plan");
    let left = list_scratch(target.parent().unwrap()).unwrap();
    let output = machine.run(&["compile", "tests/data/nano-pipeline", "-o", other.to_str().unwrap()]);
    for scratch in &left {
        assert!(stderr(&output).contains(&scratch.name), "{}", stderr(&output));
    }
    assert_eq!(
        names_in(target.parent().unwrap()),
        BTreeSet::from(["nano.plan", "other.plan"].map(str::to_owned))
    );
}

fn kill_prunes(times: usize) {
    let machine = Machine::new();
    let template = machine.path("template");
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let made = painting(&machine, &["--prompt", DOG, "--base", "none", "--seed", seed]).output();
        assert!(made.unwrap().status.success());
    }
    copy_folder(&machine.home(), &template);
    let names = check_store(&machine.home(), "before");
    let refill = || {
        drop(fs::remove_dir_all(machine.home()));
        copy_folder(&template, &machine.home());
    };
    let command = |_| {
        refill();
        machine.command(&["sessions", "prune", "--keep", "0"])
    };
    kill(times, command, |when| {
        // an image is whole or gone
        assert!(check_store(&machine.home(), when).is_subset(&names), "{when}");
        let pruned = json(&machine.run(&["sessions", "prune", "--keep", "0", "--json"]));
        assert_eq!(pruned["kept_bytes"], 0, "{when}");
        assert_eq!(names_in(&machine.home().join("images")).len(), 0, "{when}");
    });
}

#[test]
fn kills_while_a_first_image_is_made() {
    kill_first_images(FEW);
}

#[test]
fn kills_while_an_image_is_edited() {
    kill_edits(FEW);
}

#[test]
fn kills_while_a_plan_is_compiled_again() {
    kill_compilations(FEW);
}

#[test]
fn kills_while_images_are_pruned() {
    kill_prunes(FEW);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn forty_kills_while_a_first_image_is_made() {
    kill_first_images(MANY);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn forty_kills_while_an_image_is_edited() {
    kill_edits(MANY);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn forty_kills_while_a_plan_is_compiled_again() {
    kill_compilations(MANY);
}

#[test]
#[ignore = "slow: cargo xtask nightly"]
fn forty_kills_while_images_are_pruned() {
    kill_prunes(MANY);
}

/// Kills a compilation over a plan before each of its renames, with and without a file system that can exchange names.
#[test]
#[ignore = "slow: cargo xtask nightly"]
fn a_kill_before_any_rename_leaves_a_plan() {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: strace is not installed, or may not trace");
        return;
    }
    for more in [None, Some("inject=renameat2:error=EINVAL")] {
        let machine = Machine::new();
        let target = machine.path("nano.plan");
        copy_folder(plan(), &target);
        for call in ["renameat2", "rename"] {
            let mut ended = false;
            for number in 1..6 {
                let kill = format!("inject={call}:signal=SIGKILL:when={number}");
                let mut command = Command::new("strace");
                command.args(["-f", "-o", "/dev/null", "-e", "trace=rename,renameat2"]);
                if let (Some(inject), "rename") = (more, call) {
                    command.args(["-e", inject]);
                }
                command.args([
                    "-e",
                    &kill,
                    env!("CARGO_BIN_EXE_fisec"),
                    "compile",
                    "tests/data/nano-pipeline",
                    "-o",
                ]);
                command.current_dir(env!("CARGO_MANIFEST_DIR")).arg(&target);
                ended = command.output().unwrap().status.success();
                let opened = Bundle::open(&target).and_then(|bundle| bundle.verify_all());
                opened.unwrap_or_else(|error| panic!("{call} {number} {more:?}: {error}"));
                if ended {
                    break;
                }
            }
            assert!(ended, "{call}: it ends when it is not killed");
        }
        let folder: PathBuf = target.parent().unwrap().to_owned();
        assert_eq!(names_in(&folder), BTreeSet::from(["nano.plan".to_owned()]));
    }
}
