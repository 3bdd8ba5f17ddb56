//! Ways to edit: chains, regions, control, other methods, pictures from elsewhere.

use std::fs;

use serde_json::Value;

use crate::machine::{CAT, DOG, Machine, assert_fails, json, stderr, stdout};

/// Pixels of which any byte differs, outside and inside the region of a remembered edit.
fn changed(machine: &Machine, before: &str, after: &str, inside: impl Fn(usize, usize) -> bool) -> (usize, usize) {
    let (before, after) = (machine.pixels(before), machine.pixels(after));
    let differs = |pixel: &usize| (0..3).any(|channel| before[pixel * 3 + channel] != after[pixel * 3 + channel]);
    let (inside, outside): (Vec<usize>, Vec<usize>) = (0..128 * 128)
        .filter(differs)
        .partition(|pixel| inside(pixel / 128, pixel % 128));
    (inside.len(), outside.len())
}

fn id(image: &Value) -> String {
    image["id"].as_str().expect("it is remembered").to_owned()
}

#[test]
fn five_edits_in_a_row_leave_the_rest_alone() {
    let machine = Machine::new();
    let mut last = machine.painted(DOG, "0.png", &[]);
    let prompts = [
        CAT,
        "a cat on the left in snow",
        "a cat on the left in snow with fireworks",
        "a fox on the left in snow with fireworks",
        "a fox on the left in snow with a rainbow",
    ];
    let mask = machine.mask("mask.png", 128, 128, |row, column| {
        (32..80).contains(&row) && column < 48
    });
    for (index, prompt) in prompts.into_iter().enumerate() {
        let (before, after) = (format!("{index}.png"), format!("{}.png", index + 1));
        let edit = machine.painted(prompt, &after, &["--mask", &mask, "--sparse", "--base", &id(&last)]);
        assert_eq!((&edit["base"], &edit["outcome"]), (&last["id"], &"sparse".into()));
        let (inside, outside) = changed(&machine, &before, &after, |row, column| {
            (32..80).contains(&row) && column < 48
        });
        assert!(
            inside > 0 && outside == 0,
            "{after}: {inside} inside, {outside} outside"
        );
        last = edit;
    }
    let tree = stdout(&machine.run(&["sessions"]));
    assert!(
        tree.lines().any(|line| line.contains("        └ ")),
        "five deep: {tree}"
    );
    let undone = json(&machine.run(&["sessions", "undo", "--json"]));
    assert_eq!((&undone["removed"][0], &undone["parent"]), (&last["id"], &last["base"]));
    let branch = machine.painted(
        "a fox on the left in snow with many fireworks",
        "branch.png",
        &["--mask", "last", "--sparse"],
    );
    assert_eq!(branch["base"], last["base"], "what was undone is forgotten");
    assert_fails(&machine.paint(DOG, "x.png", &["--base", "zz"]), 1, "zz");
}

#[test]
fn dense_edits_chain_when_asked_to() {
    let machine = Machine::new();
    let base = id(&machine.painted(DOG, "dog.png", &[]));
    let mask = machine.mask("mask.png", 128, 128, |row, column| row < 64 && column < 64);
    let flags = ["--mask", &mask, "--dense", "--base", &base];
    assert_eq!(machine.painted(CAT, "cat.png", &flags)["id"], Value::Null);
    let dense = machine.painted(CAT, "cat.png", &[&flags[..], &["--remember"]].concat());
    assert_eq!((&dense["outcome"], &dense["steps_dense"]), (&"dense".into(), &6.into()));
    let next = machine.painted(
        "a fox on the left on grass",
        "fox.png",
        &["--mask", &mask, "--dense", "--base", &id(&dense)],
    );
    assert_eq!(next["base"], dense["id"]);
    assert_fails(&machine.paint(CAT, "x.png", &["--remember"]), 2, "--dense");
}

