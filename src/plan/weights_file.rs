//! `weights.bin` under construction: one thread writes and hashes while another makes the next constant.

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

/// The file; a failed write shows at the next call.
#[derive(Debug)]
pub(crate) struct WeightsFile {
    /// without a queue: at most one constant waits, so that few are in memory
    sender: SyncSender<Bytes>,
    writer: Option<JoinHandle<io::Result<FileHash>>>,
    length: u64,
}

impl WeightsFile {
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (sender, receiver) = sync_channel(0);
        let writer = thread::Builder::new()
            .name("weights".into())
            .spawn(move || write(file, receiver))?;
        Ok(WeightsFile {
            sender,
            writer: Some(writer),
            length: 0,
        })
    }

    /// Bytes appended so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.length += bytes.len() as u64;
        match self.sender.send(bytes) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.ended().err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Waits until everything is on the disk.
    pub fn finish(mut self) -> io::Result<FileHash> {
        drop(std::mem::replace(&mut self.sender, sync_channel(0).0));
        self.ended()
    }

    fn ended(&mut self) -> io::Result<FileHash> {
        let writer = self.writer.take().ok_or(io::ErrorKind::BrokenPipe)?;
        writer.join().expect("the writer does not panic")
    }
}

fn write(file: File, constants: Receiver<Bytes>) -> io::Result<FileHash> {
    let mut buffered = BufWriter::with_capacity(BUFFER, file);
    let (mut hasher, mut bytes) = (Hasher::new(), 0);
    for constant in constants {
        buffered.write_all(&constant)?;
        hasher.update(&constant);
        bytes += constant.len() as u64;
    }
    buffered.into_inner()?.sync_data()?;
    Ok(FileHash {
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}
