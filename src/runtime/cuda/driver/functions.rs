//! Kernels: modules, their functions, launches.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;
use fisec_kernels::cuda::Launch;

use super::{Device, check};
use crate::RuntimeError;

/// Dynamic shared memory that a kernel may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// Functions of the loaded modules by kernel and entry.
pub(in crate::cuda) struct Functions {
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
    pub(in crate::cuda) fn load(
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

impl Device {
    /// Puts a kernel on the stream.
    ///
    /// # Safety
    /// The parameters are those of the kernel, and every address in them is that of a live buffer large enough.
    pub(in crate::cuda) unsafe fn launch(&self, functions: &Functions, launch: &Launch) -> Result<(), RuntimeError> {
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
