//! The CUDA driver, as far as plans need it: memory, modules, launches, graphs, events. All of its calls are here.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;
use fisec_kernels::cuda::Launch;

use crate::RuntimeError;
use crate::ort::Stream;

/// Dynamic shared memory that a kernel may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

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

pub(super) use copies::{Copies, Pinned};

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

    pub(super) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Buffer, RuntimeError> {
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
    pub(super) fn upload(self: &Arc<Self>, data: &[u8]) -> Result<Buffer, RuntimeError> {
        let mut buffer = self.allocate(data.len())?;
        buffer.write(0, data)?;
        Ok(buffer)
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

    /// Sets `bytes` bytes at a device address to zero, in the order of the stream.
    ///
    /// # Safety
    /// The range lies in one live buffer.
    pub(super) unsafe fn zero(&self, address: u64, bytes: usize) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise.
        unsafe { call!(cuMemsetD8Async(address, 0, bytes, self.stream)) }
    }

    /// Copies `bytes` at a device address to the host and waits.
    ///
    /// # Safety
    /// The range lies in one live buffer.
    pub(super) unsafe fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>, RuntimeError> {
        let mut data = vec![0u8; bytes];
        // SAFETY: the caller's promise.
        unsafe { self.read_into(address, &mut data)? };
        Ok(data)
    }

    /// Copies what is at a device address to `data` and waits: quickest where that is pinned.
    ///
    /// # Safety
    /// The range lies in one live buffer.
    pub(super) unsafe fn read_into(&self, address: u64, data: &mut [u8]) -> Result<(), RuntimeError> {
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
    pub(super) unsafe fn write(&self, address: u64, data: &[u8]) -> Result<(), RuntimeError> {
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
    pub(super) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise.
        unsafe { call!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream)) }
    }

    /// Puts a kernel on the stream.
    ///
    /// # Safety
    /// The parameters are those of the kernel, and every address in them is that of a live buffer large enough.
    pub(super) unsafe fn launch(&self, functions: &Functions, launch: &Launch) -> Result<(), RuntimeError> {
        let function = functions.get(launch)?;
        // SAFETY: an attribute is plain data for which zero is valid; the driver reads `number` of them.
        let mut attributes: [sys::CUlaunchAttribute; 2] = unsafe { std::mem::zeroed() };
        let mut number = 0;
        if launch.overlap {
            attributes[number].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[number].value.programmaticStreamSerializationAllowed = 1;
            number += 1;
        }
        if launch.cluster > 1 {
            attributes[number].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes[number].value.clusterDim.x = 1;
            attributes[number].value.clusterDim.y = 1;
            attributes[number].value.clusterDim.z = launch.cluster;
            number += 1;
        }
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: self.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: number as u32,
        };
        let mut arguments = [launch.params.as_ptr() as *mut c_void];
        // SAFETY: the caller's promise; the driver copies the parameters before it returns.
        let launched = unsafe {
            call!(cuLaunchKernelEx(
                &config,
                function,
                arguments.as_mut_ptr(),
                ptr::null_mut()
            ))
        };
        launched.map_err(|error| match error {
            RuntimeError::Cuda { reason, .. } => RuntimeError::Cuda {
                call: launch.entry,
                reason: format!(
                    "{reason} (grid {:?}, {} threads, {} bytes shared)",
                    launch.grid, launch.threads, launch.shared
                ),
            },
            other => other,
        })
    }

    /// Records what `work` puts on the stream as a graph. Nothing of it runs.
    pub(super) fn capture(
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

/// Device memory.
pub(super) struct Buffer {
    device: Arc<Device>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), RuntimeError> {
        assert!(offset + data.len() <= self.bytes, "inside the buffer");
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: inside this buffer, as just checked.
        unsafe { self.device.write(self.address + offset as u64, data) }
    }
}

impl Buffer {
    /// Writes at once, beside the stream: for memory that nothing on the stream uses.
    pub(super) fn write_beside(&mut self, offset: usize, data: &[u8]) -> Result<(), RuntimeError> {
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

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `Device::allocate` and freed once; the driver waits for work that uses it.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.device.context);
            let _ = sys::cuMemFree_v2(self.address);
        }
    }
}

