//! Numbers that make no sense: refused with their range, before anything is computed.

use crate::machine::{CAT, DOG, Machine, assert_fails, plan};

#[test]
fn numbers_of_run_have_ranges() {
    let machine = Machine::new();
    let refused = [
        ("--grow", "1000000000", "0 to 16384"),
        ("--grow", "18446744073709551615", "0 to 16384"),
        ("--grow", "-1", "0 to 16384"),
        ("--feather", "1000000000", "0 to 16384"),
        ("--feather", "-8", "0 to 16384"),
        ("--steps", "0", "1 to 10000"),
        ("--steps", "1000000000000", "1 to 10000"),
        ("--guidance", "nan", "0 to 100"),
        ("--guidance", "inf", "0 to 100"),
        ("--guidance", "-1", "0 to 100"),
        ("--guidance", "1e38", "0 to 100"),
        ("--emphasis", "NaN", "0 to 100"),
        ("--emphasis", "1e30", "0 to 100"),
        ("--edit-size", "nan", "up to 1"),
        ("--edit-size", "-1", "up to 1"),
        ("--guide-steps", "99999999999", "0 to 10000, or auto"),
        ("--control-steps", "-3", "0 to 10000, or auto"),
        ("--seed", "-1", "hint: no seed stands for a random one"),
        ("--seed", "18446744073709551616", "0 to 18446744073709551615"),
    ];
    for (flag, value, mentions) in refused {
        let mut command = machine.command(&["run"]);
        let output = command
            .arg(plan())
            .args(["--prompt", DOG, flag, value, "-o"])
            .arg(machine.path("x.png"))
            .output();
        assert_fails(&output.unwrap(), 2, mentions);
    }
    assert!(!machine.path("x.png").exists());
}

#[test]
fn weights_of_words_have_a_range() {
    let machine = Machine::new();
    let output = machine.paint("a (dog:1000000) on grass", "x.png", &[]);
    assert_fails(&output, 1, "-100 to 100");
}

#[test]
fn numbers_of_other_commands_have_ranges() {
    let machine = Machine::new();
    let plan = plan().to_str().unwrap();
    let nano = "tests/data/nano-pipeline";
    let refused: [(&[&str], &str); 9] = [
        (&["compile", nano, "--size", "100000"], "1 to 16384"),
        (&["compile", nano, "--size", "512x0"], "1 to 16384"),
        (&["compile", nano, "--batch", "65"], "1..=64"),
        (&["compile", nano, "--batch", "-2"], "1..=64"),
        (
            &["compile", nano, "--sparse-levels", "99999999999999999999"],
            "0 to 16, or auto",
        ),
        (&["compile", nano, "--control-levels", "-1"], "0 to 16, or auto"),
        (&["bench", plan, "--threads", "0"], "1 to 1024"),
        (&["bench", plan, "--runs", "4000000000"], "1..=100000"),
        (&["verify", "x.onnx", "--io", "x.npz", "--tol", "nan"], "0 to 1000"),
    ];
    for (arguments, mentions) in refused {
        assert_fails(&machine.run(arguments), 2, mentions);
    }
    let target = machine.path("large.plan");
    let large = machine
        .command(&["compile", nano, "--size", "16384", "-o"])
        .arg(&target)
        .output()
        .unwrap();
    assert_fails(&large, 1, "the largest square is");
    assert!(!target.exists());
}

#[test]
fn the_largest_numbers_end() {
    let machine = Machine::new();
    machine.painted(DOG, "dog.png", &[]);
    machine.painted(CAT, "cat.png", &["--grow", "16384", "--feather", "16384"]);
}
