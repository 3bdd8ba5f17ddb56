//! The demo: an image, two edits of it, and a report of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::shell::{cargo, root, step};
use crate::{Failure, setup};

const BASE: &str = "a dog on the left and a tree on the right on grass under a blue sky";
const REPLACED: &str = "a cat on the left and a tree on the right on grass under a blue sky";
const ADDED: &str = "a dog on the left and a tree on the right on grass under a blue sky with fireworks";
const SEED: &str = "3";
const STEPS: &str = "30";

/// Builds, compiles the demo model, makes the images, and says where they are.
pub fn run() -> Result<(), Failure> {
    let library = setup::run()?;
    step(
        "build",
        cargo().args(["build", "--release", "--quiet", "--bin", "fisec"]),
    )?;
    let demo = Demo {
        folder: root().join(".fisec/demo"),
        library,
    };
    fs::create_dir_all(&demo.folder).map_err(|error| format!("{}: {error}", demo.folder.display()))?;
    let started = Instant::now();
    let times = [
        ("compile the model", demo.compile()?),
        ("make the base image", demo.make("base", BASE, "none")?),
        ("replace the dog by a cat", demo.make("cat", REPLACED, "auto")?),
        ("add fireworks", demo.make("fireworks", ADDED, "auto")?),
    ];
    println!();
    for (name, took) in times {
        println!("{name:<26} {:>6.1} s", took.as_secs_f64());
    }
    println!("{:<26} {:>6.1} s\n", "together", started.elapsed().as_secs_f64());
    for file in ["base.png", "cat.png", "cat.html", "fireworks.png", "fireworks.html"] {
        println!("{}", demo.folder.join(file).display());
    }
    println!("\nopen {} in a browser", demo.folder.join("cat.html").display());
    Ok(())
}

struct Demo {
    folder: PathBuf,
    library: PathBuf,
}

impl Demo {
    fn compile(&self) -> Result<Duration, Failure> {
        let mut command = self.fisec();
        command.arg("compile").arg(root().join("models/demo"));
        step("compile models/demo", command.arg("-o").arg(self.plan()))
    }

    /// The first image gets no report: there is nothing to compare it with.
    fn make(&self, name: &str, prompt: &str, base: &str) -> Result<Duration, Failure> {
        let mut command = self.fisec();
        command
            .arg("run")
            .arg(self.plan())
            .args(["--prompt", prompt, "--base", base, "--seed", SEED, "--steps", STEPS]);
        command.arg("-o").arg(self.folder.join(format!("{name}.png")));
        if base != "none" {
            command.arg("--report").arg(self.folder.join(format!("{name}.html")));
        }
        step(prompt, &mut command)
    }

    fn plan(&self) -> PathBuf {
        self.folder.join("demo.plan")
    }

    fn fisec(&self) -> Command {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        let mut command = Command::new(
            target
                .join("release")
                .join(format!("fisec{}", std::env::consts::EXE_SUFFIX)),
        );
        command
            .current_dir(root())
            .env("ORT_DYLIB_PATH", &self.library)
            .env("FISEC_HOME", home(&self.folder));
        command
    }
}

/// The demo's images stay apart from the user's own.
fn home(folder: &Path) -> PathBuf {
    folder.join("home")
}
