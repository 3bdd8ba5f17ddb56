//! The cache store: what is recorded is read back, and what is damaged is not remembered.

use std::fs;
use std::path::{Path, PathBuf};

use fisec_plan::{Slot, SlotId, SlotKind};
use fisec_runtime::cache::{CacheError, Entry, ImageKey, Kept, MemoryCache, Store};
use fisec_runtime::{RuntimeError, SlotSink, SlotSource};
use fisec_tensor::{DType, HostTensor};
use proptest::prelude::*;

const STEPS: usize = 3;

fn key(prompt: &str) -> ImageKey {
    ImageKey {
        plan: "abc".into(),
        prompt: prompt.into(),
        negative: String::new(),
        seed: 7,
        sampler: "ddim".into(),
        steps: STEPS,
        guidance: 5.0,
        width: 128,
        height: 128,
    }
}

fn slots() -> Vec<Slot> {
    let slot = |name: &str, kind, dtype: DType, shape: Vec<usize>| Slot {
        name: name.into(),
        kind,
        dtype,
        bytes: (shape.iter().product::<usize>() * dtype.size()) as u64,
        shape: shape.into(),
    };
    vec![
        slot(
            "conv_in",
            SlotKind::Halo { level: 0, radius: 1 },
            DType::F16,
            vec![2, 4, 4, 8],
        ),
        slot("norm", SlotKind::Stats, DType::F32, vec![2, 3, 2]),
        slot("keys", SlotKind::Full { level: 0 }, DType::F16, vec![2, 16, 5]),
    ]
}

fn value(step: usize, slot: usize) -> HostTensor {
    let shape = slots()[slot].shape.clone();
    let values = (0..shape.elements()).map(|i| (i * 7 + step * 31 + slot) as f32 / 16.0);
    HostTensor::from_f32(shape.clone(), values.collect())
}

fn record(store: &Store, prompt: &str, parent: Option<&str>) -> Result<Entry, CacheError> {
    let mut recording = store.begin(key(prompt), parent, "", &slots(), STEPS)?;
    for step in 0..STEPS {
        for slot in (0..3).rev() {
            recording.put(step, SlotId(slot as u32), value(step, slot)).unwrap();
        }
    }
    let latents = (0..(STEPS + 1) * 4 * 4).map(|i| i as f32).collect();
    recording.set_latents(&HostTensor::from_f32([STEPS + 1, 1, 4, 4], latents));
    recording.set_image(b"an image".to_vec());
    recording.set_mask(b"a mask".to_vec());
    recording.set_norms(&norms());
    recording.commit()
}

fn norms() -> HostTensor {
    HostTensor::from_f32([3], vec![1.0, -0.5, 1e-7])
}

fn check(entry: &Entry) {
    for step in 0..STEPS {
        for slot in 0..3 {
            let found = entry.slot(step, SlotId(slot as u32)).unwrap();
            assert_eq!(found, value(step, slot).cast(slots()[slot].dtype));
        }
    }
    assert_eq!(entry.latents().unwrap().to_f32_vec()[63], 63.0);
    assert_eq!(entry.image().unwrap(), b"an image");
    assert_eq!(entry.mask().unwrap().unwrap(), b"a mask");
    assert_eq!(entry.norms().unwrap().unwrap(), norms());
}

fn home() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(Some(home.path())).unwrap();
    (home, store)
}

