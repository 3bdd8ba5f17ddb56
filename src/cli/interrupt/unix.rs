//! Signals on Unix.

use std::io;
use std::mem::MaybeUninit;
use std::panic::catch_unwind;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use libc::c_int;
use signal_hook::consts::{SIGABRT, SIGHUP, SIGINT, SIGTERM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use super::{REQUESTED, SIGNALLED, remove_unfinished, request};
use crate::cli::internal;

/// A wrapper that passes Ctrl-C on to a process that got it as well sends the second one within this time.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// How long the thread that aborts waits for the one that says why.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

/// Watches for signals in a thread of its own, which takes them once it is there: without it they act as always.
pub(super) fn watch() -> io::Result<()> {
    let (started, waiting) = mpsc::channel();
    let spawned = thread::Builder::new()
        .name("signals".into())
        .spawn(move || match taken() {
            Ok(signals) => {
                let _ = started.send(Ok(()));
                serve(signals);
            }
            Err(error) => drop(started.send(Err(error))),
        });
    if let Err(error) = spawned {
        at_abort(Duration::ZERO)?;
        return Err(error);
    }
    waiting.recv().map_err(io::Error::other)?
}

/// Ends the process at once: ONNX Runtime's threads may still be at work, so nothing is torn down.
pub(super) fn exit_now(status: i32) -> ! {
    low_level::exit(status)
}

/// The signals that end the process, but for those that its parent made it ignore, as `nohup` does.
fn taken() -> io::Result<Signals> {
    // A write beyond `ulimit -f` becomes an error of that write instead of the end of the process.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let ending = [SIGINT, SIGTERM, SIGHUP, SIGXCPU]
        .into_iter()
        .filter(|signal| !is_ignored(*signal));
    let signals = Signals::new(ending.chain([SIGABRT]))?;
    at_abort(ABORT_PATIENCE)?;
    Ok(signals)
}

fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action the call only writes the present one to a place of the right type.
    let action = unsafe {
        if libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// `abort` ends the process when the handler returns; the thread that watches signals, where there is one, gets `patience`
/// to remove files and to say why.
fn at_abort(patience: Duration) -> io::Result<()> {
    let end = move || {
        thread::sleep(patience);
        if let Some(text) = internal::unsaid() {
            write_at_once(text);
        }
        low_level::exit(internal::aborted_status().into())
    };
    // SAFETY: the action sleeps, reads numbers, polls, writes and exits: it takes no lock and allocates nothing.
    unsafe { low_level::register(SIGABRT, end) }.map(drop)
}

/// Writes to stderr unless that would wait.
fn write_at_once(text: &str) {
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: both calls get a pointer with the length of what it points to.
    unsafe {
        if libc::poll(&raw mut stderr, 1, 0) == 1 && stderr.revents & libc::POLLOUT != 0 {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        }
    }
}

fn serve(mut signals: Signals) {
    let mut first: Option<Instant> = None;
    for signal in signals.forever() {
        // A panic must not leave the process without anyone who ends it.
        if catch_unwind(|| take(signal, first)).is_err() {
            exit_now(SIGNALLED + signal);
        }
        first.get_or_insert_with(Instant::now);
    }
}

/// The first signal asks; a second one that is no hangup ends the process at once.
fn take(signal: c_int, first: Option<Instant>) {
    if signal == SIGABRT {
        internal::release();
        remove_unfinished();
        internal::say_aborted();
        exit_now(internal::aborted_status().into());
    }
    match REQUESTED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => request(signal),
        Err(_) if signal == SIGHUP || first.is_some_and(|first| first.elapsed() < SAME_REQUEST) => {}
        Err(earlier) => exit_now(SIGNALLED + earlier),
    }
}
