//! Points in the stream's time.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Device, check};
use crate::RuntimeError;

/// A point in the stream's time.
pub(in crate::cuda) struct Event {
    device: Arc<Device>,
    pub(super) event: sys::CUevent,
}

// SAFETY: an event is a handle that any thread may use.
unsafe impl Send for Event {}

impl Event {
    pub(in crate::cuda) fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let mut event = ptr::null_mut();
        // SAFETY: out-pointer to a local.
        unsafe { call!(cuEventCreate(&mut event, 0))? };
        Ok(Event {
            device: Arc::clone(device),
            event,
        })
    }

    /// Marks the point after everything that is on the stream.
    pub(in crate::cuda) fn record(&self) -> Result<(), RuntimeError> {
        // SAFETY: event and stream are alive.
        unsafe { call!(cuEventRecord(self.event, self.device.stream)) }
    }

    /// Waits until the point has been reached.
    pub(in crate::cuda) fn synchronize(&self) -> Result<(), RuntimeError> {
        // SAFETY: the event is alive.
        unsafe { call!(cuEventSynchronize(self.event)) }
    }

    /// Seconds from `earlier`; both have been reached.
    pub(in crate::cuda) fn since(&self, earlier: &Event) -> Result<f64, RuntimeError> {
        let mut milliseconds = 0.0f32;
        // SAFETY: both events are alive and recorded.
        unsafe { call!(cuEventElapsedTime_v2(&mut milliseconds, earlier.event, self.event))? };
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `Event::new` and destroyed once.
        unsafe {
            let _ = sys::cuEventDestroy_v2(self.event);
        }
    }
}
