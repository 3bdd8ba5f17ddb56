//! The store under random operations of several handles and threads: nothing is lost, sizes are true, the limit holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use fisec_plan::{Slot, SlotId, SlotKind, bytes_on_disk};
use fisec_runtime::SlotSink;
use fisec_runtime::cache::{CacheError, Entry, ImageKey, Listing, Manifest, Recording, Store};
use fisec_tensor::{DType, HostTensor};
use proptest::prelude::*;

const STEPS: usize = 2;

fn key(name: u8) -> ImageKey {
    ImageKey {
        plan: "abc".into(),
        prompt: format!("image {name}"),
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
    vec![Slot {
        name: "a".into(),
        kind: SlotKind::Stats,
        dtype: DType::F32,
        bytes: 1600,
        shape: [20, 20].into(),
    }]
}

fn begin(store: &Store, name: u8, parent: Option<&str>) -> Result<Recording, CacheError> {
    let mut recording = store.begin(key(name), parent, "", &slots(), STEPS)?;
    for step in 0..STEPS {
        let value = HostTensor::from_f32([20, 20], vec![f32::from(name); 400]);
        recording.put(step, SlotId(0), value).unwrap();
    }
    recording.set_latents(&HostTensor::from_f32([STEPS + 1, 1, 1, 1], vec![0.5; STEPS + 1]));
    recording.set_image(vec![name; 100 + usize::from(name)]);
    Ok(recording)
}

fn record(store: &Store, name: u8, parent: Option<&str>) -> Result<Entry, CacheError> {
    begin(store, name, parent)?.commit()
}

fn home() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(Some(home.path())).unwrap();
    (home, store)
}

/// Bytes of an image made here, about.
fn bytes_of_one() -> u64 {
    let (_home, store) = home();
    record(&store, 0, None).unwrap().manifest().bytes()
}

fn ids(listing: &Listing) -> BTreeSet<String> {
    listing.images.iter().map(|image| image.id.clone()).collect()
}

fn leave_behind(store: &Store, name: &str) {
    let folder = store.folder().join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("step-000.bin"), vec![1; 5000]).unwrap();
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[derive(Clone, Debug)]
enum Operation {
    Record(u8, bool),
    Hold(prop::sample::Index),
    Release(prop::sample::Index),
    Remove(prop::sample::Index),
    Prune(u64),
    Damage(prop::sample::Index),
    LeaveBehind,
    Limit(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0..12u8, any::<bool>()).prop_map(|(name, is_edit)| Operation::Record(name, is_edit)),
        2 => which().prop_map(Operation::Hold),
        2 => which().prop_map(Operation::Release),
        1 => which().prop_map(Operation::Remove),
        1 => (0..40_000u64).prop_map(Operation::Prune),
        1 => which().prop_map(Operation::Damage),
        1 => Just(Operation::LeaveBehind),
        1 => (8_000..40_000u64).prop_map(Operation::Limit),
    ]
}

/// What the store is known to hold.
struct Model {
    stores: Vec<Store>,
    images: BTreeSet<String>,
    held: BTreeMap<String, Entry>,
    damaged: BTreeSet<String>,
    limit: u64,
    made: usize,
}

impl Model {
    fn forget(&mut self, removed: &[Manifest], damaged: impl Iterator<Item = String>) {
        for image in removed {
            assert!(self.images.remove(&image.id), "{} was there", image.id);
            assert!(!self.held.contains_key(&image.id), "images in use stay");
        }
        damaged.for_each(|id| assert!(self.damaged.remove(&id), "{id} was damaged"));
    }

    fn evicted(&mut self, store: &Store) {
        let evicted = store.take_evicted();
        let damaged: Vec<String> = evicted.damaged.iter().map(|damaged| damaged.id.clone()).collect();
        if !evicted.removed.is_empty() {
            assert_eq!(damaged.len(), self.damaged.len(), "damaged images go first");
        }
        self.forget(&evicted.removed, damaged.into_iter());
    }

