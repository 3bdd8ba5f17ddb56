//! Ctrl-C: unfinished files go, then the process does.

use std::io;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fisec_plan::remove_all_scratch;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Exit status of an interrupted process, by convention 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// How long a step may take to notice before the process ends regardless.
const PATIENCE: Duration = Duration::from_millis(300);

/// Watches for Ctrl-C from here on.
pub fn install() {
    let watched = ctrlc::set_handler(|| {
        REQUESTED.store(true, Ordering::SeqCst);
        std::thread::sleep(PATIENCE);
        remove_all_scratch();
        eprintln!("interrupted");
        exit(INTERRUPTED);
    });
    if let Err(error) = watched {
        eprintln!(
            "warning: Ctrl-C will leave temporary files behind: {}",
            io::Error::other(error)
        );
    }
}

/// Whether the user wants to stop.
pub fn is_requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