#[test]
fn guided_steps_follow_attention_unless_told_not_to() {
    let machine = Machine::new();
    let base = id(&machine.painted(DOG, "dog.png", &[]));
    let painted = |name: &str, control: &str| {
        let flags = [
            "--base",
            &base,
            "--control",
            control,
            "--guide-steps",
            "2",
            "--edit-size",
            "30%",
            "--sparse",
        ];
        let made = machine.painted(CAT, name, &flags);
        assert_eq!((&made["control"], &made["steps_guide"]), (&control.into(), &2.into()));
        made["steps_control"].as_u64().unwrap()
    };
    assert_eq!(
        [
            painted("refine.png", "refine"),
            painted("replace.png", "replace"),
            painted("none.png", "none")
        ],
        [2, 2, 0]
    );
    let pictures = ["refine.png", "replace.png", "none.png"].map(|name| machine.pixels(name));
    assert!(pictures[0] != pictures[1] && pictures[1] != pictures[2] && pictures[0] != pictures[2]);
    let once = machine.painted(
        CAT,
        "once.png",
        &[
            "--base",
            &base,
            "--guide-steps",
            "2",
            "--control-steps",
            "1",
            "--edit-size",
            "30%",
        ],
    );
    assert_eq!(once["steps_control"], 1);
}

#[test]
fn a_word_can_be_made_to_count_more() {
    let machine = Machine::new();
    machine.painted(DOG, "dog.png", &[]);
    let louder = machine.painted(
        "a (dog:1.5) on the left on grass",
        "louder.png",
        &["--edit-size", "30%"],
    );
    assert_ne!(louder["outcome"], "unchanged", "the same words with another weight");
    assert_ne!(machine.pixels("dog.png"), machine.pixels("louder.png"));
    let same = machine.painted(r"a (dog:1) on the left on grass", "same.png", &[]);
    assert_eq!(same["outcome"], "unchanged");
}

#[test]
fn the_region_can_come_from_attention_or_from_the_last_edit() {
    let machine = Machine::new();
    let base = id(&machine.painted(DOG, "dog.png", &[]));
    let mut masks = Vec::new();
    for from in ["latents", "attention", "both"] {
        let mask = machine.path(&format!("{from}.png"));
        let mask = mask.to_str().unwrap();
        let flags = [
            "--base",
            &base,
            "--mask-from",
            from,
            "--mask-out",
            mask,
            "--grow",
            "0",
            "--sparse",
        ];
        let edit = machine.painted(CAT, "cat.png", &flags);
        assert_eq!(edit["mask_from"], from);
        masks.push((fs::read(mask).unwrap(), edit["mask_share"].as_f64().unwrap()));
        let remembered = edit["mask"].as_str().unwrap();
        assert_eq!(fs::read(remembered).unwrap(), fs::read(mask).unwrap());
    }
    assert_ne!(masks[0].0, masks[1].0);
    assert!(masks[2].1 >= masks[0].1.max(masks[1].1), "both is the union");
    let again = machine.painted(
        "a fox on the left on grass",
        "fox.png",
        &["--base", &base, "--mask", "last", "--sparse"],
    );
    assert_eq!(again["mask_share"].as_f64(), Some(masks[2].1));
    let new = machine.painted(DOG, "other.png", &["--seed", "5"]);
    let refused = machine.paint(CAT, "x.png", &["--seed", "5", "--base", &id(&new), "--mask", "last"]);
    assert_fails(&refused, 1, "no earlier edit");
}

#[test]
fn other_methods_edit_the_same_base_and_are_not_remembered() {
    let machine = Machine::new();
    let base = id(&machine.painted(DOG, "dog.png", &[]));
    let mask = machine.mask("mask.png", 128, 128, |row, column| row < 64 && column < 64);
    for method in ["regenerate", "blend", "p2p", "sdedit:0.5", "diffedit"] {
        let flags = [
            "--base",
            &base,
            "--method",
            method,
            "--mask",
            &mask,
            "--sampler",
            "ddim",
        ];
        let made = machine.painted(CAT, "cat.png", &flags);
        assert_eq!((&made["method"], &made["id"]), (&method.into(), &Value::Null));
        assert_ne!(machine.pixels("dog.png"), machine.pixels("cat.png"), "{method}");
        let spent = match method {
            "p2p" | "diffedit" => 6 + 5,
            "sdedit:0.5" => 3,
            _ => 6,
        };
        assert_eq!(made["steps_dense"], spent, "{method}: every call counts");
    }
    let fresh = machine.painted(CAT, "fresh.png", &["--base", "none", "--forget"]);
    assert_eq!(fresh["outcome"], "generated");
    machine.painted(CAT, "anew.png", &["--base", &base, "--method", "regenerate"]);
    assert_eq!(machine.pixels("fresh.png"), machine.pixels("anew.png"));
    assert_fails(&machine.paint(CAT, "x.png", &["--method", "magic"]), 2, "diffedit");
    let nothing = machine.paint(CAT, "x.png", &["--base", "none", "--method", "blend"]);
    assert_fails(&nothing, 1, "needs an image to edit");
}