    fn nth(&self, index: prop::sample::Index) -> Option<String> {
        let images: Vec<&String> = self.images.iter().collect();
        (!images.is_empty()).then(|| (*index.get(&images)).clone())
    }

    fn apply(&mut self, operation: Operation) {
        self.made += 1;
        let store = self.stores[self.made % self.stores.len()]
            .clone()
            .with_limit(self.limit);
        match operation {
            Operation::Record(name, is_edit) => {
                let parent = self.held.keys().next().cloned().filter(|_| is_edit);
                match record(&store, name, parent.as_deref()) {
                    Ok(entry) => {
                        let id = entry.id().to_owned();
                        entry.verify().unwrap();
                        self.evicted(&store);
                        self.damaged.remove(&id);
                        self.images.insert(id);
                        drop(entry);
                        store.keep_to_limit().unwrap();
                        self.evicted(&store);
                    }
                    Err(CacheError::TooLarge { .. }) => self.evicted(&store),
                    Err(error) => panic!("{error}"),
                }
                let listing = store.list().unwrap();
                let all_held = listing.images.iter().all(|image| self.held.contains_key(&image.id));
                assert!(listing.bytes() <= self.limit || (all_held && listing.damaged.is_empty()));
            }
            Operation::Hold(index) => {
                if let Some(id) = self.nth(index) {
                    let entry = store.get(&id).unwrap();
                    self.held.insert(id, entry);
                }
            }
            Operation::Release(index) => {
                let ids: Vec<String> = self.held.keys().cloned().collect();
                if !ids.is_empty() {
                    self.held.remove(index.get(&ids));
                }
            }
            Operation::Remove(index) => {
                let Some(id) = self.nth(index) else { return };
                match store.remove(&id) {
                    Err(CacheError::InUse(_)) => assert!(self.held.contains_key(&id)),
                    removed => {
                        assert_eq!(removed.unwrap(), id);
                        self.forget(&[], std::iter::empty());
                        assert!(self.images.remove(&id) && !self.held.contains_key(&id));
                    }
                }
            }
            Operation::Prune(keep) => {
                let pruned = store.prune(keep).unwrap();
                let damaged: Vec<String> = pruned.damaged.iter().map(|damaged| damaged.id.clone()).collect();
                self.forget(&pruned.removed, damaged.into_iter());
                let listing = store.list().unwrap();
                assert_eq!((pruned.kept, listing.leftovers.len()), (listing.bytes(), 0));
                let all_held = listing.images.iter().all(|image| self.held.contains_key(&image.id));
                assert!(pruned.kept <= keep || (all_held && listing.damaged.is_empty()));
            }
            Operation::Damage(index) => {
                let Some(id) = self.nth(index) else { return };
                if !self.held.contains_key(&id) {
                    fs::write(store.folder().join(&id).join("manifest.json"), "{}").unwrap();
                    self.images.remove(&id);
                    self.damaged.insert(id);
                }
            }
            Operation::LeaveBehind => leave_behind(&store, &format!(".0123.tmp-{}-0", self.made)),
            Operation::Limit(limit) => self.limit = limit,
        }
    }

    fn check(&self) {
        let store = &self.stores[0];
        let listing = store.list().unwrap();
        assert_eq!(ids(&listing), self.images);
        let damaged: BTreeSet<String> = listing.damaged.iter().map(|damaged| damaged.id.clone()).collect();
        assert_eq!(damaged, self.damaged);
        assert_eq!(listing.bytes(), bytes_on_disk(store.folder()), "sizes are true");
        self.held.values().for_each(|entry| entry.verify().unwrap());
    }
}

