//! Launches captured once and put on the stream as one.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Device, check};
use crate::RuntimeError;

/// A captured sequence of launches.
pub(in crate::cuda) struct Graph {
    device: Arc<Device>,
    executable: sys::CUgraphExec,
}

// SAFETY: used from one thread at a time, as `&mut self` methods of the backend do.
unsafe impl Send for Graph {}

impl Graph {
    /// Puts the graph on the stream.
    ///
    /// # Safety
    /// Every address that its launches use is still that of a live buffer.
    pub(in crate::cuda) unsafe fn launch(&self) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise.
        unsafe { call!(cuGraphLaunch(self.executable, self.device.stream)) }
    }
}

impl Device {
    /// Records what `work` puts on the stream as a graph. Nothing of it runs.
    pub(in crate::cuda) fn capture(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<(), RuntimeError>,
    ) -> Result<Graph, RuntimeError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is alive; the capture is ended whatever `work` did, so the stream stays usable.
        unsafe {
            call!(cuStreamBeginCapture_v2(self.stream, mode))?;
            let worked = work();
            let ended = call!(cuStreamEndCapture(self.stream, &mut graph));
            worked?;
            ended?;
            let made = call!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
            call!(cuGraphDestroy(graph))?;
            made?;
        }
        Ok(Graph {
            device: Arc::clone(self),
            executable,
        })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `Device::capture` and destroyed once.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.device.context);
            let _ = sys::cuStreamSynchronize(self.device.stream);
            let _ = sys::cuGraphExecDestroy(self.executable);
        }
    }
}
