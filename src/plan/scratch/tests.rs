//! Publication, with a crash before every step, and whose folders are left over.

use super::*;

/// The file system, until the process is killed before one of its steps.
struct Mortal {
    exchanges: bool,
    /// steps until the end
    left: usize,
}

impl Mortal {
    fn live(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::ConnectionAborted)?;
        Ok(())
    }
}

impl Names for Mortal {
    fn exchange(&mut self, one: &Path, other: &Path) -> io::Result<bool> {
        self.live()?;
        match self.exchanges {
            true => System.exchange(one, other),
            false => Ok(false),
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.live()?;
        System.rename(from, to)
    }
}

impl ScratchFolder {
    /// What remains of the folder when its process is killed: the lock is free, nothing is removed.
    fn abandon(mut self) {
        alive().remove(&self.place);
        let lock = File::open("/dev/null").or_else(|_| File::open(".")).unwrap();
        self._owner = Owner::of(lock);
        std::mem::forget(self);
    }
}

fn version(folder: &Path, text: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("a"), text).unwrap();
    fs::write(folder.join("b"), text).unwrap();
}

fn read(folder: &Path) -> Option<String> {
    let [a, b] = ["a", "b"].map(|file| fs::read_to_string(folder.join(file)).ok());
    assert_eq!(a, b, "whole or not at all");
    a
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn dropped_folders_leave_nothing() {
    let home = tempfile::tempdir().unwrap();
    let folder = ScratchFolder::beside(&home.path().join("a/plan")).unwrap();
    fs::write(folder.path().join("x"), "y").unwrap();
    folder.sync().unwrap();
    drop(folder);
    assert_eq!(names_in(&home.path().join("a")), [""; 0]);
}

#[test]
fn publishing_replaces_what_was_there() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("plan");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("old"), "").unwrap();
    let folder = ScratchFolder::beside(&target).unwrap();
    fs::write(folder.path().join("new"), "").unwrap();
    folder.publish(&target).unwrap();
    assert_eq!(names_in(&target), ["new"]);
    assert_eq!(names_in(home.path()), ["plan"]);
}

/// Every crash point of a publication, over a name that is free and one that is taken, with and without exchange.
#[test]
fn a_kill_before_any_step_leaves_one_whole_version() {
    for (exchanges, is_taken) in [(true, true), (true, false), (false, true), (false, false)] {
        for left in 0.. {
            let home = tempfile::tempdir().unwrap();
            let target = home.path().join("plan");
            if is_taken {
                version(&target, "old");
            }
            let folder = ScratchFolder::beside(&target).unwrap();
            version(folder.path(), "new");
            let mut names = Mortal { exchanges, left };
            let published = folder.publish_by(&target, &mut names);
            folder.abandon();
            let case = format!("exchange {exchanges}, taken {is_taken}, killed after {left}: {published:?}");
            if exchanges && is_taken {
                assert!(target.exists(), "{case}: never without the name");
            }
            let bytes: u64 = list_scratch(home.path()).unwrap().iter().map(|left| left.bytes).sum();
            let shown = read(&target).map_or(0, |text| 2 * text.len() as u64);
            assert_eq!(bytes + shown, bytes_on_disk(home.path()), "{case}: all of it is listed");
            let removed = remove_leftovers(home.path()).unwrap();
            assert_eq!(removed.len(), 1, "{case}");
            let expected = match (published.is_ok(), is_taken) {
                (true, _) => Some("new"),
                (false, true) => Some("old"),
                (false, false) => None,
            };
            assert_eq!(read(&target).as_deref(), expected, "{case}");
            assert_eq!(names_in(home.path()).len(), usize::from(expected.is_some()), "{case}");
            if published.is_ok() {
                assert_eq!(left, if exchanges || !is_taken { 1 } else { 3 });
                break;
            }
        }
    }
}