fn files_of(store: &Store, id: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.folder().join(id)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_recorded_image_is_read_back() {
    let (_home, store) = home();
    let entry = record(&store, "a dog", None).unwrap();
    check(&entry);
    entry.verify().unwrap();
    let bytes_per_step: u64 = slots().iter().map(|slot| slot.bytes).sum();
    assert_eq!(entry.bytes_read(), STEPS as u64 * bytes_per_step);
    for step in 0..STEPS {
        let file = store.folder().join(entry.id()).join(format!("step-{step:03}.bin"));
        assert_eq!(fs::metadata(file).unwrap().len(), bytes_per_step);
    }
    check(
        &Store::open(Some(store.folder().parent().unwrap()))
            .unwrap()
            .get(entry.id())
            .unwrap(),
    );
}

#[test]
fn memory_holds_what_the_disk_holds() {
    let mut memory = MemoryCache::new(&slots());
    memory.put(1, SlotId(0), value(1, 0)).unwrap();
    assert_eq!(memory.slot(1, SlotId(0)).unwrap(), value(1, 0).cast(DType::F16));
    assert!(matches!(
        memory.slot(0, SlotId(0)),
        Err(RuntimeError::MissingSlot { step: 0, .. })
    ));
}

#[test]
fn an_unfinished_recording_leaves_nothing() {
    let (_home, store) = home();
    let mut recording = store.begin(key("a dog"), None, "", &slots(), STEPS).unwrap();
    recording.put(0, SlotId(0), value(0, 0)).unwrap();
    drop(recording);
    assert_eq!(fs::read_dir(store.folder()).unwrap().count(), 0);
}

#[test]
fn an_incomplete_image_is_not_remembered() {
    let (_home, store) = home();
    let mut recording = store.begin(key("a dog"), None, "", &slots(), STEPS).unwrap();
    for slot in 0..3 {
        recording.put(1, SlotId(slot), value(1, slot as usize)).unwrap();
    }
    assert!(matches!(recording.commit(), Err(CacheError::Incomplete(0))));
    assert_eq!(fs::read_dir(store.folder()).unwrap().count(), 0);
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let (_home, store) = home();
    let mut recording = store.begin(key("a dog"), None, "", &slots(), STEPS).unwrap();
    let wrong_shape = recording.put(0, SlotId(0), value(0, 1));
    assert!(matches!(wrong_shape, Err(RuntimeError::Mismatch { .. })));
    assert!(recording.put(0, SlotId(9), value(0, 0)).is_err());
    assert!(recording.put(STEPS, SlotId(0), value(0, 0)).is_err());
}

#[test]
fn values_that_are_not_finite_are_not_remembered() {
    let cases = [
        (0, f32::NAN, "conv_in", DType::F16),
        (0, 7e4, "conv_in", DType::F16),
        (1, f32::NEG_INFINITY, "norm", DType::F32),
        (2, f32::INFINITY, "keys", DType::F16),
    ];
    for (slot, wrong, name, dtype) in cases {
        let (home, store) = home();
        let mut recording = store.begin(key("a"), None, "", &slots(), STEPS).unwrap();
        for (step, at) in (0..STEPS).flat_map(|step| (0..3).map(move |slot| (step, slot))) {
            let good = value(step, at);
            let mut values = good.to_f32_vec();
            if (step, at) == (1, slot) {
                *values.last_mut().unwrap() = wrong;
            }
            let value = HostTensor::from_f32(good.shape().clone(), values);
            recording.put(step, SlotId(at as u32), value).unwrap();
        }
        recording.set_latents(&HostTensor::from_f32([STEPS + 1, 1, 1, 1], vec![0.0; STEPS + 1]));
        recording.set_image(Vec::new());
        let error = recording.commit().unwrap_err();
        let expected = format!("slot `{name}` of step 1 does not fit {dtype}: its values are not finite");
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some());
        assert!(store.list().unwrap().images.is_empty());
        assert_eq!(fs::read_dir(home.path().join("images")).map_or(0, Iterator::count), 0);
    }
}

#[test]
fn a_trajectory_that_is_not_finite_is_damaged() {
    let (_home, store) = home();
    let wrong = |shape: &[usize]| {
        let mut values = vec![0.5; shape.iter().product()];
        values[1] = f32::NAN;
        HostTensor::from_f32(shape.to_vec(), values)
    };
    let mut recording = store.begin(key("a"), None, "", &[], STEPS).unwrap();
    recording.set_latents(&wrong(&[STEPS + 1, 1, 4, 4]));
    recording.set_drift(&wrong(&[STEPS, 1, 4, 4]));
    recording.set_norms(&wrong(&[6]));
    recording.set_image(Vec::new());
    let entry = recording.commit().unwrap();
    let found = [
        entry.latents().map(drop),
        entry.drift().map(drop),
        entry.norms().map(drop),
    ];
    for (result, file) in found.into_iter().zip(["latents.bin", "drift.bin", "norms.bin"]) {
        match result {
            Err(CacheError::Damaged { reason, .. }) => {
                assert_eq!(reason, format!("{file} holds values that are not finite"));
            }
            other => panic!("{file}: {other:?}"),
        }
    }
}

