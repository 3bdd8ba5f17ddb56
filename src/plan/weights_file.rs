//! `weights.bin` under construction: one thread writes and one hashes while another makes the next constant.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use blake3::Hasher;
use bytes::Bytes;

use crate::FileHash;

/// Bytes of small constants that are written together.
const BUFFER: usize = 1 << 20;

/// Constants that may wait for each thread: few, because what was transformed is in memory.
const WAITING: usize = 2;

/// The file; a failed write shows at the next call.
#[derive(Debug)]
pub(crate) struct WeightsFile {
    writer: Worker<io::Result<()>>,
    hasher: Worker<blake3::Hash>,
    length: u64,
}

impl WeightsFile {
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(WeightsFile {
            writer: Worker::start("write weights", move |constants| write(file, constants))?,
            hasher: Worker::start("hash weights", hash)?,
            length: 0,
        })
    }

    /// Bytes appended so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.length += bytes.len() as u64;
        if self.writer.give(bytes.clone()) && self.hasher.give(bytes) {
            return Ok(());
        }
        Err(match self.writer.finish() {
            Some(Err(error)) => error,
            _ => io::ErrorKind::BrokenPipe.into(),
        })
    }

    /// Waits until everything is on the disk.
    pub fn finish(mut self) -> io::Result<FileHash> {
        let (written, hash) = (self.writer.finish(), self.hasher.finish());
        written.unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))?;
        let hash = hash.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(FileHash {
            bytes: self.length,
            blake3: hash.to_hex().to_string(),
        })
    }
}

/// A thread that takes constants in order.
#[derive(Debug)]
struct Worker<T>(Option<(SyncSender<Bytes>, JoinHandle<T>)>);

impl<T: Send + 'static> Worker<T> {
    fn start(name: &str, work: impl FnOnce(Receiver<Bytes>) -> T + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let thread = thread::Builder::new().name(name.into()).spawn(move || work(receiver))?;
        Ok(Worker(Some((sender, thread))))
    }

    /// Whether the thread still takes constants.
    fn give(&self, bytes: Bytes) -> bool {
        self.0.as_ref().is_some_and(|(sender, _)| sender.send(bytes).is_ok())
    }

    /// Ends the thread; `None` the second time.
    fn finish(&mut self) -> Option<T> {
        let (sender, thread) = self.0.take()?;
        drop(sender);
        Some(thread.join().expect("writing and hashing do not panic"))
    }
}

fn write(file: File, constants: Receiver<Bytes>) -> io::Result<()> {
    let mut buffered = BufWriter::with_capacity(BUFFER, file);
    for constant in constants {
        buffered.write_all(&constant)?;
    }
    buffered.into_inner()?.sync_data()
}

fn hash(constants: Receiver<Bytes>) -> blake3::Hash {
    let mut hasher = Hasher::new();
    for constant in constants {
        hasher.update(&constant);
    }
    hasher.finalize()
}
