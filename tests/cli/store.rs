//! What `sessions` and `run` say of leftovers, damaged images and evictions.

use std::fs;
use std::process::Command;

use crate::machine::{CAT, DOG, Machine, copy_folder, json, stderr, stdout};

/// What a killed recording leaves.
fn leave_behind(machine: &Machine) -> String {
    let name = ".0123456789ab.tmp-00000000000000ff";
    let folder = machine.home().join("images").join(name);
    fs::create_dir_all(folder.join("new")).unwrap();
    fs::write(folder.join("fisec.lock"), "").unwrap();
    fs::write(folder.join("new/step-000.bin"), vec![0; 500_000]).unwrap();
    name.to_owned()
}

#[test]
fn leftovers_are_listed_counted_and_pruned() {
    let machine = Machine::new();
    let name = leave_behind(&machine);
    let listed = machine.run(&["sessions"]);
    assert!(
        stdout(&listed).contains(&name) && stdout(&listed).contains("500 kB"),
        "{}",
        stdout(&listed)
    );
    assert!(
        stderr(&listed).contains("`fisec sessions prune --keep SIZE`"),
        "{}",
        stderr(&listed)
    );
    let listed = json(&machine.run(&["sessions", "--json"]));
    assert_eq!(
        (&listed["leftovers"][0]["id"], &listed["bytes"]),
        (&name.as_str().into(), &500_000.into())
    );
    let pruned = machine.run(&["sessions", "prune", "--keep", "0"]);
    assert!(
        stderr(&pruned).contains("removed 1 leftover of killed commands (500 kB); 0 B are left"),
        "{}",
        stderr(&pruned)
    );
    leave_behind(&machine);
    assert!(machine.run(&["sessions", "remove", &name]).status.success());
    leave_behind(&machine);
    let made = machine.paint(DOG, "dog.png", &[]);
    assert!(stderr(&made).contains(&name), "{}", stderr(&made));
    assert_eq!(fs::read_dir(machine.home().join("images")).unwrap().count(), 1);
}

#[test]
fn damaged_images_go_first_and_the_rest_is_said() {
    let machine = Machine::new();
    let ids: Vec<String> = ["1", "2", "3", "4"]
        .map(|seed| {
            let made = machine.painted(DOG, "dog.png", &["--seed", seed, "--base", "none"]);
            made["id"].as_str().unwrap().to_owned()
        })
        .to_vec();
    let images = machine.home().join("images");
    for id in &ids[2..] {
        fs::write(images.join(id).join("manifest.json"), "{}").unwrap();
    }
    copy_folder(&images.join(&ids[0]), &images.join("a copy-1"));
    let made = machine.paint(
        DOG,
        "dog.png",
        &["--seed", "5", "--base", "none", "--cache-limit", "4500000"],
    );
    let text = stderr(&made);
    json(&made);
    assert!(text.contains("removed 2 damaged images, "), "{text}");
    assert!(text.contains("to stay below 4.50 MB: "), "{text}");
    for (id, goes) in [(&ids[0], false), (&ids[1], false), (&ids[2], true), (&ids[3], true)] {
        assert_eq!(
            (text.contains(id.as_str()), images.join(id).exists()),
            (goes, !goes),
            "{text}"
        );
    }
    assert!(text.contains("a copy-1"), "{text}");
    let made = machine.paint(
        DOG,
        "dog.png",
        &["--seed", "6", "--base", "none", "--cache-limit", "3M"],
    );
    assert!(stderr(&made).contains("removed 2 images, "), "{}", stderr(&made));
    fs::write(
        images.join(json(&made)["id"].as_str().unwrap()).join("manifest.json"),
        "",
    )
    .unwrap();
    let pruned = machine.run(&["sessions", "prune", "--keep", "0"]);
    assert!(
        stderr(&pruned).contains("removed 1 image, 1 damaged image ("),
        "{}",
        stderr(&pruned)
    );
    assert_eq!(fs::read_dir(images).unwrap().count(), 0);
}

#[test]
fn ancestors_of_the_image_that_is_edited_stay_while_others_can_go() {
    let machine = Machine::new();
    let id = |made: &serde_json::Value| made["id"].as_str().unwrap().to_owned();
    let first = id(&machine.painted(DOG, "0.png", &[]));
    let flags = ["--sparse", "--edit-size", "20%", "--base"];
    let second = id(&machine.painted(CAT, "1.png", &[&flags[..], &[&first]].concat()));
    let other = id(&machine.painted(DOG, "2.png", &["--seed", "9"]));
    let third = machine.paint(
        "a cat on the left in snow",
        "3.png",
        &[&flags[..], &[&second, "--cache-limit", "4500000"]].concat(),
    );
    let third = (stderr(&third), id(&json(&third)));
    assert!(third.0.contains(&other), "{}", third.0);
    let images = json(&machine.run(&["sessions", "--json"]));
    let left: Vec<String> = images["images"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(left, [first, second, third.1]);
}

#[test]
fn what_stood_aside_when_a_compilation_was_killed_is_put_back() {
    let machine = Machine::new();
    let plan = machine.copied_plan();
    let aside = machine.path(".copy.plan.tmp-00000000000000ff");
    fs::create_dir_all(aside.join("old")).unwrap();
    fs::write(aside.join("fisec.lock"), "").unwrap();
    fs::rename(&plan, aside.join("old/copy.plan")).unwrap();
    let explained = Command::new(env!("CARGO_BIN_EXE_fisec"))
        .args(["explain", "copy.plan"])
        .current_dir(plan.parent().unwrap())
        .output()
        .unwrap();
    assert!(explained.status.success(), "{}", stderr(&explained));
}

#[cfg(unix)]
#[test]
fn a_plan_is_written_where_a_link_leads() {
    let machine = Machine::new();
    let plan = machine.copied_plan();
    let link = machine.path("link.plan");
    std::os::unix::fs::symlink(&plan, &link).unwrap();
    let compiled = machine.run(&["compile", "tests/data/nano-pipeline", "-o", link.to_str().unwrap()]);
    assert!(compiled.status.success(), "{}", stderr(&compiled));
    assert!(link.is_symlink() && plan.join("plan.json").is_file());
}
