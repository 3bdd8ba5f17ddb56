//! Token ids equal transformers': records of `tools/references/tokens.py`.

use std::fs::File;
use std::path::{Path, PathBuf};

use fisec_diffusion::Tokenizer;
use flate2::read::GzDecoder;
use serde_json::Value;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn check(folder: &Path, records: &str) {
    let records: Value = serde_json::from_reader(GzDecoder::new(File::open(repository(records)).unwrap())).unwrap();
    let length = records["length"].as_u64().unwrap() as usize;
    let tokenizer = Tokenizer::open(folder, length).unwrap();
    let prompts = records["prompts"].as_array().unwrap();
    assert!(prompts.len() >= 1000);
    let mut truncated = 0;
    for record in prompts {
        let prompt = record[0].as_str().unwrap();
        let expected: Vec<u32> = record[1]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect();
        let tokens = tokenizer.encode(prompt).unwrap();
        assert_eq!(tokens.ids[..tokens.used], expected, "{prompt:?}");
        assert_eq!(tokens.ids.len(), length);
        assert_eq!(tokens.spans.len(), length);
        let pad = records["pad"].as_u64().unwrap() as u32;
        assert!(tokens.ids[tokens.used..].iter().all(|&id| id == pad), "{prompt:?}");
        let long = record[2].as_u64().unwrap() as usize > length;
        assert_eq!(tokens.dropped.is_some(), long, "{prompt:?}");
        truncated += usize::from(long);
    }
    assert!(truncated >= 10);
}

#[test]
fn words_of_the_demo_model_are_equal() {
    check(&repository("models/demo/tokenizer"), "tests/data/tokens/demo.json.gz");
}

#[test]
fn byte_pairs_of_clip_are_equal() {
    check(&repository("tests/data/tokens/clip"), "tests/data/tokens/clip.json.gz");
}

#[test]
fn vocabulary_and_merges_alone_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(
            repository("tests/data/tokens/clip").join(name),
            folder.path().join(name),
        )
        .unwrap();
    }
    check(folder.path(), "tests/data/tokens/clip.json.gz");
}

#[test]
fn what_does_not_fit_is_said() {
    let tokenizer = Tokenizer::open(&repository("models/demo/tokenizer"), 6).unwrap();
    let tokens = tokenizer.encode("a dog on grass under a  blue sky").unwrap();
    assert_eq!((tokens.ids.len(), tokens.used), (6, 6));
    assert_eq!(tokens.dropped.as_deref(), Some("under a  blue sky"));
    assert_eq!(tokens.spans[1..3], [(0, 1), (2, 5)]);
    assert_eq!(tokenizer.encode("a dog").unwrap().dropped, None);
    let bytes = Tokenizer::open(&repository("tests/data/tokens/clip"), 5).unwrap();
    assert_eq!(bytes.encode("a 🐶 dog").unwrap().dropped.as_deref(), Some("🐶 dog"));
}

#[test]
fn a_broken_tokenizer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path(), 77).err().unwrap();
    assert!(error.to_string().contains("vocab.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::open(folder.path(), 77).err().unwrap();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    assert!(error.hint().unwrap().contains("merges.txt"));
}
