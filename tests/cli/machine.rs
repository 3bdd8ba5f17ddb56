//! A user's machine: a place for remembered images, a compiled plan, and the binary.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;

/// Steps of every image made here.
const STEPS: &str = "6";

pub const DOG: &str = "a dog on the left on grass";
pub const CAT: &str = "a cat on the left on grass";

/// A fresh machine.
pub struct Machine {
    folder: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        Machine {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where remembered images are.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fisec"));
        command
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("FISEC_CACHE_LIMIT")
            .env("FISEC_HOME", self.home());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The arguments that make an image of `prompt` into `name`.
    pub fn paint<'a>(&self, prompt: &'a str, name: &str, more: &[&'a str]) -> Output {
        self.paint_with(plan(), prompt, name, more)
    }

    pub fn paint_with(&self, plan: &Path, prompt: &str, name: &str, more: &[&str]) -> Output {
        let mut command = self.command(&["run"]);
        command
            .arg(plan)
            .args(["--prompt", prompt, "--steps", STEPS, "--json", "-o"]);
        command.arg(self.path(name)).args(more).output().unwrap()
    }

    /// What `run --json` printed.
    #[track_caller]
    pub fn painted(&self, prompt: &str, name: &str, more: &[&str]) -> Value {
        json(&self.paint(prompt, name, more))
    }

    /// Red, green and blue of a PNG on this machine.
    pub fn pixels(&self, name: &str) -> Vec<u8> {
        let decoder = png::Decoder::new(fs::File::open(self.path(name)).map(std::io::BufReader::new).unwrap());
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        pixels.truncate(info.buffer_size());
        pixels
    }

    /// Writes a grey PNG with `white` where the predicate holds.
    pub fn mask(&self, name: &str, width: usize, height: usize, white: impl Fn(usize, usize) -> bool) -> String {
        let pixels: Vec<u8> = (0..width * height)
            .map(|index| if white(index / width, index % width) { 255 } else { 0 })
            .collect();
        let path = self.path(name);
        let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), width as u32, height as u32);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A copy of the plan, to be damaged.
    pub fn copied_plan(&self) -> PathBuf {
        let copy = self.path("copy.plan");
        copy_folder(plan(), &copy);
        copy
    }

    /// A model that is stored compressed, in a folder of this machine.
    pub fn unpacked(&self, packed: &str) -> String {
        let model = self.path("model.onnx");
        let mut packed = GzDecoder::new(File::open(packed).unwrap());
        io::copy(&mut packed, &mut File::create(&model).unwrap()).unwrap();
        model.to_str().unwrap().to_owned()
    }

    /// The folder of the only remembered image.
    pub fn only_image(&self) -> PathBuf {
        let mut images: Vec<PathBuf> = fs::read_dir(self.home().join("images"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(images.len(), 1, "{images:?}");
        images.remove(0)
    }
}

/// The nano pipeline as a plan, compiled once.
pub fn plan() -> &'static Path {
    static PLAN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    &PLAN
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let plan = folder.path().join("nano.plan");
            let compiled = Command::new(env!("CARGO_BIN_EXE_fisec"))
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .args(["compile", "tests/data/nano-pipeline", "--sparse-levels", "2", "-o"])
                .arg(&plan)
                .output()
                .unwrap();
            assert!(compiled.status.success(), "{}", stderr(&compiled));
            (folder, plan)
        })
        .1
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Turns one bit in the middle of a file.
pub fn flip_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a command that succeeded printed.
#[track_caller]
pub fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Fails unless the command failed as all commands do: this status, one error, one hint, no panic.
#[track_caller]
pub fn assert_fails(output: &Output, status: i32, mentions: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    assert_eq!(text.matches("\n\nhint: ").count(), 1, "{text}");
    assert!(text.contains(mentions), "`{mentions}` in {text}");
    assert!(!text.contains("panicked"), "{text}");
}