#[test]
fn the_nearest_prompt_of_the_same_settings_is_found() {
    let (_home, store) = home();
    let base = record(&store, "a dog on grass", None).unwrap().id().to_owned();
    let edit = record(&store, "a cat on grass", Some(&base)).unwrap().id().to_owned();
    record(&store, "two houses under a red sky", None).unwrap();
    let nearest = |key: &ImageKey| {
        let found = store.find_nearest(key).unwrap();
        found.map(|image| (image.manifest.id, image.distance))
    };
    assert_eq!(nearest(&key("a cat on wet grass")), Some((edit, 1)));
    assert_eq!(
        nearest(&key("a fox on grass")),
        Some((base, 1)),
        "a first image goes before an edit"
    );
    assert_eq!(nearest(&key("something else entirely")), None);
    let other_seed = ImageKey {
        seed: 8,
        ..key("a cat on grass")
    };
    assert_eq!(nearest(&other_seed), None);
}

#[test]
fn images_are_listed_found_by_prefix_and_removed() {
    let (_home, store) = home();
    let id = record(&store, "a dog", None).unwrap().id().to_owned();
    assert_eq!(store.list().unwrap().images[0].key.prompt, "a dog");
    assert_eq!(store.get(&id[..5]).unwrap().id(), id);
    assert!(store.find(&key("a dog"), None, "").unwrap().is_some());
    assert!(store.find(&key("a cat"), None, "").unwrap().is_none());
    store.remove(&id).unwrap();
    assert!(matches!(store.get(&id), Err(CacheError::Unknown(_))));
    assert!(matches!(store.remove("../../etc"), Err(CacheError::Unknown(_))));
}

#[test]
fn images_in_use_are_never_removed() {
    let (_home, store) = home();
    let held = record(&store, "a dog", None).unwrap();
    let other = record(&store, "a cat", None).unwrap().id().to_owned();
    assert!(matches!(store.remove(held.id()), Err(CacheError::InUse(_))));
    let pruned = store.prune(0).unwrap();
    assert_eq!(
        pruned.removed.iter().map(|image| &image.id).collect::<Vec<_>>(),
        [&other]
    );
    check(&held);
    let id = held.id().to_owned();
    drop(held);
    store.remove(&id).unwrap();
}

#[test]
fn the_size_cap_makes_room_before_an_image_is_recorded() {
    let (_home, store) = home();
    let first = record(&store, "a dog", None).unwrap();
    let bytes = first.manifest().bytes();
    drop(first);
    let store = store.with_limit(bytes + bytes / 2);
    record(&store, "a cat", None).unwrap();
    let prompts: Vec<String> = store
        .list()
        .unwrap()
        .images
        .into_iter()
        .map(|image| image.key.prompt)
        .collect();
    assert_eq!(prompts, ["a cat"]);
    let small = store.with_limit(10);
    assert!(matches!(
        record(&small, "a fox", None),
        Err(CacheError::TooLarge { .. })
    ));
}

#[test]
fn recording_again_replaces_the_entry() {
    let (_home, store) = home();
    drop(record(&store, "a dog", None).unwrap());
    check(&record(&store, "a dog", None).unwrap());
    assert_eq!(fs::read_dir(store.folder()).unwrap().count(), 1);
}

/// Opens the entry and reads all of it.
fn read_all(store: &Store, id: &str) -> Result<(), String> {
    let entry = store.get(id).map_err(|error| error.to_string())?;
    for step in 0..STEPS {
        entry.slot(step, SlotId(0)).map_err(|error| error.to_string())?;
    }
    entry.latents().map_err(|error| error.to_string())?;
    entry.image().map_err(|error| error.to_string())?;
    entry.mask().map_err(|error| error.to_string())?;
    entry.norms().map_err(|error| error.to_string())?;
    Ok(())
}

#[test]
fn missing_files_are_reported() {
    let (_home, store) = home();
    let id = record(&store, "a dog", None).unwrap().id().to_owned();
    for file in files_of(&store, &id) {
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let error = read_all(&store, &id).unwrap_err();
        assert!(error.contains("damaged"), "{}: {error}", file.display());
        fs::write(&file, bytes).unwrap();
    }
    read_all(&store, &id).unwrap();
}

/// Another file under a name: threads that read ahead may still have the old one mapped.
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn every_flipped_bit_and_truncation_is_reported() {
    let (_home, store) = home();
    let id = record(&store, "a dog", None).unwrap().id().to_owned();
    let mut files = files_of(&store, &id);
    files.retain(|file| !is_lock(file));
    proptest!(ProptestConfig::with_cases(300), |(
        file in 0..files.len(), position: prop::sample::Index, bit in 0..8u8, cut: bool
    )| {
        let path = &files[file];
        let bytes = fs::read(path).unwrap();
        let at = position.index(bytes.len());
        let mut damaged = bytes.clone();
        match cut {
            true => damaged.truncate(at),
            false => damaged[at] ^= 1 << bit,
        }
        replace(path, &damaged);
        let read = read_all(&store, &id);
        replace(path, &bytes);
        prop_assert!(read.is_err(), "{} byte {at}", path.display());
    });
    read_all(&store, &id).unwrap();
}

