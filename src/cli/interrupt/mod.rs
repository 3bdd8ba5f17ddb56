//! Ctrl-C and the signals that end a process: unfinished files go, then the process does.
//!
//! One thread waits for signals. It ends the process although the rest is inside ONNX Runtime or waits for a file, and
//! although stderr cannot be written.

#[cfg(not(unix))]
mod elsewhere;
#[cfg(unix)]
mod unix;

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fisec_plan::remove_all_scratch;

use super::console;
use super::output;

#[cfg(not(unix))]
use elsewhere as platform;
#[cfg(unix)]
use unix as platform;

/// The first signal that asked the process to end; 0 while there is none.
static REQUESTED: AtomicI32 = AtomicI32::new(0);

/// Whether the user was told.
static SAID: AtomicBool = AtomicBool::new(false);

/// How long a step may take to notice before the process ends regardless.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long stderr may take to accept the last message.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Added to a signal's number for the exit status, by convention.
const SIGNALLED: i32 = 128;

/// Watches for signals from here on.
pub fn install() {
    if let Err(error) = platform::watch() {
        console::fail(&format!("warning: Ctrl-C will leave temporary files behind: {error}"));
    }
}

/// Whether the user wants to stop.
pub fn is_requested() -> bool {
    REQUESTED.load(Ordering::SeqCst) != 0
}

/// The exit status of a process that was asked to end, and a word to the user; `None` when it was not asked.
pub fn farewell() -> Option<u8> {
    let signal = REQUESTED.load(Ordering::SeqCst);
    if signal == 0 {
        return None;
    }
    say_so();
    Some((SIGNALLED + signal) as u8)
}

/// Takes the first request to end: work that looks at [`is_requested`] has [`PATIENCE`] to end by itself.
fn request(signal: i32) {
    // Without a thread for it this one waits; a second signal then acts a little later.
    let end = thread::Builder::new().name("end".into());
    if end.spawn(move || -> () { end_soon(signal) }).is_err() {
        end_soon(signal);
    }
}

fn end_soon(signal: i32) -> ! {
    thread::sleep(PATIENCE);
    remove_unfinished();
    say_so();
    platform::exit_now(SIGNALLED + signal)
}

/// Removes every file and folder of this process that is not complete.
fn remove_unfinished() {
    output::remove_scratch();
    remove_all_scratch();
}

/// Says once that the work was interrupted. A reader of stderr that does not read delays the end by [`LAST_WORD`] at most.
fn say_so() {
    if SAID.swap(true, Ordering::SeqCst) {
        return;
    }
    let (said, heard) = mpsc::channel();
    let say = move || {
        console::fail(&"interrupted");
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(say).is_ok() {
        let _ = heard.recv_timeout(LAST_WORD);
    }
}