#[test]
fn a_picture_from_elsewhere_becomes_a_base() {
    let machine = Machine::new();
    let photo = machine.mask("photo.png", 200, 150, |row, column| (row / 20 + column / 20) % 2 == 0);
    let mask = machine.mask("mask.png", 128, 128, |row, column| row < 64 && column < 64);
    let flags = ["--image", &photo, "--source-prompt", DOG, "--mask", &mask, "--sparse"];
    let output = machine.paint(CAT, "cat.png", &flags);
    let edit = json(&output);
    assert!(stderr(&output).contains("the middle 150x150 of the picture (200x150) is resized to 128x128"));
    assert_eq!(edit["outcome"], "sparse");
    let itself = machine.painted(DOG, "photo-itself.png", &["--image", &photo, "--source-prompt", DOG]);
    assert_eq!(
        (&itself["outcome"], &itself["id"]),
        (&"unchanged".into(), &edit["base"])
    );
    let (inside, outside) = changed(&machine, "photo-itself.png", "cat.png", |row, column| {
        row < 64 && column < 64
    });
    assert!(inside > 0 && outside == 0, "{inside} inside, {outside} outside");
    let chained = machine.painted(
        "a fox on the left on grass",
        "fox.png",
        &["--base", &id(&edit), "--mask", &mask, "--sparse", "--sampler", "ddim"],
    );
    assert_eq!(chained["base"], edit["id"]);
    assert_fails(&machine.paint(CAT, "x.png", &["--image", &photo]), 2, "--source-prompt");
    let euler = machine.paint(
        CAT,
        "x.png",
        &["--image", &photo, "--source-prompt", "a tree", "--sampler", "euler"],
    );
    assert_fails(&euler, 1, "cannot be inverted");
}

#[test]
fn the_papers_settings_are_one_word() {
    let machine = Machine::new();
    let plan = machine.path("paper.plan");
    let compiled = machine
        .command(&[
            "compile",
            "tests/data/nano-pipeline",
            "--preset",
            "paper",
            "--json",
            "-o",
        ])
        .arg(&plan)
        .output()
        .unwrap();
    let levels = &json(&compiled)["levels"];
    assert!(
        levels.as_array().unwrap().iter().all(|level| level["sparse"] == false),
        "16 rows are dense"
    );
    let base = json(&machine.paint_with(&plan, DOG, "dog.png", &[]));
    let edit = json(&machine.paint_with(&plan, CAT, "cat.png", &["--preset", "paper", "--base", &id(&base)]));
    assert_eq!(
        (&edit["preset"], &edit["control"], &edit["steps_guide"]),
        (&"paper".into(), &"none".into(), &6.into())
    );
    assert_eq!(edit["grow"], 0);
    let p2p = machine.paint_with(&plan, CAT, "x.png", &["--method", "p2p", "--base", &id(&base)]);
    assert_fails(&p2p, 1, "without attention control");
}

#[test]
fn edits_of_one_command_are_those_of_several() {
    let (together, apart) = (Machine::new(), Machine::new());
    let snow = "a cat on the left in snow";
    let mask = together.mask("mask.png", 128, 128, |row, column| row > 64 && column < 64);
    let edit = ["--mask", &mask, "--sparse"];
    let then = ["--then", CAT, "--then", snow, "--mask", &mask, "--sparse"];
    let made = together.painted(DOG, "image.png", &then);
    let [first, second, third] = made.as_array().unwrap().as_slice() else {
        panic!("three images: {made}")
    };
    assert_eq!((&second["base"], &third["base"]), (&first["id"], &second["id"]));

    let base = apart.painted(DOG, "image.png", &[]);
    let cat = apart.painted(CAT, "image-2.png", &[&edit[..], &["--base", &id(&base)]].concat());
    apart.painted(snow, "image-3.png", &[&edit[..], &["--base", &id(&cat)]].concat());
    for name in ["image.png", "image-2.png", "image-3.png"] {
        assert_eq!(together.pixels(name), apart.pixels(name), "{name}");
    }
    assert_fails(&together.paint(DOG, "x.png", &["--then", " "]), 1, "prompt");
}
