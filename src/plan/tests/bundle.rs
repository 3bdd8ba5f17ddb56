//! Bundles: what is written is read back, and nothing damaged is accepted.

mod small_plan;

use std::fs;
use std::path::{Path, PathBuf};

use fisec_plan::*;
use fisec_tensor::HostTensor;
use proptest::prelude::*;
use tempfile::TempDir;

fn written() -> (TempDir, PathBuf, Plan) {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("small.plan");
    let plan = small_plan::write(&target);
    (home, target, plan)
}

fn files(bundle: &Path) -> Vec<PathBuf> {
    let plan = Bundle::open(bundle).unwrap();
    let listed = plan.plan().files.keys().map(|file| bundle.join(file));
    listed.chain([bundle.join("plan.json")]).collect()
}

#[test]
fn a_written_bundle_is_read_back() {
    let (_home, target, plan) = written();
    let bundle = Bundle::open(&target).unwrap();
    assert_eq!(*bundle.plan(), plan);
    bundle.verify_all().unwrap();
    let weight = bundle.weight(WeightId(0)).unwrap();
    assert_eq!(weight.to_f32_vec()[143], 143.0);
    let on_disk: u64 = files(&target)
        .iter()
        .map(|file| fs::metadata(file).unwrap().len())
        .sum();
    assert_eq!(bundle.size(), on_disk);
}

#[test]
fn equal_constants_are_stored_once_and_aligned() {
    let home = tempfile::tempdir().unwrap();
    let mut writer = BundleWriter::create(&home.path().join("p")).unwrap();
    let odd = HostTensor::from_f32([3], vec![1.0, 2.0, 3.0]);
    let other = HostTensor::from_f32([1], vec![7.0]);
    let first = writer.add_weight("a", &odd).unwrap();
    let again = writer.add_weight("a", &odd).unwrap();
    let renamed = writer.add_weight("b", &odd).unwrap();
    let external = writer.place_external("b", &odd).unwrap();
    let next = writer.place_external("c", &other).unwrap();
    assert_eq!((first, again, renamed), (WeightId(0), WeightId(0), WeightId(1)));
    assert_eq!(writer.weights()[1].offset, 0);
    assert_eq!((external.offset, external.length), (0, 12));
    assert_eq!((next.offset, next.length), (64, 4));
}

#[test]
fn one_name_stands_for_one_file() {
    let home = tempfile::tempdir().unwrap();
    let mut writer = BundleWriter::create(&home.path().join("p")).unwrap();
    writer.add_file("prompt.onnx", b"one").unwrap();
    writer.add_file("prompt.onnx", b"one").unwrap();
    let error = writer.add_file("prompt.onnx", b"two").unwrap_err().to_string();
    assert!(error.contains("two different files are called prompt.onnx"), "{error}");
    let source = home.path().join("source");
    fs::write(&source, b"three").unwrap();
    assert!(writer.copy_file("prompt.onnx", &source).is_err());
}

#[test]
fn islands_do_not_share_a_file() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("small.plan");
    let mut plan = small_plan::write(&target);
    plan.islands.push(plan.islands[0].clone());
    let mut writer = BundleWriter::create(&home.path().join("other.plan")).unwrap();
    for file in plan.files.keys().filter(|file| *file != "weights.bin") {
        writer.copy_file(file, &target.join(file)).unwrap();
    }
    let error = writer
        .finish(Plan {
            weights: Vec::new(),
            ..plan
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("is another island's"), "{error}");
}

#[test]
fn an_unfinished_bundle_leaves_nothing_and_keeps_what_was_there() {
    let (home, target, plan) = written();
    let mut writer = BundleWriter::create(&target).unwrap();
    writer.add_file("graph.fir", b"other").unwrap();
    drop(writer);
    assert_eq!(*Bundle::open(&target).unwrap().plan(), plan);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_no_plan_is_never_replaced() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("letter.txt"), "dear").unwrap();
    let error = BundleWriter::create(home.path()).err().unwrap();
    assert!(matches!(error, PlanError::Occupied(_)), "{error}");
    assert!(matches!(Bundle::open(home.path()), Err(PlanError::NotAPlan(_))));
}