#[test]
fn what_stands_aside_is_put_back_and_nothing_else_is_touched() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("plan");
    version(&target, "old");
    let folder = ScratchFolder::beside(&target).unwrap();
    version(folder.path(), "new");
    let mut names = Mortal {
        exchanges: false,
        left: 2,
    };
    folder.publish_by(&target, &mut names).unwrap_err();
    restore_replaced(home.path());
    assert_eq!(read(&target), None, "its process runs");
    folder.abandon();
    restore_replaced(home.path());
    assert_eq!(read(&target).as_deref(), Some("old"));
    let left = list_scratch(home.path()).unwrap();
    assert_eq!((left.len(), left[0].is_alive), (1, false));
}

#[test]
fn a_move_that_fails_leaves_the_old_version() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("plan");
    version(&target, "old");
    let folder = ScratchFolder::beside(&target).unwrap();
    fs::remove_dir(folder.path()).unwrap();
    let mut names = Mortal {
        exchanges: false,
        left: usize::MAX,
    };
    folder.publish_by(&target, &mut names).unwrap_err();
    drop(folder);
    assert_eq!(read(&target).as_deref(), Some("old"));
    assert_eq!(names_in(home.path()), ["plan"]);
}

#[test]
fn folders_of_the_living_are_never_removed() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("plan");
    let living = ScratchFolder::beside(&target).unwrap();
    version(living.path(), "new");
    let dead = ScratchFolder::beside(&home.path().join("other")).unwrap();
    dead.abandon();
    let states: Vec<bool> = list_scratch(home.path())
        .unwrap()
        .iter()
        .map(|left| left.is_alive)
        .collect();
    assert_eq!(states, [false, true]);
    assert_eq!(remove_leftovers(home.path()).unwrap().len(), 1);
    ScratchFolder::beside(&target).unwrap().abandon();
    ScratchFolder::beside(&target).unwrap();
    assert_eq!(list_scratch(home.path()).unwrap().len(), 1);
    living.publish(&target).unwrap();
    assert_eq!(read(&target).as_deref(), Some("new"));
}

#[test]
fn many_publish_under_one_name_at_once() {
    for exchanges in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("plan");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let target = &target;
                scope.spawn(move || {
                    for round in 0..20 {
                        let folder = ScratchFolder::beside(target).unwrap();
                        version(folder.path(), &format!("{thread} {round}"));
                        let left = usize::MAX;
                        folder.publish_by(target, &mut Mortal { exchanges, left }).unwrap();
                    }
                });
            }
        });
        assert!(read(&target).is_some());
        assert_eq!(names_in(home.path()), ["plan"]);
    }
}

#[test]
fn foreign_folders_of_similar_names_stay() {
    let home = tempfile::tempdir().unwrap();
    let foreign = [
        ".notes.tmp-0123456789abcdef",
        ".notes.tmp-77-1",
        ".x.tmp-abc",
        "a.tmp-1-1",
    ];
    for name in foreign {
        fs::create_dir(home.path().join(name)).unwrap();
        fs::write(home.path().join(name).join("letter.txt"), "dear").unwrap();
    }
    assert_eq!(list_scratch(home.path()).unwrap(), []);
    remove_leftovers(home.path()).unwrap();
    assert_eq!(names_in(home.path()).len(), foreign.len());
}

#[test]
fn folders_named_after_process_ids_are_left_over() {
    let home = tempfile::tempdir().unwrap();
    version(&home.path().join(".p.plan.tmp-12-0-old"), "old");
    fs::write(home.path().join(".p.plan.tmp-12-0-old/plan.json"), "").unwrap();
    fs::create_dir(home.path().join(".p.plan.tmp-12-0")).unwrap();
    fs::write(home.path().join(".p.plan.tmp-12-0/weights.bin"), "123").unwrap();
    let left = list_scratch(home.path()).unwrap();
    assert_eq!(left.iter().map(|left| left.bytes).collect::<Vec<_>>(), [3, 6]);
    remove_leftovers(home.path()).unwrap();
    assert_eq!(names_in(home.path()), ["p.plan"]);
    assert_eq!(names_in(&home.path().join("p.plan")), ["a", "b", "plan.json"]);
}

#[test]
fn long_names_fit() {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("ü".repeat(120));
    version(&target, "old");
    let folder = ScratchFolder::beside(&target).unwrap();
    version(folder.path(), "new");
    folder.publish(&target).unwrap();
    assert_eq!(read(&target).as_deref(), Some("new"));
}
