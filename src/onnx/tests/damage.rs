//! Damaged, hostile and unusual files: an error with a place, never a panic.

mod samples;

use std::fs;
use std::path::{Path, PathBuf};

use fisec_onnx::{Bindings, ImportError, import};
use tempfile::TempDir;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/nano-pipeline/vae_decoder/model.onnx")
}

fn external_sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/onnx/dynamo20_dyn")
}

fn bindings() -> Bindings {
    Bindings::vae(1, 4, 16, 16)
}

/// Imports `bytes` as a model of its own folder.
fn import_bytes(folder: &TempDir, bytes: &[u8]) -> Result<usize, ImportError> {
    let path = folder.path().join("model.onnx");
    fs::write(&path, bytes).expect("temporary file");
    import(&path, &bindings()).map(|import| import.graph.len())
}

/// A small generator of reproducible positions.
struct Positions(u64);

impl Positions {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn truncated_files_are_refused_with_a_place() {
    let (folder, bytes) = (
        tempfile::tempdir().expect("folder"),
        fs::read(sample()).expect("sample"),
    );
    let mut positions = Positions(1);
    for _ in 0..200 {
        let length = positions.below(bytes.len());
        let error = import_bytes(&folder, &bytes[..length]).expect_err("a part of a model is no model");
        assert!(error.to_string().contains("model.onnx"), "{error}");
        assert!(error.hint.is_some(), "{error}");
    }
    let error = import_bytes(&folder, &bytes[..bytes.len() / 2]).expect_err("half a model");
    assert!(error.place.contains("byte"), "{error}");
}

#[test]
fn flipped_bits_never_panic() {
    let (folder, bytes) = (
        tempfile::tempdir().expect("folder"),
        fs::read(sample()).expect("sample"),
    );
    let mut positions = Positions(2);
    let mut refused = 0;
    for _ in 0..400 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + positions.below(4) {
            // Most bytes are weights, where a flip only changes a number: prefer the nodes, which come first.
            let reach = if positions.below(2) == 0 {
                damaged.len()
            } else {
                damaged.len() / 20
            };
            let at = positions.below(reach);
            damaged[at] ^= 1 << positions.below(8);
        }
        if let Err(error) = import_bytes(&folder, &damaged) {
            assert!(error.to_string().contains("model.onnx"), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 20, "only {refused} of 400 were noticed");
}

#[test]
fn files_that_are_no_model_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 3463726504\n";
    for bytes in [&b""[..], b"hello", lfs, &[0xff; 64], &[0; 64]] {
        let error = import_bytes(&folder, bytes).expect_err("no model");
        assert!(!error.message.is_empty());
    }
    let missing = import(&folder.path().join("missing.onnx"), &bindings()).expect_err("missing");
    assert!(missing.to_string().contains("missing.onnx"), "{missing}");
    let directory = import(folder.path(), &bindings()).expect_err("a folder");
    assert!(directory.message.contains("cannot read"), "{directory}");
}

/// The dynamo sample with its data file changed by `change`.
fn with_external_data(change: impl Fn(&Path)) -> Result<usize, ImportError> {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["model.onnx", "model.onnx.data"] {
        fs::copy(external_sample().join(name), folder.path().join(name)).expect("copy");
    }
    change(&folder.path().join("model.onnx.data"));
    let model = folder.path().join("model.onnx");
    import(&model, &Bindings::unet(2, 16, 16, 77)).map(|import| import.graph.len())
}

#[test]
fn external_data_must_be_there_and_whole() {
    with_external_data(|_| {}).expect("untouched");
    let missing = with_external_data(|data| fs::remove_file(data).expect("removed")).expect_err("missing data");
    assert!(missing.message.contains("model.onnx.data"), "{missing}");
    assert!(missing.place.starts_with("initializer "), "{missing}");
    let cut = |data: &Path| {
        fs::File::options()
            .write(true)
            .open(data)
            .and_then(|file| file.set_len(1000))
            .expect("cut")
    };
    let truncated = with_external_data(cut).expect_err("truncated data");
    assert!(truncated.message.contains("the file has 1000"), "{truncated}");
    let emptied = with_external_data(|data| fs::write(data, b"").expect("emptied")).expect_err("empty data");
    assert!(emptied.message.contains("the file has 0"), "{emptied}");
}

#[test]
fn external_data_stays_in_the_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let bytes = fs::read(external_sample().join("model.onnx")).expect("sample");
    let location = b"model.onnx.data";
    for escape in [b"/etc/os-release", b"../../../x.data"] {
        let mut hostile = bytes.clone();
        for at in 0..hostile.len() - location.len() {
            if hostile[at..].starts_with(location) {
                hostile[at..at + location.len()].copy_from_slice(escape);
            }
        }
        let error = import_bytes(&folder, &hostile).expect_err("leads out of the folder");
        assert!(error.message.contains("outside the model's folder"), "{error}");
    }
}

#[test]
fn symbolic_sizes_must_be_given_and_fixed_ones_kept() {
    let unbound = import(&sample(), &Bindings::new()).expect_err("no size");
    assert!(unbound.message.contains("symbolic size"), "{unbound}");
    assert!(
        unbound.hint.as_deref().is_some_and(|hint| hint.contains("--size")),
        "{unbound}"
    );
    let folder = tempfile::tempdir().expect("folder");
    let fixed = samples::fixed_size(folder.path());
    let other = import(&fixed, &Bindings::unet(2, 96, 96, 77)).expect_err("fixed at 16");
    assert!(other.message.contains("fixed at 16"), "{other}");
    assert!(import(&fixed, &Bindings::new()).is_ok(), "nothing to bind");
    let by_name = Bindings::new()
        .symbol("batch_size", 1)
        .symbol("latent_height", 8)
        .symbol("latent_width", 8);
    let by_symbol = import(&sample(), &by_name);
    let by_input = import(&sample(), &Bindings::new().input("latent_sample", &[1, 4, 8, 8]));
    assert_eq!(
        by_symbol.expect("symbols").graph.len(),
        by_input.expect("input").graph.len()
    );
}

#[test]
fn what_was_read_is_reported() {
    let import = import(&external_sample().join("model.onnx"), &Bindings::unet(2, 16, 16, 77)).expect("imports");
    assert!(import.producer.starts_with("pytorch 2."), "{}", import.producer);
    assert_eq!(import.opsets[""], 20);
    let names: Vec<_> = import.model_files.iter().filter_map(|path| path.file_name()).collect();
    assert_eq!(names, ["model.onnx", "model.onnx.data"]);
}
