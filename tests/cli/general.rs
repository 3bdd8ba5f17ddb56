//! What all commands have in common; doctor and sessions.

use std::fs;

use crate::machine::{CAT, DOG, Machine, assert_fails, json, stderr, stdout};

#[test]
fn help_and_version_go_to_stdout() {
    let machine = Machine::new();
    for arguments in [&["--help"][..], &["--version"], &["sessions", "--help"]] {
        let output = machine.run(arguments);
        assert!(output.status.success());
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
    assert_eq!(machine.run(&[]).status.code(), Some(2));
}

#[test]
fn mistakes_in_arguments_exit_with_2() {
    let machine = Machine::new();
    assert_fails(&machine.run(&["paint"]), 2, "paint");
    assert_fails(&machine.run(&["sessions", "prune", "--keep", "much"]), 2, "500M");
    assert_fails(&machine.run(&["sessions", "--colour"]), 2, "--colour");
    assert_fails(&machine.run(&["compile", "x", "--size", "big"]), 2, "768x512");
}

#[test]
fn an_empty_store_is_listed_as_such() {
    let machine = Machine::new();
    let output = machine.run(&["sessions"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(stderr(&output).contains("no image is remembered yet"));
    let listing = json(&machine.run(&["sessions", "--json"]));
    assert_eq!(listing["images"].as_array().unwrap().len(), 0);
}

#[test]
fn unknown_images_are_named() {
    let machine = Machine::new();
    assert_fails(
        &machine.run(&["sessions", "show", "abc"]),
        1,
        "no remembered image `abc`",
    );
    assert_fails(
        &machine.run(&["sessions", "remove", "../x"]),
        1,
        "no remembered image `../x`",
    );
}

#[test]
fn images_are_listed_shown_checked_and_removed() {
    let machine = Machine::new();
    let base = machine.painted(DOG, "dog.png", &[]);
    let edit = machine.painted(CAT, "cat.png", &[]);
    let listing = stdout(&machine.run(&["sessions"]));
    let [base, edit] = [base, edit].map(|image| image["id"].as_str().unwrap().to_owned());
    assert!(
        listing.contains(&base) && listing.contains(&format!("└ {edit}")),
        "{listing}"
    );
    let shown = json(&machine.run(&["sessions", "show", &edit[..6], "--check", "--json"]));
    assert_eq!(shown["parent"].as_str(), Some(base.as_str()));
    assert!(machine.run(&["sessions", "remove", &edit]).status.success());
    let pruned = json(&machine.run(&["sessions", "prune", "--keep", "0", "--json"]));
    assert_eq!(pruned["removed"][0].as_str(), Some(base.as_str()));
    assert_eq!(fs::read_dir(machine.home().join("images")).unwrap().count(), 0);
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let machine = Machine::new();
    fs::write(machine.home(), "a file").unwrap();
    let output = machine.run(&["sessions"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
}

#[test]
fn doctor_reports_a_missing_onnx_runtime_with_a_hint() {
    let machine = Machine::new();
    let missing = machine.path("nowhere.so");
    let output = machine
        .command(&["doctor"])
        .env("ORT_DYLIB_PATH", &missing)
        .output()
        .unwrap();
    assert_fails(&output, 1, "run `cargo xtask setup`");
    assert!(
        stdout(&output).contains("processor"),
        "the rest is reported all the same"
    );
}

#[test]
fn doctor_checks_a_plan() {
    let machine = Machine::new();
    let plan = machine.copied_plan();
    let checked = json(&machine.run(&["doctor", "--json", plan.to_str().unwrap()]));
    assert_eq!(checked["plan"]["intact"].as_bool(), Some(true));
    fs::remove_file(plan.join("plan.json")).unwrap();
    assert_fails(&machine.run(&["doctor", plan.to_str().unwrap()]), 1, "is not a plan");
}
