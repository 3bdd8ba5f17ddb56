//! Defects of fisec itself, and memory that the system refuses: one error instead of a trace.

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::failure::Failure;
use super::{console, units};

/// Exit status after a defect, as of every Rust program.
pub const STATUS: u8 = 101;

/// Exit status when the system refuses memory or threads: an error like any other.
const REFUSAL: u8 = 1;

/// What the standard library says where it cannot start a thread.
const NO_THREAD: &str = "failed to spawn thread";

/// The bytes that the system refused last.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// Room to end in good order when the system gives none.
static RESERVE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Bytes of it: paths, a message, a thread's first allocations.
const RESERVED: usize = 1 << 20;

/// Whether an error was shown: a command has one.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// The system's allocator, which notes what it could not give.
pub struct Memory;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        noted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        noted(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        noted(unsafe { System.realloc(pointer, layout, size) }, size)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn noted(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() {
        REFUSED.store(size, Ordering::SeqCst);
    }
    pointer
}

/// Runs a command. A panic in it is shown as one error and returned as the exit status.
pub fn guarded<T>(command: impl FnOnce() -> T) -> Result<T, u8> {
    panic::set_hook(Box::new(show));
    panic::catch_unwind(AssertUnwindSafe(command)).map_err(|payload| match is_refusal(&*payload) {
        true => REFUSAL,
        false => STATUS,
    })
}

/// Sets memory aside, where there is some.
pub fn reserve() {
    if let Ok(mut reserve) = RESERVE.try_lock() {
        let _ = reserve.try_reserve_exact(RESERVED);
    }
}

/// Gives back what was set aside.
pub fn release() {
    if let Ok(mut reserve) = RESERVE.try_lock() {
        *reserve = Vec::new();
    }
}

/// The exit status of a process that is aborted, or in which a thread was.
pub fn aborted_status() -> u8 {
    match REFUSED.load(Ordering::SeqCst) {
        0 => STATUS,
        _ => REFUSAL,
    }
}

/// What is to be said of an abort when nothing could be laid out for it, without memory; `None` when it was said.
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix can catch it"))]
pub fn unsaid() -> Option<&'static str> {
    match (is_first_error(), REFUSED.load(Ordering::SeqCst)) {
        (false, _) => None,
        (true, 0) => Some("error: internal error: the process was aborted\n\nhint: please report it\n"),
        (true, _) => Some("error: out of memory\n\nhint: close other programs, or use a machine with more memory\n"),
    }
}

/// Whether no thread has shown an error yet; the caller is the one that does.
pub fn is_first_error() -> bool {
    !SHOWN.swap(true, Ordering::SeqCst)
}

/// Says why the process is aborted.
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix can catch it"))]
pub fn say_aborted() {
    let refused = REFUSED.load(Ordering::SeqCst);
    if refused == 0 {
        if is_first_error() {
            console::fail(&defect("the process was aborted"));
        }
        return;
    }
    let failure = Failure::new(format!(
        "out of memory: {} more were needed",
        units::bytes(refused as u64)
    ));
    let text = failure.hint("close other programs, take a smaller `--size`, or use a machine with more memory");
    // Laid out first: where that takes more memory than there is, the thread that aborts says less.
    let text = text.to_string();
    if is_first_error() {
        console::fail(&text);
    }
}

/// Only the first panic is shown: others follow from it.
fn show(info: &PanicHookInfo<'_>) {
    if !is_first_error() {
        return;
    }
    let place = info.location().map(|place| format!(" ({place})")).unwrap_or_default();
    let reason = reason(info.payload());
    if is_refusal(info.payload()) {
        let failure = Failure::new(format!("the system gives no more threads: {reason}"));
        console::fail(
            &failure.hint("raise the limits on processes and memory (`ulimit -u`, `ulimit -v`), or end other programs"),
        );
        return;
    }
    console::fail(&defect(&format!("{reason}{place}")));
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        console::fail(&trace);
    }
}

fn is_refusal(payload: &dyn Any) -> bool {
    reason(payload).starts_with(NO_THREAD)
}

fn defect(reason: &str) -> Failure {
    Failure::new(format!("internal error: {reason}"))
        .hint("this is a defect of fisec: please report it with the command and, where possible, the model")
}

fn reason(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_exit_status() {
        assert_eq!(guarded(|| 7), Ok(7));
        assert_eq!(guarded(|| -> u8 { panic!("a test of the last resort") }), Err(STATUS));
        assert!(!is_first_error());
        // other tests of this process show their panics
        drop(panic::take_hook());
    }
}