/// A captured sequence of launches.
pub(super) struct Graph {
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
    pub(super) unsafe fn launch(&self) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise.
        unsafe { call!(cuGraphLaunch(self.executable, self.device.stream)) }
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

/// Functions of the loaded modules by kernel and entry.
pub(super) struct Functions {
    device: Arc<Device>,
    modules: HashMap<String, sys::CUmodule>,
    functions: std::sync::Mutex<HashMap<&'static str, (sys::CUfunction, u32)>>,
}

// SAFETY: modules and functions are handles that any thread may use; the map is behind a mutex.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

impl Functions {
    /// Loads modules: name of the kernel and cubin.
    pub(super) fn load(
        device: &Arc<Device>,
        cubins: impl Iterator<Item = Result<(String, Vec<u8>), RuntimeError>>,
    ) -> Result<Self, RuntimeError> {
        let mut loaded = Functions {
            device: Arc::clone(device),
            modules: HashMap::new(),
            functions: Default::default(),
        };
        for cubin in cubins {
            let (name, image) = cubin?;
            let mut module = ptr::null_mut();
            // SAFETY: `image` is a whole cubin: its hash was checked when the plan was opened.
            unsafe { call!(cuModuleLoadData(&mut module, image.as_ptr().cast()))? };
            loaded.modules.insert(name, module);
        }
        Ok(loaded)
    }

    /// The function of a launch, allowed the shared memory that the launch asks for.
    fn get(&self, launch: &Launch) -> Result<sys::CUfunction, RuntimeError> {
        let mut functions = self.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (function, allowed) = match functions.get(launch.entry) {
            Some(known) => *known,
            None => (self.find(launch)?, SHARED_WITHOUT_ASKING),
        };
        let shared = launch.shared.max(allowed);
        if launch.shared > allowed {
            use sys::CUfunction_attribute::{
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SIZE,
                CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT as CARVEOUT,
            };
            // SAFETY: `function` belongs to a loaded module.
            unsafe {
                call!(cuFuncSetAttribute(function, SIZE, shared as i32))?;
                // room for two blocks
                call!(cuFuncSetAttribute(function, CARVEOUT, 100))?;
            }
        }
        functions.insert(launch.entry, (function, shared));
        Ok(function)
    }

    fn find(&self, launch: &Launch) -> Result<sys::CUfunction, RuntimeError> {
        let module = self
            .modules
            .get(launch.kernel)
            .ok_or_else(|| RuntimeError::NoKernel(launch.kernel.to_owned()))?;
        let name = CString::new(launch.entry).expect("entries have no zero bytes");
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded; the name ends with a zero.
        unsafe { call!(cuModuleGetFunction(&mut function, *module, name.as_ptr())) }
            .map_err(|_| RuntimeError::NoKernel(launch.entry.to_owned()))?;
        Ok(function)
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        // SAFETY: loaded by `Functions::load`, unloaded once, after everything on the stream has run.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.device.context);
            let _ = sys::cuStreamSynchronize(self.device.stream);
            for module in self.modules.values() {
                let _ = sys::cuModuleUnload(*module);
            }
        }
    }
}

/// A point in the stream's time.
pub(super) struct Event {
    device: Arc<Device>,
    event: sys::CUevent,
}

// SAFETY: an event is a handle that any thread may use.
unsafe impl Send for Event {}

impl Event {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let mut event = ptr::null_mut();
        // SAFETY: out-pointer to a local.
        unsafe { call!(cuEventCreate(&mut event, 0))? };
        Ok(Event {
            device: Arc::clone(device),
            event,
        })
    }

    /// Marks the point after everything that is on the stream.
    pub(super) fn record(&self) -> Result<(), RuntimeError> {
        // SAFETY: event and stream are alive.
        unsafe { call!(cuEventRecord(self.event, self.device.stream)) }
    }

    /// Waits until the point has been reached.
    pub(super) fn synchronize(&self) -> Result<(), RuntimeError> {
        // SAFETY: the event is alive.
        unsafe { call!(cuEventSynchronize(self.event)) }
    }

    /// Seconds from `earlier`; both have been reached.
    pub(super) fn since(&self, earlier: &Event) -> Result<f64, RuntimeError> {
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