#[test]
fn random_operations_lose_nothing() {
    proptest!(ProptestConfig::with_cases(32), |(operations in prop::collection::vec(operation(), 1..40))| {
        let home = tempfile::tempdir().unwrap();
        let open = || Store::open(Some(home.path())).unwrap();
        let mut model = Model {
            stores: vec![open(), open()],
            images: BTreeSet::new(),
            held: BTreeMap::new(),
            damaged: BTreeSet::new(),
            limit: 30_000,
            made: 0,
        };
        for operation in operations {
            model.apply(operation);
            model.check();
        }
        model.held.clear();
        let pruned = model.stores[1].prune(0).unwrap();
        prop_assert_eq!(pruned.kept, 0);
        prop_assert_eq!(names_in(model.stores[0].folder()), Vec::<String>::new());
    });
}

/// Threads with handles of their own, as processes have them: locks belong to open files, not to processes.
#[test]
fn threads_that_record_prune_and_list_at_once() {
    let home = tempfile::tempdir().unwrap();
    let limit = 4 * bytes_of_one() + 2000;
    let remembered = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (home, remembered) = (home.path(), &remembered);
            scope.spawn(move || {
                let store = Store::open(Some(home)).unwrap().with_limit(limit);
                for round in 0..12u8 {
                    let entry = record(&store, (thread * 5 + round * 3) % 9, None).unwrap();
                    entry.verify().unwrap();
                    // while it is held, an edit of it can begin however much the others prune
                    record(&store, 20 + thread, Some(entry.id())).unwrap().verify().unwrap();
                    drop(entry);
                    remembered.fetch_add(1, Ordering::Relaxed);
                    for image in store.list().unwrap().images {
                        match store.get(&image.id).map(|entry| entry.verify()) {
                            Ok(verified) => verified.unwrap(),
                            Err(error) => assert!(matches!(error, CacheError::Unknown(_)), "{error}"),
                        }
                    }
                    if round % 4 == 3 {
                        store.prune(limit / 2).unwrap();
                    }
                    store.keep_to_limit().unwrap();
                }
            });
        }
    });
    assert_eq!(remembered.into_inner(), 48);
    let store = Store::open(Some(home.path())).unwrap();
    let listing = store.list().unwrap();
    assert!(listing.bytes() <= limit, "{} of {limit}", listing.bytes());
    assert_eq!(
        (listing.damaged.len(), listing.leftovers.len(), listing.unfinished.len()),
        (0, 0, 0)
    );
    assert_eq!(bytes_on_disk(store.folder()), listing.bytes());
}

#[test]
fn prunes_that_meet_all_succeed() {
    let (home, store) = home();
    for round in 0..5 {
        for name in 0..12 {
            record(&store, name, None).unwrap();
        }
        let removed: usize = std::thread::scope(|scope| {
            let prune = || Store::open(Some(home.path())).unwrap().prune(0).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(prune)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap().removed.len())
                .sum()
        });
        assert_eq!(removed, 12, "round {round}: every image is removed once");
        assert_eq!(names_in(store.folder()).len(), 0);
    }
}

#[test]
fn an_image_in_use_that_is_made_again_is_the_same_image() {
    let (_home, store) = home();
    let held = record(&store, 1, None).unwrap();
    let again = record(&store, 1, None).unwrap();
    assert_eq!(
        again.manifest().created,
        held.manifest().created,
        "the one in use stays"
    );
    drop(again);
    fs::write(store.folder().join(held.id()).join("step-001.bin"), vec![9; 1600]).unwrap();
    let mended = record(&store, 1, None).unwrap();
    mended.verify().unwrap();
    assert_eq!(names_in(store.folder()).len(), 1);
}

#[test]
fn recordings_that_meet_under_one_name_both_succeed() {
    let (_home, store) = home();
    let (first, second) = (begin(&store, 1, None).unwrap(), begin(&store, 1, None).unwrap());
    let first = first.commit().unwrap();
    let second = second.commit().unwrap();
    assert_eq!(first.id(), second.id());
    first.verify().unwrap();
    second.verify().unwrap();
}

