//! Publication, with a crash before every step, and whose folders are left over.

use super::owner::LOCK;
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
    fs::create_dir(home.path().join(".p.plan.tmp-12-0-old")).unwrap();
    fs::write(home.path().join(".p.plan.tmp-12-0-old/graph.fir"), "123456").unwrap();
    fs::write(home.path().join(".p.plan.tmp-12-0-old/plan.json"), "").unwrap();
    fs::create_dir(home.path().join(".p.plan.tmp-12-0")).unwrap();
    fs::write(home.path().join(".p.plan.tmp-12-0/weights.bin"), "123").unwrap();
    let left = list_scratch(home.path()).unwrap();
    assert_eq!(left.iter().map(|left| left.bytes).collect::<Vec<_>>(), [3, 6]);
    remove_leftovers(home.path()).unwrap();
    assert_eq!(names_in(home.path()), ["p.plan"]);
    assert_eq!(names_in(&home.path().join("p.plan")), ["graph.fir", "plan.json"]);
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

#[cfg(unix)]
mod hostile {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder outside with something to lose.
    fn outside(name: &str) -> tempfile::TempDir {
        let outside = tempfile::tempdir().unwrap();
        version(&outside.path().join(name), "precious");
        fs::write(outside.path().join("weights.bin"), "precious").unwrap();
        outside
    }

    fn clean(folder: &Path) {
        assert_eq!(list_scratch(folder).unwrap(), []);
        restore_replaced(folder);
        remove_leftovers(folder).unwrap();
        for name in names_in(folder) {
            let _ = remove_leftover(&folder.join(name));
        }
    }

    #[test]
    fn a_link_named_like_a_scratch_folder_is_not_followed() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("weights.bin"), "precious").unwrap();
        let names = [".b.tmp-0123456789abcdef", ".b.tmp-12-3", ".b.tmp-12-3-old"];
        for name in names {
            symlink(outside.path(), home.path().join(name)).unwrap();
        }
        clean(home.path());
        assert_eq!(names_in(home.path()), names);
        assert_eq!(names_in(outside.path()), ["weights.bin"]);
        fs::write(outside.path().join("fisec.lock"), "").unwrap();
        fs::remove_file(outside.path().join("weights.bin")).unwrap();
        clean(home.path());
        assert_eq!(names_in(outside.path()), ["fisec.lock"]);
    }

    #[test]
    fn nothing_is_moved_out_of_a_folder_that_a_link_leads_to() {
        let (home, outside) = (tempfile::tempdir().unwrap(), outside("b"));
        let place = home.path().join(".b.tmp-0123456789abcdef");
        fs::create_dir(&place).unwrap();
        fs::write(place.join(LOCK), "").unwrap();
        symlink(outside.path(), place.join(OLD)).unwrap();
        clean(home.path());
        assert_eq!(names_in(outside.path()), ["b", "weights.bin"]);
        assert_eq!(names_in(home.path()), [".b.tmp-0123456789abcdef"]);
    }

    #[test]
    fn a_link_in_the_place_of_the_content_is_removed_as_a_link() {
        let (home, outside) = (tempfile::tempdir().unwrap(), outside("b"));
        let place = home.path().join(".b.tmp-0123456789abcdef");
        fs::create_dir(&place).unwrap();
        fs::write(place.join(LOCK), "").unwrap();
        symlink(outside.path(), place.join(NEW)).unwrap();
        assert_eq!(remove_leftovers(home.path()).unwrap().len(), 1);
        assert_eq!(names_in(outside.path()), ["b", "weights.bin"]);
        assert_eq!(names_in(home.path()), [""; 0]);
    }

    #[test]
    fn a_lock_that_is_no_file_makes_a_folder_foreign() {
        let home = tempfile::tempdir().unwrap();
        let names = [".b.tmp-0123456789abcdef", ".b.tmp-12-3", ".c.tmp-0123456789abcdef"];
        for name in names {
            fs::create_dir(home.path().join(name)).unwrap();
            let lock = home.path().join(name).join(LOCK);
            match name.starts_with(".b") {
                true => {
                    let made = std::process::Command::new("mkfifo").arg(lock).status().unwrap();
                    assert!(made.success());
                }
                false => symlink("/dev/null", lock).unwrap(),
            }
        }
        clean(home.path());
        drop(ScratchFolder::beside(&home.path().join("b")).unwrap());
        assert_eq!(names_in(home.path()), names);
    }
}

#[test]
fn only_what_has_the_name_of_the_target_is_put_back() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join(".b.tmp-0123456789abcdef");
    version(&place.join("old/b"), "old");
    version(&place.join("old/other"), "other");
    fs::write(place.join(LOCK), "").unwrap();
    restore_replaced(home.path());
    assert_eq!(read(&home.path().join("b")).as_deref(), Some("old"));
    restore_replaced(home.path());
    assert_eq!(names_in(home.path()), [".b.tmp-0123456789abcdef", "b"]);
}

#[test]
fn a_folder_with_one_file_of_another_hand_stays() {
    let home = tempfile::tempdir().unwrap();
    let foreign = [
        (".notes.tmp-1", "locksmith.txt"),
        (".notes.tmp-2", "plan.json"),
        (".notes.tmp-3", "step-by-step.txt"),
        (".notes.tmp-0123456789abcdef", LOCK),
    ];
    for (name, known) in foreign {
        fs::create_dir(home.path().join(name)).unwrap();
        fs::write(home.path().join(name).join(known), "").unwrap();
        fs::write(home.path().join(name).join("thesis.tex"), "chapter 1").unwrap();
    }
    fs::create_dir(home.path().join(".b.tmp-4")).unwrap();
    for known in ["step-000.bin", "maps-1000.bin", "lock"] {
        fs::write(home.path().join(".b.tmp-4").join(known), "").unwrap();
    }
    assert_eq!(remove_leftovers(home.path()).unwrap().len(), 1);
    for (name, _) in foreign {
        assert!(home.path().join(name).join("thesis.tex").exists(), "{name}");
    }
}
