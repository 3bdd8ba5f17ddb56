//! Open files that the process was started with: `/dev/stdout`, `/dev/fd/3`.

use std::fs::File;
use std::io;

/// A second handle of an open file: what is written continues where the file stands.
///
/// # Errors
/// The descriptor was closed when the process started, or is open for reading only.
#[cfg(unix)]
pub fn open(number: u32) -> io::Result<File> {
    use std::io::Write;
    use std::os::fd::BorrowedFd;

    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the borrow ends with this function, which looks at the descriptor and duplicates it; of a closed one the system says so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if at_start::was_closed(number) {
        return Err(rustix::io::Errno::BADF.into());
    }
    // A descriptor that was inherited has lost this flag. One that fisec has opened itself has it, and is no output.
    if rustix::io::fcntl_getfd(borrowed)?.contains(rustix::io::FdFlags::CLOEXEC) {
        return Err(rustix::io::Errno::BADF.into());
    }
    let mut file = File::from(borrowed.try_clone_to_owned()?);
    // Writes nothing, and fails where writing would.
    file.write(&[]).map(|_| file)
}

/// Elsewhere only stdout has a name, and it is reached as a handle.
#[cfg(windows)]
pub fn open(number: u32) -> io::Result<File> {
    use std::os::windows::io::AsHandle;

    match number {
        super::place::STDOUT => io::stdout().as_handle().try_clone_to_owned().map(File::from),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Which standard streams were closed when the process started. Rust opens `/dev/null` in their place before `main`, where
/// output would be lost; so they are looked at before that.
#[cfg(unix)]
mod at_start {
    use std::sync::atomic::{AtomicBool, Ordering};

    static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

    /// The system calls the functions of this section before Rust prepares the process.
    // SAFETY: the section holds pointers to functions without results, and this one needs nothing that is prepared later.
    #[used]
    #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
    #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        for (number, closed) in (0..).zip(&CLOSED) {
            // SAFETY: the call changes nothing and takes any number.
            let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
            closed.store(flags == -1, Ordering::Relaxed);
        }
    }

    /// Whether the caller had closed a standard stream.
    pub(super) fn was_closed(number: i32) -> bool {
        let closed = usize::try_from(number).ok().and_then(|number| CLOSED.get(number));
        closed.is_some_and(|closed| closed.load(Ordering::Relaxed))
    }
}
