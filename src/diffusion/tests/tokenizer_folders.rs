//! Token ids equal transformers' on every shape of a tokenizer's folder: records of
//! `tools/references/tokenizer_folders.py`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use fisec_diffusion::Tokenizer;
use flate2::read::GzDecoder;
use serde_json::Value;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn records() -> Value {
    let file = File::open(repository("tests/data/tokens/folders.json.gz")).unwrap();
    serde_json::from_reader(GzDecoder::new(file)).unwrap()
}

/// A folder of the recorded shape; `change` alters the text of every file.
fn folder(shape: &Value, change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        let text = fs::read_to_string(repository("tests/data/tokens/clip").join(name)).unwrap();
        if shape.get(name).is_none() {
            fs::write(folder.path().join(name), change(&text)).unwrap();
        }
    }
    for (name, text) in shape.as_object().unwrap() {
        if let Some(text) = text.as_str() {
            fs::write(folder.path().join(name), change(text)).unwrap();
        }
    }
    folder
}

fn ids(record: &Value) -> Option<Vec<u32>> {
    let ids = record.as_array()?.iter().map(|id| id.as_u64().unwrap() as u32);
    Some(ids.collect())
}

/// Which class of transformers a folder is compared with: the fast one, but where ids of added tokens leave a gap, which
/// it closes by numbering them anew, and where 4.57 cannot read the folder.
fn reference(name: &str) -> &'static str {
    match name {
        "added tokens with a gap" => "4.57 slow",
        "extra special tokens, a list" => "5", // 4.57 does not read it
        _ => "4.57 fast",
    }
}

/// Prompts that the slow class without ftfy reads otherwise than the fast one, and that are not compared with it: it drops
/// invisible characters, cuts around Chinese ones, and tells cases of added tokens apart.
fn is_of_slow(reference: &str, prompt: &str) -> bool {
    reference.ends_with("slow") && (!prompt.is_ascii() || prompt.contains("Cat-Toy"))
}

fn check(change: impl Fn(&str) -> String) {
    let records = records();
    let length = records["length"].as_u64().unwrap() as usize;
    let (mut compared, mut wrong) = (0, Vec::new());
    for (name, shape) in records["shapes"].as_object().unwrap() {
        let folder = folder(shape, &change);
        let classes = records["ids"][name].as_object().unwrap();
        let recorded = classes
            .iter()
            .find(|(class, _)| class.starts_with(reference(name)))
            .unwrap()
            .1;
        let tokenizer = match Tokenizer::open(folder.path(), length) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (index, prompt) in records["prompts"].as_array().unwrap().iter().enumerate() {
            let prompt = prompt.as_str().unwrap();
            let Some(expected) = ids(&recorded[index]).filter(|_| !is_of_slow(reference(name), prompt)) else {
                continue;
            };
            compared += 1;
            let found = tokenizer.encode(prompt).unwrap().ids;
            if found != expected {
                wrong.push(format!("{name}: {prompt:?}\n     {found:?}\n  is {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 1250, "{compared}");
}

#[test]
fn ids_are_transformers_on_every_folder() {
    check(str::to_owned);
}

#[test]
fn a_byte_order_mark_changes_nothing() {
    check(|text| format!("\u{feff}{text}"));
}

#[test]
fn windows_line_ends_change_nothing() {
    check(|text| text.replace('\n', "\r\n"));
}

/// Pad, begin and end tokens are those of the folder even where the prompt is empty and the padding is a word.
#[test]
fn padding_may_be_a_word() {
    let records = records();
    let shape = &records["shapes"]["a special map against an older config"];
    let tokenizer = Tokenizer::open(folder(shape, str::to_owned).path(), 6).unwrap();
    let tokens = tokenizer.encode("a").unwrap();
    assert_eq!(tokens.ids, [783, 320, 784, 0, 0, 0]);
    assert_eq!(tokens.used, 3);
    assert_eq!(tokenizer.encode("!").unwrap().ids, [783, 0, 784, 0, 0, 0]);
}

#[test]
fn a_length_is_a_limit_or_none() {
    let records = records();
    let length = |name: &str| {
        let folder = folder(&records["shapes"][name], str::to_owned);
        let opened = Tokenizer::open(folder.path(), 16).unwrap().max_length();
        assert_eq!(opened, Tokenizer::max_length_in(folder.path()).unwrap());
        opened
    };
    assert_eq!(length("an absurd length"), None);
    assert_eq!(length("a short length"), Some(8));
    assert_eq!(length("vocabulary and merges alone"), None);
}

#[test]
fn added_tokens_beyond_a_vocabulary_are_named() {
    let records = records();
    let folder = folder(&records["shapes"]["a concept of several vectors"], str::to_owned);
    let tokenizer = Tokenizer::open(folder.path(), 16).unwrap();
    let beyond = tokenizer.added_from(786);
    assert_eq!(beyond, [(786, "<cat-toy>_1".into()), (787, "<cat-toy>_2".into())]);
    assert_eq!(tokenizer.added_from(788), []);
}

#[test]
fn damaged_files_are_named() {
    let records = records();
    let shape = &records["shapes"]["one added token, saved"];
    let damages = [
        ("vocab.json", ""),
        ("vocab.json", "{}"),
        ("vocab.json", r#"{"a": -1}"#),
        ("vocab.json", r#"{"a": "x"}"#),
        ("merges.txt", "#version: 0.2\na b c\n"),
        ("tokenizer_config.json", "{"),
        ("special_tokens_map.json", "garbage"),
        ("added_tokens.json", "[1"),
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
    ];
    for (name, text) in damages {
        let folder = folder(shape, str::to_owned);
        fs::write(folder.path().join(name), text).unwrap();
        let Err(error) = Tokenizer::open(folder.path(), 16) else {
            panic!("{name} {text:?} is accepted");
        };
        assert!(error.to_string().contains(name), "{name} {text:?}: {error}");
        assert!(error.hint().is_some(), "{error}");
    }
    let cut = folder(shape, str::to_owned);
    let merges = fs::read_to_string(cut.path().join("merges.txt")).unwrap();
    fs::write(cut.path().join("merges.txt"), &merges[..merges.len() / 2]).unwrap();
    let error = Tokenizer::open(cut.path(), 16).err().unwrap().to_string();
    assert!(error.contains("merges.txt"), "{error}");
    let left = folder(shape, |text| {
        text.replace(r#""model_max_length""#, r#""padding_side": "left", "model_max_length""#)
    });
    let error = Tokenizer::open(left.path(), 16).err().unwrap();
    assert!(error.to_string().contains("`padding_side` left"), "{error}");
}
