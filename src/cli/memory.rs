//! How much memory a command took beside the files that it mapped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks; the largest buffers of a compilation live for longer.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks at the process until it is asked for the peak.
pub struct PeakMemory {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    watcher: Option<JoinHandle<()>>,
}

impl PeakMemory {
    /// Begins to look; without effect where the system has no `/proc`.
    pub fn start() -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let watch = move || {
            while let (Some(now), false) = (anonymous(), stopped.load(Ordering::Relaxed)) {
                highest.fetch_max(now, Ordering::Relaxed);
                thread::sleep(INTERVAL);
            }
        };
        let watcher = thread::Builder::new().name("memory".into()).spawn(watch).ok();
        PeakMemory { stop, peak, watcher }
    }

    /// The most bytes that were resident at once and belonged to no file. `None` where that cannot be known.
    pub fn finish(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher?.join().ok()?;
        Some(self.peak.load(Ordering::Relaxed)).filter(|&peak| peak > 0)
    }
}

/// Resident bytes that belong to no file.
fn anonymous() -> Option<u64> {
    let status = fisec_files::read_text("/proc/self/status".as_ref()).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
