//! A signal ends a command in any phase with status 128 + its number; no unfinished file stays.
#![cfg(unix)]

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{DOG, Machine, json, plan};

/// The longest that a command may go on after a signal. Its own limit is a third of a second; machines are busy.
const AT_ONCE: Duration = Duration::from_secs(10);

const SIGNALS: [(&str, i32); 3] = [("INT", 130), ("TERM", 143), ("HUP", 129)];

fn send(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn wait_until(child: &mut Child, is_there: impl Fn() -> bool) {
    while !is_there() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the signal");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The exit status, which is there soon.
fn ended(child: &mut Child) -> i32 {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("it exits");
        }
        if started.elapsed() > AT_ONCE {
            child.kill().unwrap();
            panic!("it goes on after the signal");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A run that takes long enough, in its steps.
fn running(machine: &Machine, stderr: Stdio) -> Child {
    let mut command = machine.command(&["run", plan().to_str().unwrap(), "--prompt", DOG, "--steps", "900", "-o"]);
    let mut child = command
        .arg(machine.path("dog.png"))
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let images = machine.home().join("images");
    wait_until(&mut child, || {
        fs::read_dir(&images).is_ok_and(|mut images| images.next().is_some())
    });
    child
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn nothing_is_left(machine: &Machine) {
    assert!(!machine.path("dog.png").exists());
    assert_eq!(fs::read_dir(machine.home().join("images")).unwrap().count(), 0);
}

#[test]
fn each_signal_has_its_exit_status() {
    for (signal, status) in SIGNALS {
        let machine = Machine::new();
        let mut child = running(&machine, Stdio::piped());
        send(&child, signal);
        assert_eq!(ended(&mut child), status, "SIG{signal}");
        let text = said(&mut child);
        assert_eq!(text.matches("interrupted").count(), 1, "{text}");
        assert!(!text.contains("error"), "{text}");
        nothing_is_left(&machine);
    }
    json(&Machine::new().paint(DOG, "dog.png", &[]));
}

#[test]
fn a_dead_stderr_disarms_no_signal() {
    for (signal, status) in SIGNALS {
        let machine = Machine::new();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut child = running(&machine, writer.into());
        send(&child, signal);
        assert_eq!(ended(&mut child), status, "SIG{signal}");
        nothing_is_left(&machine);
    }
}

/// A reader that does not read fills the pipe; the last message then finds no room.
#[test]
fn a_stderr_that_nobody_reads_delays_no_signal() {
    let machine = Machine::new();
    let (_reader, mut writer) = io::pipe().unwrap();
    let filler = writer.try_clone().unwrap();
    thread::spawn(move || {
        let mut filler = filler;
        let _ = io::Write::write_all(&mut filler, &[b'x'; 1 << 22]);
    });
    thread::sleep(Duration::from_millis(200));
    let mut child = running(&machine, writer.try_clone().unwrap().into());
    let _ = &mut writer;
    send(&child, "TERM");
    assert_eq!(ended(&mut child), 143);
}

#[test]
fn more_signals_end_it_too() {
    for signals in [["INT", "INT"], ["TERM", "INT"], ["HUP", "HUP"], ["TERM", "HUP"]] {
        let machine = Machine::new();
        let mut child = running(&machine, Stdio::null());
        send(&child, signals[0]);
        thread::sleep(Duration::from_millis(150));
        if child.try_wait().unwrap().is_none() {
            send(&child, signals[1]);
        }
        let (_, status) = SIGNALS.into_iter().find(|(name, _)| *name == signals[0]).unwrap();
        assert_eq!(ended(&mut child), status, "{signals:?}: the first one counts");
        assert!(!machine.path("dog.png").exists());
    }
}

#[test]
fn ignored_signals_stay_ignored() {
    let machine = Machine::new();
    let script = "trap '' HUP INT; exec \"$0\" \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_fisec"), "run"])
        .arg(plan())
        .args(["--prompt", DOG, "--steps", "900", "-o"])
        .arg(machine.path("dog.png"))
        .env("FISEC_HOME", machine.home())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let images = machine.home().join("images");
    wait_until(&mut child, || {
        fs::read_dir(&images).is_ok_and(|mut images| images.next().is_some())
    });
    for signal in ["HUP", "INT"] {
        send(&child, signal);
    }
    thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none(), "as under nohup");
    send(&child, "TERM");
    assert_eq!(ended(&mut child), 143);
}

#[test]
fn other_commands_end_as_well() {
    let machine = Machine::new();
    let target = machine.path("p.plan");
    let compile = [
        "compile",
        "tests/data/nano-pipeline",
        "--size",
        "4096",
        "-o",
        target.to_str().unwrap(),
    ];
    let bench = ["bench", plan().to_str().unwrap(), "--runs", "1000000"];
    for arguments in [&compile[..], &bench] {
        let mut command = machine.command(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_millis(400));
        if child.try_wait().unwrap().is_some() {
            eprintln!("SKIPPED: {} was done already", arguments[0]);
            continue;
        }
        send(&child, "TERM");
        assert_eq!(ended(&mut child), 143, "{}", arguments[0]);
        let text = said(&mut child);
        assert_eq!(
            (text.matches("interrupted").count(), text.contains("stopped after")),
            (1, false),
            "{text}"
        );
    }
    let left = fs::read_dir(machine.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name != "home").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A pipe without a reader blocks the write of the picture, after the last step.
#[test]
fn a_blocked_write_ends_too() {
    let machine = Machine::new();
    let fifo = machine.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut command = machine.command(&["run", plan().to_str().unwrap(), "--prompt", DOG, "--steps", "2", "-o"]);
    let mut child = command
        .arg(&fifo)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_secs(3));
    assert!(child.try_wait().unwrap().is_none(), "it waits for a reader");
    send(&child, "INT");
    assert_eq!(ended(&mut child), 130);
}
