//! `fisec run`: making, editing, remembering.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::machine::{CAT, DOG, Machine, assert_fails, json, plan, stderr};

#[test]
fn a_first_image_is_made_and_remembered() {
    let machine = Machine::new();
    let made = machine.painted(DOG, "dog.png", &[]);
    assert_eq!(
        (&made["outcome"], &made["base"]),
        (&"generated".into(), &serde_json::Value::Null)
    );
    assert_eq!(machine.only_image().file_name().unwrap().to_str(), made["id"].as_str());
    assert_eq!(machine.pixels("dog.png").len(), 128 * 128 * 3);
    let again = machine.painted(DOG, "again.png", &["--base", "none", "--forget"]);
    assert_eq!(again["id"], serde_json::Value::Null);
    assert_eq!(
        machine.pixels("dog.png"),
        machine.pixels("again.png"),
        "a seed means one image"
    );
}

#[test]
fn the_same_words_give_the_base_at_once() {
    let machine = Machine::new();
    let base = machine.painted(DOG, "dog.png", &[]);
    let again = machine.painted("a dog on  the left on grass ", "again.png", &[]);
    assert_eq!((&again["outcome"], &again["id"]), (&"unchanged".into(), &base["id"]));
    assert_eq!(machine.pixels("dog.png"), machine.pixels("again.png"));
}

#[test]
fn a_changed_word_changes_the_masked_region_only() {
    let machine = Machine::new();
    let base = machine.painted(DOG, "dog.png", &[]);
    let mask = machine.mask("mask.png", 128, 128, |row, column| {
        (40..72).contains(&row) && column < 32
    });
    let report = machine.path("cat.html");
    let report = report.to_str().unwrap();
    let edit = machine.painted(CAT, "cat.png", &["--mask", &mask, "--sparse", "--report", report]);
    assert_eq!((&edit["outcome"], &edit["base"]), (&"sparse".into(), &base["id"]));
    let share = edit["mask_share"].as_f64().unwrap();
    assert!((share - 16.0 / 256.0).abs() < 1e-9, "{share}");
    assert!(edit["macs"].as_u64() < edit["macs_dense"].as_u64());
    assert!(edit["bytes_read"].as_u64() > Some(0));
    let (before, after) = (machine.pixels("dog.png"), machine.pixels("cat.png"));
    let differs = |row: usize, column: usize| {
        (0..3).any(|c| before[(row * 128 + column) * 3 + c] != after[(row * 128 + column) * 3 + c])
    };
    let changed = (0..128 * 128).filter(|pixel| differs(pixel / 128, pixel % 128)).count();
    assert!(changed > 100, "{changed} pixels changed");
    assert!(
        (0..128).all(|row| (0..128).all(|column| column < 64 || !differs(row, column))),
        "far from the mask nothing changes"
    );
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("<del>dog</del> <ins>cat</ins>") && !report.contains("http"));
}

#[test]
fn edits_chain_and_branch() {
    let machine = Machine::new();
    let dog = machine.painted(DOG, "dog.png", &[]);
    let cat = machine.painted(CAT, "cat.png", &["--edit-size", "10%", "--sparse"]);
    assert_eq!(cat["base"], dog["id"]);
    let both = machine.painted(
        "a cat on the left on grass with fireworks",
        "both.png",
        &["--edit-size", "10%", "--sparse"],
    );
    assert_eq!(both["base"], cat["id"], "the nearest prompt is the edit's");
    let branch = machine.painted(
        "a fox on the left on grass",
        "fox.png",
        &["--edit-size", "10%", "--sparse"],
    );
    assert_eq!(branch["base"], dog["id"], "a first image goes before an edit");
    let wider = machine.painted(CAT, "wider.png", &["--edit-size", "30%", "--sparse"]);
    assert_eq!(
        wider["base"], dog["id"],
        "the same words with another region edit the base again"
    );
    assert!(wider["mask_share"].as_f64() > cat["mask_share"].as_f64());
}

#[test]
fn sparse_and_dense_agree() {
    let machine = Machine::new();
    machine.painted(DOG, "dog.png", &[]);
    let mask = machine.mask("mask.png", 128, 128, |row, column| {
        row > 30 && row < 70 && column > 20 && column < 90
    });
    let sparse = machine.painted(CAT, "sparse.png", &["--mask", &mask, "--sparse"]);
    let dense = machine.painted(CAT, "dense.png", &["--mask", &mask, "--dense"]);
    assert_eq!(
        (&sparse["outcome"], &dense["outcome"]),
        (&"sparse".into(), &"dense".into())
    );
    assert_eq!(dense["base"], sparse["base"]);
    let (a, b) = (machine.pixels("sparse.png"), machine.pixels("dense.png"));
    let error: f64 = a
        .iter()
        .zip(&b)
        .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2))
        .sum::<f64>()
        / a.len() as f64;
    let psnr = 10.0 * (255.0 * 255.0 / error.max(1e-9)).log10();
    // Frozen statistics and stale surroundings are an approximation; random weights exaggerate it.
    assert!(psnr > 20.0, "{psnr:.1} dB");
}

#[test]
fn the_png_says_how_it_was_made() {
    let machine = Machine::new();
    machine.painted(DOG, "dog.png", &["--negative", "rain", "--seed", "3"]);
    let file = fs::File::open(machine.path("dog.png"))
        .map(std::io::BufReader::new)
        .unwrap();
    let reader = png::Decoder::new(file).read_info().unwrap();
    let texts: Vec<(String, String)> = reader
        .info()
        .utf8_text
        .iter()
        .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()))
        .collect();
    let text = |key: &str| texts.iter().find(|(keyword, _)| keyword == key).unwrap().1.clone();
    let parameters = text("parameters");
    assert!(
        parameters.starts_with("a dog on the left on grass\nNegative prompt: rain\nSteps: 6, "),
        "{parameters}"
    );
    assert!(
        parameters.contains("Seed: 3") && parameters.contains("Size: 128x128"),
        "{parameters}"
    );
    let record: serde_json::Value = serde_json::from_str(&text("fisec")).unwrap();
    assert_eq!(record["seed"], 3);
}

#[test]
fn a_base_must_have_been_made_with_the_same_settings() {
    let machine = Machine::new();
    let base = machine.painted(DOG, "dog.png", &[]);
    let id = base["id"].as_str().unwrap();
    let other = machine.paint(CAT, "cat.png", &["--base", id, "--seed", "9"]);
    assert_fails(&other, 1, "was made with seed 0");
    let named = machine.painted(CAT, "cat.png", &["--base", &id[..5]]);
    assert_eq!(named["base"].as_str(), Some(id));
    assert_fails(
        &machine.paint(CAT, "cat.png", &["--base", "ffff"]),
        1,
        "no remembered image `ffff`",
    );
}

#[test]
fn interrupting_leaves_nothing_behind() {
    let machine = Machine::new();
    let mut child = machine
        .command(&["run"])
        .arg(plan())
        .args(["--prompt", DOG, "--steps", "900", "-o"])
        .arg(machine.path("dog.png"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let images = machine.home().join("images");
    while fs::read_dir(&images).map_or(0, Iterator::count) == 0 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it was interrupted"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("interrupted"), "{}", stderr(&output));
    assert!(!machine.path("dog.png").exists());
    assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
    json(&machine.paint(DOG, "dog.png", &[]));
}