#[test]
fn a_damaged_manifest_is_no_base_and_can_be_removed() {
    let (_home, store) = home();
    let id = record(&store, "a dog", None).unwrap().id().to_owned();
    fs::write(store.folder().join(&id).join("manifest.json"), "{}").unwrap();
    assert!(store.find_nearest(&key("a dog")).unwrap().is_none());
    assert_eq!(store.list().unwrap().damaged[0].id, id);
    store.remove(&id).unwrap();
    assert_eq!(fs::read_dir(store.folder()).unwrap().count(), 0);
}

fn is_lock(file: &Path) -> bool {
    file.ends_with("lock")
}

/// The slots with cross-attention maps of two heads, four queries and seven tokens behind them.
fn slots_with_maps() -> Vec<Slot> {
    let mut slots = slots();
    slots.push(Slot {
        name: "maps".into(),
        kind: SlotKind::Maps { level: 1 },
        dtype: DType::F16,
        bytes: 2 * 4 * 7 * 2,
        shape: [2, 4, 7].into(),
    });
    slots
}

fn maps(step: usize) -> HostTensor {
    HostTensor::from_f32([2, 4, 7], (0..56).map(|i| (i + step) as f32 / 64.0).collect())
}

#[test]
fn maps_are_kept_of_the_first_calls_and_of_the_prompt_only() {
    let (_home, store) = home();
    let kept = Kept {
        calls: STEPS,
        map_calls: 2,
        tokens: 3,
    };
    let mut recording = store.begin(key("a dog"), None, "", &slots_with_maps(), kept).unwrap();
    let wanted: Vec<bool> = (0..STEPS).map(|step| recording.wants(step, SlotId(3))).collect();
    assert_eq!(wanted, [true, true, false]);
    for step in 0..STEPS {
        recording.put(step, SlotId(3), maps(step)).unwrap();
        (0..3).for_each(|slot| recording.put(step, SlotId(slot as u32), value(step, slot)).unwrap());
    }
    recording.set_latents(&HostTensor::from_f32([STEPS + 1, 1, 4, 4], vec![0.0; 64]));
    recording.set_image(b"an image".to_vec());
    let entry = recording.commit().unwrap();
    assert_eq!(entry.map_calls(), 2);
    entry.verify().unwrap();
    for step in 0..2 {
        let found = entry.slot(step, SlotId(3)).unwrap();
        let cut: Vec<f32> = maps(step)
            .to_f32_vec()
            .chunks(7)
            .flat_map(|row| row[..3].to_vec())
            .collect();
        assert_eq!((found.shape().dims(), found.to_f32_vec()), (&[2, 4, 3][..], cut));
    }
    assert!(matches!(
        entry.slot(2, SlotId(3)),
        Err(RuntimeError::MissingSlot { step: 2, .. })
    ));
    let size = |name: &str| fs::metadata(store.folder().join(entry.id()).join(name)).unwrap().len();
    let of_steps: u64 = slots().iter().map(|slot| slot.bytes).sum();
    assert_eq!((size("step-000.bin"), size("maps-001.bin")), (of_steps, 2 * 4 * 3 * 2));
}

#[test]
fn an_image_that_was_sparse_early_has_maps_of_its_dense_calls() {
    let (_home, store) = home();
    let kept = Kept {
        calls: STEPS,
        map_calls: STEPS,
        tokens: 7,
    };
    let mut recording = store.begin(key("a cat"), None, "", &slots_with_maps(), kept).unwrap();
    for step in 0..STEPS {
        (0..3).for_each(|slot| recording.put(step, SlotId(slot as u32), value(step, slot)).unwrap());
    }
    recording.put(0, SlotId(3), maps(0)).unwrap();
    recording.put(2, SlotId(3), maps(2)).unwrap();
    recording.set_latents(&HostTensor::from_f32([STEPS + 1, 1, 4, 4], vec![0.0; 64]));
    recording.set_image(b"an image".to_vec());
    assert_eq!(
        recording.commit().unwrap().map_calls(),
        1,
        "up to the first call without"
    );
}