#[test]
fn the_limit_holds_however_many_record_at_once() {
    let (_home, store) = home();
    let store = store.with_limit(2 * bytes_of_one() + 2000);
    let recordings: Vec<Recording> = (0..4).map(|name| begin(&store, name, None).unwrap()).collect();
    let entries: Vec<Entry> = recordings
        .into_iter()
        .map(|recording| recording.commit().unwrap())
        .collect();
    assert_eq!(store.list().unwrap().images.len(), 4, "all are in use");
    drop(entries);
    store.keep_to_limit().unwrap();
    assert!(bytes_on_disk(store.folder()) <= store.limit());
    assert_eq!(store.take_evicted().removed.len(), 2);
}

#[test]
fn ancestors_of_an_image_that_is_edited_go_last() {
    let (_home, store) = home();
    let first = record(&store, 1, None).unwrap().id().to_owned();
    let second = record(&store, 2, Some(&first)).unwrap().id().to_owned();
    let others: Vec<String> = (3..6)
        .map(|name| record(&store, name, None).unwrap().id().to_owned())
        .collect();
    let third = record(&store, 6, Some(&second)).unwrap();
    let one = third.manifest().bytes();
    let pruned = store.prune(3 * one + 500).unwrap();
    let mut removed: Vec<String> = pruned.removed.into_iter().map(|image| image.id).collect();
    removed.sort();
    let mut expected = others;
    expected.sort();
    assert_eq!(
        removed, expected,
        "another image is taken before the first of the chain"
    );
    let removed = store.prune(0).unwrap().removed;
    assert_eq!(removed.len(), 2, "in the end they go");
}

#[test]
fn whatever_is_listed_can_be_removed_and_is_counted() {
    let (_home, store) = home();
    let kept = record(&store, 1, None).unwrap().id().to_owned();
    let copy = |name: &str| {
        let (from, to) = (store.folder().join(&kept), store.folder().join(name));
        fs::create_dir(&to).unwrap();
        for file in names_in(&from) {
            fs::copy(from.join(&file), to.join(&file)).unwrap();
        }
        to
    };
    copy("a copy-of it");
    fs::remove_file(copy("0123456789ab").join("manifest.json")).unwrap();
    let manifest = copy("00000000000f").join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen("\"format\": 2", "\"format\": 1", 1)).unwrap();
    let short = record(&store, 2, None).unwrap().id().to_owned();
    fs::write(store.folder().join(&short).join("step-001.bin"), "short").unwrap();
    fs::write(store.folder().join("0000000000bb"), "a file").unwrap();
    leave_behind(&store, ".0123.tmp-77-0");
    leave_behind(&store, ".0123.removed-77");
    fs::create_dir(store.folder().join("holiday")).unwrap();
    fs::write(store.folder().join("holiday/sea.jpg"), vec![0; 9000]).unwrap();

    let listing = store.list().unwrap();
    let reasons: Vec<&str> = listing.damaged.iter().map(|damaged| damaged.reason.as_str()).collect();
    assert_eq!(listing.images.len(), 1);
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    assert!(
        reasons.iter().any(|reason| reason.contains("format 1 instead of 2")),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.contains("step-001.bin")),
        "{reasons:?}"
    );
    assert_eq!((listing.leftovers.len(), listing.foreign.len()), (2, 1));
    assert_eq!(listing.bytes() + 9000, bytes_on_disk(store.folder()));

    let pruned = store.prune(listing.images[0].bytes()).unwrap();
    assert_eq!(
        (pruned.damaged.len(), pruned.leftovers.len(), pruned.removed.len()),
        (5, 2, 0)
    );
    assert_eq!(pruned.kept, listing.images[0].bytes());
    assert_eq!(bytes_on_disk(store.folder()), pruned.kept + 9000);

    copy("odd, name!");
    leave_behind(&store, ".0123.tmp-78-0");
    for name in ["odd, name!", ".0123.tmp-78-0", "holiday"] {
        assert_eq!(store.remove(name).unwrap(), name);
    }
    for unknown in ["", ".", "..", "../images", "holi"] {
        assert!(
            matches!(store.remove(unknown), Err(CacheError::Unknown(_))),
            "{unknown}"
        );
    }
    assert_eq!(names_in(store.folder()), [kept]);
}

