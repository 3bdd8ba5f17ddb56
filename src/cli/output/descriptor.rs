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
