//! Noise equals torch's CPU generator bit for bit: records of `tools/references/noise.py`.

use std::fs::File;

use fisec_diffusion::noise::{Generator, randn};
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn records() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/noise/noise.json.gz");
    serde_json::from_reader(GzDecoder::new(File::open(path).unwrap())).unwrap()
}

fn bits(values: &[f32]) -> String {
    values.iter().map(|value| format!("{:08x}", value.to_bits())).collect()
}

fn check(case: &Value, values: &[f32]) {
    if let Some(all) = case["all"].as_str() {
        assert_eq!(bits(values), all, "{}", case["shape"]);
    } else {
        assert_eq!(bits(&values[..64]), case["first"], "{}", case["shape"]);
        assert_eq!(bits(&values[values.len() - 64..]), case["last"], "{}", case["shape"]);
    }
    let hash: String = Sha256::digest(bytemuck::cast_slice(values))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hash, case["sha256"], "{}", case["shape"]);
}

fn elements(case: &Value) -> usize {
    case["shape"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dim| dim.as_u64().unwrap() as usize)
        .product()
}

fn seed(text: &Value) -> u64 {
    text.as_str()
        .map_or_else(|| text.as_u64().unwrap(), |text| text.parse().unwrap())
}

#[test]
fn every_recorded_tensor_is_equal() {
    let records = records();
    let cases = records["single"].as_array().unwrap();
    assert!(cases.len() >= 50);
    for case in cases {
        check(case, &randn(elements(case), seed(&case["seed"])));
    }
}

#[test]
fn tensors_drawn_one_after_the_other_are_equal() {
    let records = records();
    let sequences = records["sequences"].as_array().unwrap();
    assert!(!sequences.is_empty());
    for sequence in sequences {
        let mut generator = Generator::new(seed(&sequence["seed"]));
        for case in sequence["draws"].as_array().unwrap() {
            check(case, &generator.randn(elements(case)));
        }
    }
}
