//! What is opened, and what is refused without waiting for it.
#![cfg(unix)]

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use fisec_files::{Kind, Refused, open, read, read_text, refused};

fn fifo(path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is a valid C string for the duration of the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

fn kind(path: &Path) -> Kind {
    let error = open(path).unwrap_err();
    match refused(&error) {
        Some(Refused::NotAFile(kind)) => kind,
        other => panic!("{error}: {other:?}"),
    }
}

#[test]
fn files_and_links_to_files_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "words").unwrap();
    symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let mut text = String::new();
        open(path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), read_text(path).unwrap().as_str()), ("words", "words"));
    }
}

#[test]
fn pipes_devices_sockets_and_folders_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fifo(&at("pipe"));
    symlink(at("pipe"), at("link")).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    assert_eq!(kind(&at("pipe")), Kind::NamedPipe);
    assert_eq!(kind(&at("link")), Kind::NamedPipe);
    assert_eq!(kind(&at("socket")), Kind::Socket);
    assert_eq!(kind(Path::new("/dev/zero")), Kind::Device);
    assert_eq!(kind(folder.path()), Kind::Folder);
    let error = read(&at("pipe"), 10).unwrap_err();
    assert_eq!(error.to_string(), "it is a named pipe, not a file");
    assert!(refused(&error).unwrap().hint().starts_with("give a regular file"));
}

#[test]
fn nothing_larger_than_asked_for_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = read(&path, 1 << 20).unwrap_err();
    let expected = Refused::TooLarge {
        bytes: 1 << 40,
        most: 1 << 20,
    };
    assert_eq!(refused(&error), Some(expected));
    file.set_len(3).unwrap();
    assert_eq!(read(&path, 3).unwrap(), [0, 0, 0]);
    assert!(read(&path, 2).is_err());
}

#[test]
fn other_errors_stay_what_they_are() {
    let error = open(Path::new("/nowhere/at/all")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(refused(&error).is_none());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(read_text(&path).unwrap_err().to_string(), "it is not UTF-8 text");
}
