//! Ctrl-C where there are no signals.

use std::io;
use std::process::exit;
use std::sync::atomic::Ordering;

use super::{REQUESTED, request};

/// Number of SIGINT, from which the exit status is made everywhere.
const INTERRUPT: i32 = 2;

/// Watches for Ctrl-C in a thread of its own.
pub(super) fn watch() -> io::Result<()> {
    let on_interrupt = || match REQUESTED.compare_exchange(0, INTERRUPT, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => request(INTERRUPT),
        Err(_) => exit_now(super::SIGNALLED + INTERRUPT),
    };
    ctrlc::set_handler(on_interrupt).map_err(io::Error::other)
}

/// Ends the process.
pub(super) fn exit_now(status: i32) -> ! {
    exit(status)
}
