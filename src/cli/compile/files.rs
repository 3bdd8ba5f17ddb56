//! Where the parts of a pipeline are in its folder, under the names that exporters and people give them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;

/// Names that a message lists, at most.
const LISTED: usize = 12;

/// A model file, and what is to be said of how it was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub file: PathBuf,
    pub notice: Option<String>,
}

/// The ONNX file of a part: the variant asked for, else `model.onnx`, else the only file that there is.
///
/// `None` where the folder holds no ONNX file.
///
/// # Errors
/// Fails when several files could be meant.
pub fn model_file(folder: &Path, part: &str, variant: Option<&str>) -> Result<Option<Found>, Failure> {
    let names = onnx_files(folder);
    let among = |name: &String| names.iter().find(|known| *known == name);
    let stems = ["model", part];
    let of_variant = |variant: &str| -> Vec<String> {
        let spelled = stems
            .iter()
            .flat_map(|stem| [format!("{stem}.{variant}.onnx"), format!("{stem}_{variant}.onnx")]);
        spelled.collect()
    };
    let found = |name: &str, notice: Option<String>| {
        Ok(Some(Found {
            file: folder.join(name),
            notice,
        }))
    };
    if let Some(name) = variant.and_then(|variant| of_variant(variant).iter().find_map(among)) {
        return found(name, None);
    }
    let missing = variant.map(|variant| format!("{} has no variant `{variant}`", folder.display()));
    let used = |name: &str, why: &str| match &missing {
        Some(missing) => Some(format!("{missing}; {name} is used")),
        None => Some(format!("{} is used: {why}", folder.join(name).display())),
    };
    for stem in stems {
        if let Some(name) = among(&format!("{stem}.onnx")) {
            let usual = stem == "model" && missing.is_none();
            return found(name, used(name, "there is no model.onnx").filter(|_| !usual));
        }
    }
    match &names[..] {
        [] => Ok(None),
        [only] => found(only, used(only, "it is the only ONNX file there")),
        several => {
            let variants = several.iter().find_map(|name| variant_of(name, &stems));
            let failure = Failure::new(format!(
                "{} has no model.onnx and several others: {}",
                folder.display(),
                several.join(", ")
            ));
            Err(failure.hint(match variants {
                Some(variant) => format!("choose one, e.g. `--variant {variant}`"),
                None => "name the one to use model.onnx, or give the U-Net's file itself".into(),
            }))
        }
    }
}

/// The variant in a name like `model.fp16.onnx`.
fn variant_of(name: &str, stems: &[&str]) -> Option<String> {
    let rest = stems.iter().find_map(|stem| name.strip_prefix(stem))?;
    let variant = rest.strip_suffix(".onnx")?.trim_start_matches(['.', '_']);
    (!variant.is_empty()).then(|| variant.to_owned())
}

/// Names of the ONNX files in a folder, sorted.
fn onnx_files(folder: &Path) -> Vec<String> {
    let mut names = names(folder, |path| path.is_file());
    names.retain(|name| name.to_ascii_lowercase().ends_with(".onnx"));
    names
}

fn names(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| is_wanted(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What a folder holds, for a message: names with `/` behind folders.
pub fn listing(folder: &Path) -> String {
    let mut names = names(folder, |_| true);
    for name in &mut names {
        if folder.join(&*name).is_dir() {
            name.push('/');
        }
    }
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), more) {
        (true, _) => "nothing".into(),
        (_, 0) => names.join(", "),
        (_, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// The folder of a part: of its name, or of the only name that means the same (`vae/decoder`, `text-encoder`, `UNet`).
///
/// # Errors
/// Fails when several folders could be meant.
pub fn part_folder(root: &Path, part: &str) -> Result<Option<PathBuf>, Failure> {
    let exact = root.join(part);
    if exact.is_dir() {
        return Ok(Some(exact));
    }
    let letters = |name: &str| name.to_ascii_lowercase().replace(['_', '-', ' '], "");
    let alike = names(root, |path| path.is_dir()).into_iter();
    let mut found: Vec<PathBuf> = alike
        .filter(|name| letters(name) == letters(part))
        .map(|name| root.join(name))
        .collect();
    let nested = part.split_once('_').filter(|(first, _)| *first == "vae");
    found.extend(
        nested
            .map(|(first, second)| root.join(first).join(second))
            .filter(|path| path.is_dir()),
    );
    match &found[..] {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(
                Failure::new(format!("several folders could be the {part}: {}", names.join(", ")))
                    .hint(format!("name the one to use {part}")),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn name(files: &[&str], variant: Option<&str>) -> (String, bool) {
        let folder = folder(files);
        let found = model_file(folder.path(), "unet", variant).unwrap().unwrap();
        let name = found.file.file_name().unwrap().to_string_lossy().into_owned();
        (name, found.notice.is_some())
    }

    #[test]
    fn the_usual_name_wins_and_others_are_said() {
        let cases: [(&[&str], Option<&str>, &str, bool); 9] = [
            (
                &["model.onnx", "model.fp16.onnx", "model.onnx_data"],
                None,
                "model.onnx",
                false,
            ),
            (&["model.fp16.onnx", "config.json"], None, "model.fp16.onnx", true),
            (&["model_quantized.onnx"], None, "model_quantized.onnx", true),
            (&["unet.onnx", "other.onnx"], None, "unet.onnx", true),
            (&["Model.ONNX"], None, "Model.ONNX", true),
            (&["model.onnx", "Model.onnx"], None, "model.onnx", false),
            (
                &["model.onnx", "model.fp16.onnx"],
                Some("fp16"),
                "model.fp16.onnx",
                false,
            ),
            (
                &["model.onnx", "model_fp16.onnx"],
                Some("fp16"),
                "model_fp16.onnx",
                false,
            ),
            (&["model.onnx", "model_fp16.onnx"], Some("int8"), "model.onnx", true),
        ];
        for (files, variant, expected, said) in cases {
            assert_eq!(
                name(files, variant),
                (expected.to_owned(), said),
                "{files:?} {variant:?}"
            );
        }
    }

    #[test]
    fn several_files_are_an_error_that_lists_them() {
        let folder = folder(&["model.fp16.onnx", "model.int8.onnx"]);
        let failure = model_file(folder.path(), "unet", None).unwrap_err().to_string();
        assert!(failure.contains("model.fp16.onnx, model.int8.onnx"), "{failure}");
        assert!(failure.contains("`--variant fp16`"), "{failure}");
        assert_eq!(model_file(&folder.path().join("none"), "unet", None).unwrap(), None);
    }

    #[test]
    fn folders_are_found_where_one_can_be_meant() {
        let root = folder(&[
            "vae/decoder/model.onnx",
            "Text-Encoder/x",
            "text_encoder_2/x",
            "UNet/x",
            "unet/x",
        ]);
        let found = |part: &str| part_folder(root.path(), part).unwrap();
        assert_eq!(found("vae_decoder"), Some(root.path().join("vae/decoder")));
        assert_eq!(found("text_encoder"), Some(root.path().join("Text-Encoder")));
        assert_eq!(found("unet"), Some(root.path().join("unet")));
        assert_eq!(found("vae_encoder"), None);
        let twice = folder(&["vae/decoder/x", "vae-decoder/x"]);
        assert!(part_folder(twice.path(), "vae_decoder").is_err());
    }
}