#[test]
fn a_contradictory_plan_is_not_published() {
    type Break = fn(&mut Plan);
    let breaks: [(&str, Break); 11] = [
        ("before it is computed", |plan| {
            plan.programs.edit.as_mut().unwrap().nodes.swap(0, 1)
        }),
        ("a second time", |plan| {
            let nodes = &mut plan.programs.guide.nodes;
            nodes.push(nodes[0].clone());
        }),
        ("does not write it", |plan| {
            plan.programs.record.nodes.pop();
        }),
        ("a slot that does not exist", |plan| plan.slots.clear()),
        ("not plausible", |plan| plan.levels[0].width = 0),
        ("is no map of", |plan| plan.levels[0].width = 5),
        ("around no level of its size", |plan| plan.levels[0].around = Some(0)),
        ("a tile size is zero", |plan| {
            if let Kernel::Conv(conv) = &mut plan.programs.edit.as_mut().unwrap().nodes[1].kernel {
                conv.candidates[0].tile.width = 0;
            }
        }),
        ("by parity are for a 3x3 window over a doubled map", |plan| {
            if let Kernel::Conv(conv) = &mut plan.programs.edit.as_mut().unwrap().nodes[1].kernel {
                conv.by_parity = Some(conv.weight);
            }
        }),
        ("of an island must be full", |plan| {
            plan.programs.guide.values[1].extent = Extent::Active(0)
        }),
        ("not a plausible tensor", |plan| {
            plan.programs.guide.values[1].shape = [usize::MAX, 2].into()
        }),
    ];
    for (expected, contradict) in breaks {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("p");
        let mut writer = BundleWriter::create(&target).unwrap();
        let mut plan = small_plan::plan(&mut writer);
        contradict(&mut plan);
        let error = writer
            .finish(plan)
            .err()
            .unwrap_or_else(|| panic!("{expected}: accepted"));
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(!target.exists());
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let (_home, target, _) = written();
    let path = target.join("plan.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen(&format!("\"format\": {FORMAT}"), "\"format\": 999", 1),
    )
    .unwrap();
    let error = Bundle::open(&target).unwrap_err();
    assert!(matches!(error, PlanError::Version { found: 999, .. }), "{error}");
    assert!(error.hint().unwrap().contains("compile"));
}

#[test]
fn an_edited_plan_is_refused() {
    let (_home, target, _) = written();
    let path = target.join("plan.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("0.4", "0.9", 1)).unwrap();
    assert!(matches!(Bundle::open(&target), Err(PlanError::Altered(file)) if file == path));
}

#[test]
fn a_missing_file_is_named() {
    let (_home, target, _) = written();
    for file in files(&target) {
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let error = Bundle::open(&target).unwrap_err();
        let expected = match file.ends_with("plan.json") {
            true => matches!(error, PlanError::NotAPlan(_)),
            false => matches!(&error, PlanError::Missing(missing) if *missing == file),
        };
        assert!(expected, "{error}");
        fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn every_truncation_is_reported() {
    let (_home, target, _) = written();
    for file in files(&target) {
        let bytes = fs::read(&file).unwrap();
        for length in (0..bytes.len()).step_by(bytes.len() / 50 + 1).chain([bytes.len() - 1]) {
            fs::write(&file, &bytes[..length]).unwrap();
            let error = Bundle::open(&target)
                .err()
                .unwrap_or_else(|| panic!("{} cut to {length} bytes was accepted", file.display()));
            assert!(error.hint().is_some(), "{error}");
        }
        fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn every_flipped_bit_is_reported() {
    let (_home, target, _) = written();
    let files = files(&target);
    proptest!(ProptestConfig::with_cases(400), |(file in 0..files.len(), position: prop::sample::Index, bit in 0..8u8)| {
        let path = &files[file];
        let bytes = fs::read(path).unwrap();
        let mut damaged = bytes.clone();
        damaged[position.index(bytes.len())] ^= 1 << bit;
        fs::write(path, &damaged).unwrap();
        let opened = Bundle::open(&target);
        fs::write(path, &bytes).unwrap();
        prop_assert!(opened.is_err(), "{} byte {}", path.display(), position.index(bytes.len()));
    });
}

#[test]
fn programs_are_readable_as_text() {
    let (_home, _, plan) = written();
    let text = program_text(&plan, plan.programs.edit.as_ref().unwrap());
    let expected = "%2 = conv %1 outside=$0:conv_in, @conv.weight, @conv.bias, k=3x3 +silu tiles=1x1 \
                    : f32[2,4,4,4] active(0)   ; conv (lower: test)";
    assert!(text.lines().any(|line| line == expected), "{text}");
}
