//! Copies beside the main stream, from and to memory that the device reaches by itself.

use std::ops::Range;
use std::ptr;
use std::slice;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Device, Event, check};
use crate::RuntimeError;

/// A stream for copies that run beside the main one. Events are all that orders the two.
pub(in crate::cuda) struct Copies {
    device: Arc<Device>,
    stream: sys::CUstream,
}

// SAFETY: as for `Device`: a handle that any thread may use.
unsafe impl Send for Copies {}

impl Copies {
    pub(in crate::cuda) fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: out-pointer to a local.
        unsafe { call!(cuStreamCreate(&mut stream, flags))? };
        Ok(Copies {
            device: Arc::clone(device),
            stream,
        })
    }

    /// Copies a part of pinned memory to a device address, in this stream's order.
    ///
    /// # Safety
    /// The target lies in one live buffer; neither it nor the part is touched before the copy is complete.
    pub(in crate::cuda) unsafe fn upload(
        &self,
        to: u64,
        from: &Pinned,
        part: Range<usize>,
    ) -> Result<(), RuntimeError> {
        let bytes = &from.bytes()[part];
        // SAFETY: the caller's promise.
        unsafe {
            call!(cuMemcpyHtoDAsync_v2(
                to,
                bytes.as_ptr().cast(),
                bytes.len(),
                self.stream
            ))
        }
    }

    /// Copies from a device address to the beginning of pinned memory, in this stream's order.
    ///
    /// # Safety
    /// The source lies in one live buffer and is not written, the memory not touched, before the copy is complete.
    pub(in crate::cuda) unsafe fn download(
        &self,
        to: &mut Pinned,
        from: u64,
        bytes: usize,
    ) -> Result<(), RuntimeError> {
        let target = &mut to.bytes_mut()[..bytes];
        // SAFETY: the caller's promise.
        unsafe {
            call!(cuMemcpyDtoHAsync_v2(
                target.as_mut_ptr().cast(),
                from,
                bytes,
                self.stream
            ))
        }
    }

    /// What is put on this stream from now on waits for `event`.
    pub(in crate::cuda) fn wait(&self, event: &Event) -> Result<(), RuntimeError> {
        // SAFETY: stream and event are alive.
        unsafe { call!(cuStreamWaitEvent(self.stream, event.event, 0)) }
    }

    /// Marks the point after everything that is on this stream.
    pub(in crate::cuda) fn mark(&self, event: &Event) -> Result<(), RuntimeError> {
        // SAFETY: stream and event are alive.
        unsafe { call!(cuEventRecord(event.event, self.stream)) }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // SAFETY: made by `Copies::new` and destroyed once.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.device.context);
            let _ = sys::cuStreamSynchronize(self.stream);
            let _ = sys::cuStreamDestroy_v2(self.stream);
        }
    }
}

/// Host memory that the device copies from and to by itself.
pub(in crate::cuda) struct Pinned {
    device: Arc<Device>,
    data: *mut u8,
    bytes: usize,
}

// SAFETY: memory that belongs to this value alone.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeros.
    pub(in crate::cuda) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, RuntimeError> {
        let mut data = ptr::null_mut();
        let bytes = bytes.max(16);
        // SAFETY: out-pointer to a local; what it points to afterwards has `bytes` bytes.
        unsafe {
            call!(cuMemHostAlloc(&mut data, bytes, 0))?;
            ptr::write_bytes(data.cast::<u8>(), 0, bytes);
        }
        Ok(Pinned {
            device: Arc::clone(device),
            data: data.cast(),
            bytes,
        })
    }

    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and set in `new`, freed in `drop`.
        unsafe { slice::from_raw_parts(self.data, self.bytes) }
    }

    pub(in crate::cuda) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; nobody else holds a reference.
        unsafe { slice::from_raw_parts_mut(self.data, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` and freed once, when no copy of any stream can use it any more.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.device.context);
            let _ = sys::cuCtxSynchronize();
            let _ = sys::cuMemFreeHost(self.data.cast());
        }
    }
}
