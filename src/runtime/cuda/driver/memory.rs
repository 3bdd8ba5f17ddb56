//! Device memory, and what is written, read and copied in it.

use std::sync::Arc;

use cudarc::driver::sys;

use super::{Device, check};
use crate::RuntimeError;

/// Device memory.
pub(in crate::cuda) struct Buffer {
    device: Arc<Device>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    pub(in crate::cuda) fn address(&self) -> u64 {
        self.address
    }

    pub(in crate::cuda) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::cuda) fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), RuntimeError> {
        assert!(offset + data.len() <= self.bytes, "inside the buffer");
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: inside this buffer, as just checked.
        unsafe { self.device.write(self.address + offset as u64, data) }
    }

    /// Writes at once, beside the stream: for memory that nothing on the stream uses.
    pub(in crate::cuda) fn write_beside(&mut self, offset: usize, data: &[u8]) -> Result<(), RuntimeError> {
        assert!(offset + data.len() <= self.bytes, "inside the buffer");
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: inside this buffer, as just checked; the call returns when the copy is complete.
        unsafe {
            call!(cuMemcpyHtoD_v2(
                self.address + offset as u64,
                data.as_ptr().cast(),
                data.len()
            ))
        }
    }
}

impl Device {
    pub(in crate::cuda) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Buffer, RuntimeError> {
        let mut address = 0;
        // SAFETY: out-pointer to a local.
        unsafe { call!(cuMemAlloc_v2(&mut address, bytes.max(16)))? };
        Ok(Buffer {
            device: Arc::clone(self),
            address,
            bytes: bytes.max(16),
        })
    }

    /// A buffer that holds `data`.
    pub(in crate::cuda) fn upload(self: &Arc<Self>, data: &[u8]) -> Result<Buffer, RuntimeError> {
        let mut buffer = self.allocate(data.len())?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// Sets `bytes` bytes at a device address to zero, in the order of the stream.
    ///
    /// # Safety
    /// The range lies in one live buffer.
    pub(in crate::cuda) unsafe fn zero(&self, address: u64, bytes: usize) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise.
        unsafe { call!(cuMemsetD8Async(address, 0, bytes, self.stream)) }
    }

    /// Copies `bytes` at a device address to the host and waits.
    ///
    /// # Safety
    /// The range lies in one live buffer.
    pub(in crate::cuda) unsafe fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>, RuntimeError> {
        let mut data = vec![0u8; bytes];
        // SAFETY: the caller's promise.
        unsafe { self.read_into(address, &mut data)? };
        Ok(data)
    }

    /// Copies what is at a device address to `data` and waits: quickest where that is pinned.
    ///
    /// # Safety
    /// The range lies in one live buffer.
    pub(in crate::cuda) unsafe fn read_into(&self, address: u64, data: &mut [u8]) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise; `data` is borrowed until the copy is complete.
        unsafe {
            call!(cuMemcpyDtoHAsync_v2(
                data.as_mut_ptr().cast(),
                address,
                data.len(),
                self.stream
            ))?
        };
        self.synchronize()
    }

    /// Copies bytes to a device address.
    ///
    /// # Safety
    /// The range lies in one live buffer.
    pub(in crate::cuda) unsafe fn write(&self, address: u64, data: &[u8]) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise; pageable memory is read before the call returns.
        unsafe {
            call!(cuMemcpyHtoDAsync_v2(
                address,
                data.as_ptr().cast(),
                data.len(),
                self.stream
            ))
        }
    }

    /// Copies from one device address to another.
    ///
    /// # Safety
    /// Both ranges lie in live buffers and do not overlap.
    pub(in crate::cuda) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise.
        unsafe { call!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream)) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `Device::allocate` and freed once; the driver waits for work that uses it.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.device.context);
            let _ = sys::cuMemFree_v2(self.address);
        }
    }
}