#[test]
fn recordings_of_the_living_are_no_leftovers() {
    let (_home, store) = home();
    let recording = begin(&store, 1, None).unwrap();
    let listing = store.list().unwrap();
    assert_eq!((listing.unfinished.len(), listing.leftovers.len()), (1, 0));
    let name = listing.unfinished[0].name.clone();
    assert!(matches!(store.remove(&name), Err(CacheError::InUse(_))));
    store.prune(0).unwrap();
    recording.commit().unwrap().verify().unwrap();
}

/// Prints how long listing and pruning take with 200 images: `cargo test -p fisec-runtime --test store -- --ignored
/// --nocapture two_hundred`.
#[test]
#[ignore = "slow: cargo xtask nightly"]
fn two_hundred_images_are_listed_and_pruned_quickly() {
    let (_home, store) = home();
    for name in 0..200 {
        record(&store, name, None).unwrap();
    }
    let started = std::time::Instant::now();
    assert_eq!(store.list().unwrap().images.len(), 200);
    let listed = started.elapsed();
    let started = std::time::Instant::now();
    assert_eq!(store.prune(0).unwrap().removed.len(), 200);
    let pruned = started.elapsed();
    println!("200 images: listed in {listed:?}, pruned in {pruned:?}");
    assert!(
        listed.as_secs_f64() < 2.0 && pruned.as_secs_f64() < 5.0,
        "{listed:?} {pruned:?}"
    );
}

#[cfg(unix)]
#[test]
fn hidden_things_that_fisec_did_not_make_are_listed_and_only_removed_by_name() {
    let (home, store) = home();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("step-000.bin"), "precious").unwrap();
    let at = |name: &str| store.folder().join(name);
    std::os::unix::fs::symlink(outside.path(), at(".b.tmp-12-3")).unwrap();
    fs::create_dir(at(".notes.tmp-1")).unwrap();
    fs::write(at(".notes.tmp-1").join("step-000.bin"), "mine").unwrap();
    fs::write(at(".notes.tmp-1").join("thesis.tex"), "mine").unwrap();
    fs::write(at(".settings"), "mine").unwrap();
    leave_behind(&store, ".0123.tmp-77-0");

    let names = [".b.tmp-12-3", ".notes.tmp-1", ".settings"];
    let foreign = |listing: Listing| listing.foreign.into_iter().map(|other| other.id).collect::<Vec<_>>();
    assert_eq!(store.list().unwrap().leftovers.len(), 1);
    assert_eq!(foreign(store.list().unwrap()), names);
    assert_eq!(store.prune(0).unwrap().leftovers.len(), 1);
    assert_eq!(foreign(Store::open(Some(home.path())).unwrap().list().unwrap()), names);
    assert!(matches!(store.remove(".note"), Err(CacheError::Unknown(_))));
    for name in names {
        assert_eq!(store.remove(name).unwrap(), name);
    }
    assert_eq!(names_in(store.folder()), [""; 0]);
    assert_eq!(names_in(outside.path()), ["step-000.bin"]);
}

#[cfg(unix)]
#[test]
fn locks_are_files_and_no_links_are_followed() {
    let (home, store) = home();
    let target = home.path().join("target");
    std::os::unix::fs::symlink(&target, home.path().join("images.lock")).unwrap();
    let id = record(&store, 1, None).unwrap().id().to_owned();
    assert!(!target.exists(), "nothing is made where a link leads");
    fs::remove_file(home.path().join("images.lock")).unwrap();
    let lock = store.folder().join(&id).join("lock");
    fs::remove_file(&lock).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&lock).status().unwrap();
    assert!(made.success());
    assert!(store.get(&id).is_err());
    assert_eq!(store.remove(&id).unwrap(), id);
}
