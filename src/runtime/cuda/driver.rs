//! The CUDA driver, as far as plans need it: the device here; memory, kernels, graphs and events below. All calls of it are in this module.

use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use crate::RuntimeError;
use crate::ort::Stream;

/// A device with its context and one stream, on which everything runs in order.
pub(super) struct Device {
    context: sys::CUcontext,
    device: sys::CUdevice,
    stream: sys::CUstream,
    name: String,
    capability: (i32, i32),
    multiprocessors: usize,
}

// SAFETY: a context and its stream may be used from any thread that makes the context current, which `enter` does.
unsafe impl Send for Device {}
// SAFETY: the driver's calls are thread-safe; nothing of `Device` changes after `open`.
unsafe impl Sync for Device {}

/// Whether the driver's library is on this machine.
pub(super) fn is_driver_present() -> bool {
    // SAFETY: only tries to open the library.
    unsafe { sys::is_culib_present() }
}

fn check(status: sys::CUresult, call: &'static str) -> Result<(), RuntimeError> {
    if status == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Err(RuntimeError::DeviceMemory);
    }
    let mut text: *const c_char = ptr::null();
    // SAFETY: the driver sets `text` to a static string, or leaves it null for a status that it does not know.
    let reason = unsafe {
        let _ = sys::cuGetErrorString(status, &mut text);
        match text.is_null() {
            true => format!("status {status:?}"),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        }
    };
    Err(RuntimeError::Cuda { call, reason })
}

macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        check(sys::$name($($argument),*), stringify!($name))
    };
}

mod copies;
mod event;
mod functions;
mod graph;
mod memory;

pub(super) use copies::{Copies, Pinned};
pub(super) use event::Event;
pub(super) use functions::Functions;
pub(super) use graph::Graph;
pub(super) use memory::Buffer;

impl Device {
    /// The first device. Fails with a reason when there is no driver or no device.
    pub(super) fn open() -> Result<Arc<Self>, RuntimeError> {
        if !is_driver_present() {
            return Err(RuntimeError::NoDriver);
        }
        let mut count = 0;
        let mut device = 0;
        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        let mut name = [0 as c_char; 256];
        let (mut major, mut minor, mut multiprocessors) = (0, 0, 0);
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as COUNT,
        };
        // SAFETY: out-pointers are to locals of the types that the driver writes; the name's length is passed.
        unsafe {
            call!(cuInit(0)).map_err(|_| RuntimeError::NoDevice)?;
            call!(cuDeviceGetCount(&mut count))?;
            if count == 0 {
                return Err(RuntimeError::NoDevice);
            }
            call!(cuDeviceGet(&mut device, 0))?;
            call!(cuDeviceGetName(name.as_mut_ptr(), name.len() as i32 - 1, device))?;
            call!(cuDeviceGetAttribute(&mut major, MAJOR, device))?;
            call!(cuDeviceGetAttribute(&mut minor, MINOR, device))?;
            call!(cuDeviceGetAttribute(&mut multiprocessors, COUNT, device))?;
            call!(cuDevicePrimaryCtxRetain(&mut context, device))?;
            call!(cuCtxSetCurrent(context))?;
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            call!(cuStreamCreate(&mut stream, flags))?;
        }
        // SAFETY: the last byte was not given to the driver and is zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok(Arc::new(Device {
            context,
            device,
            stream,
            name,
            capability: (major, minor),
            multiprocessors: multiprocessors.max(1) as usize,
        }))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The stream that everything runs on.
    pub(super) fn stream(&self) -> Stream {
        Stream(self.stream.cast())
    }

    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    pub(super) fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Makes the context current in this thread.
    pub(super) fn enter(&self) -> Result<(), RuntimeError> {
        // SAFETY: the context is alive until `self` is dropped.
        unsafe { call!(cuCtxSetCurrent(self.context)) }
    }

    /// Bytes free and in all.
    pub(super) fn memory(&self) -> Result<(usize, usize), RuntimeError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: out-pointers to locals.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total))? };
        Ok((free, total))
    }

    /// What is put on the stream from now on waits for a point in another stream's time.
    pub(super) fn wait(&self, event: &Event) -> Result<(), RuntimeError> {
        // SAFETY: stream and event are alive.
        unsafe { call!(cuStreamWaitEvent(self.stream, event.event, 0)) }
    }

    /// Waits until everything on the stream has run.
    pub(super) fn synchronize(&self) -> Result<(), RuntimeError> {
        // SAFETY: the stream is alive.
        unsafe { call!(cuStreamSynchronize(self.stream)) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: buffers, graphs and modules hold an `Arc` of the device, so nothing uses the context any more. Errors
        // at the end of a process cannot be acted on.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            let _ = sys::cuStreamSynchronize(self.stream);
            let _ = sys::cuStreamDestroy_v2(self.stream);
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}
