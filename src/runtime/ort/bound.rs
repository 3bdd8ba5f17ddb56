//! Running a model on tensors where they lie, in a device's memory too.

use std::ffi::{CString, c_void};

use ::ort::AsPointer;
use ::ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ::ort::session::{IoBinding, RunOptions};
use ::ort::value::{Shape as OrtShape, TensorRefMut};
use fisec_tensor::Shape;
use half::f16;

use super::{Provider, Session};
use crate::RuntimeError;

/// An f16 tensor, densely packed, in the memory of the session's provider.
pub(crate) struct Placed<'a> {
    /// input or output of the model
    pub(crate) name: &'a str,
    /// first byte
    pub(crate) address: u64,
    /// dimensions, as the model declares them
    pub(crate) shape: &'a Shape,
}

impl Session {
    /// Puts the model's work on the provider's stream: inputs are read and outputs written where they lie. Nothing is
    /// copied, and on a device nothing is waited for.
    ///
    /// # Safety
    /// The tensors lie in live memory of the session's provider until the work is done; outputs overlap nothing else.
    pub(crate) unsafe fn run_placed(
        &mut self,
        inputs: &[Placed<'_>],
        outputs: &[Placed<'_>],
    ) -> Result<(), RuntimeError> {
        // SAFETY: the caller's promise.
        let done = unsafe { self.bind_and_run(inputs, outputs) };
        done.map_err(|error| RuntimeError::OnnxRuntime {
            action: format!("cannot run `{}`", self.model()),
            reason: error.to_string(),
        })
    }

    /// # Safety
    /// As [`Session::run_placed`].
    unsafe fn bind_and_run(&mut self, inputs: &[Placed<'_>], outputs: &[Placed<'_>]) -> ::ort::Result<()> {
        let provider = self.provider();
        let session = self.inner_mut();
        let mut binding = session.create_binding()?;
        // `IoBinding::bind_input` would copy what it does not own
        let mut held = Vec::new();
        for input in inputs {
            // SAFETY: the caller's promise; the views live until the run is over.
            let view = unsafe { view(input, provider)? };
            bind_input(&mut binding, input.name, &view)?;
            held.push(view);
        }
        for output in outputs {
            // SAFETY: as above.
            let view = unsafe { view(output, provider)? };
            binding.bind_output(output.name, view)?;
        }
        let mut options = RunOptions::new()?;
        options.disable_device_sync()?;
        session.run_binding_with_options(&binding, &options).map(drop)
    }
}

/// # Safety
/// The tensor's memory outlives the view.
unsafe fn view<'a>(tensor: &Placed<'_>, provider: Provider) -> ::ort::Result<TensorRefMut<'a, f16>> {
    let memory = match provider {
        Provider::Cpu => MemoryInfo::default(),
        _ => MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default)?,
    };
    let shape = OrtShape::new(tensor.shape.iter().map(|&dim| dim as i64));
    // SAFETY: the caller's promise.
    unsafe { TensorRefMut::from_raw(memory, tensor.address as *mut c_void, shape) }
}

fn bind_input(binding: &mut IoBinding, name: &str, view: &TensorRefMut<'_, f16>) -> ::ort::Result<()> {
    let name = CString::new(name).map_err(|error| ::ort::Error::new(error.to_string()))?;
    // SAFETY: all three pointers are those of live objects; the binding shares the value.
    unsafe {
        let status = (::ort::api().BindInput)(binding.ptr_mut(), name.as_ptr(), view.ptr());
        ::ort::Error::result_from_status(status)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ort::OnnxRuntime;

    #[test]
    fn tensors_are_read_and_written_in_place() {
        let Ok(runtime) = OnnxRuntime::load() else {
            eprintln!("SKIPPED: no ONNX Runtime");
            return;
        };
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/onnx/half_sum.onnx");
        let mut session = runtime.session(&model, 1).expect("opens");
        let shape = Shape::from([2, 8]);
        let halves = |start: f32| -> Vec<f16> { (0..16).map(|at| f16::from_f32(start + at as f32)).collect() };
        let (a, b, mut sum) = (halves(1.0), halves(0.5), vec![f16::NAN; 16]);
        let place = |name: &'static str, address: *const f16| Placed {
            name,
            address: address as u64,
            shape: &shape,
        };
        let inputs = [place("a", a.as_ptr()), place("b", b.as_ptr())];
        let outputs = [place("sum", sum.as_mut_ptr())];
        // SAFETY: the vectors outlive the call, and the CPU provider is done when it returns.
        unsafe { session.run_placed(&inputs, &outputs).expect("runs") };
        let expected: Vec<f32> = (0..16).map(|at| 1.5 + 2.0 * at as f32).collect();
        assert_eq!(sum.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), expected);
    }
}
