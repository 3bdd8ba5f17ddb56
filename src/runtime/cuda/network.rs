//! A network beside the denoiser on the device: one captured graph, from a tensor to a tensor; for a decoder, others of
//! parts of its image.

mod part;

use std::sync::Arc;
use std::time::Duration;

use fisec_kernels::cuda::Gpu;
use fisec_plan::{Bundle, NetworkKind, Program, Value};
use fisec_tensor::{DType, HostTensor, Shape};
use half::f16;

use super::assemble::{Prediction, Rowed};
use super::captured::Captured;
use super::dense::Dense;
use super::driver::{Device, Event, Functions, Pinned};
use super::islands::Islands;
use super::slots::{half_rows_bytes, rows_of_planes};
use crate::RuntimeError;
use crate::executor::NodeTime;
use crate::finite::bytes_are_finite;
use crate::ort::OnnxRuntime;
use part::Parts;

/// What a device's programs share.
pub(super) struct Shared {
    pub(super) bundle: Bundle,
    pub(super) onnx_runtime: Option<OnnxRuntime>,
    pub(super) threads: usize,
    pub(super) gpu: Gpu,
    pub(super) functions: Arc<Functions>,
    pub(super) device: Arc<Device>,
}

/// A network's program with its memory.
pub(crate) struct NetworkProgram {
    kind: NetworkKind,
    // graphs go before the memory that they use
    parts: Parts,
    dense: Dense,
    around: [Event; 2],
    device_time: Duration,
    /// results on their way to the host
    staging: Pinned,
    /// operators without a kernel
    islands: Islands,
    shared: Arc<Shared>,
}

impl NetworkProgram {
    /// Uploads the weights and captures the graph. `None` when the plan leaves this network to ONNX Runtime.
    pub(super) fn open(shared: &Arc<Shared>, kind: NetworkKind) -> Result<Option<Self>, RuntimeError> {
        let (bundle, device) = (&shared.bundle, &shared.device);
        let Some(program) = bundle.plan().networks.get(&kind) else {
            return Ok(None);
        };
        device.enter()?;
        let parts = Parts::new(device, program)?;
        let dense = Dense::capture(shared, program, input_bytes(sample_of(program)), &parts.kept())?;
        let result = &program.values[program.outputs["prediction"].index()].shape;
        let rows: usize = result.iter().rev().skip(1).product();
        let staged = rows * dense.captured.prediction.rows.stride * size_of::<f16>();
        Ok(Some(NetworkProgram {
            kind,
            parts,
            dense,
            around: [Event::new(device)?, Event::new(device)?],
            device_time: Duration::ZERO,
            staging: Pinned::new(device, staged)?,
            islands: Islands::new(device, bundle, shared.onnx_runtime.as_ref(), shared.threads)?,
            shared: Arc::clone(shared),
        }))
    }

    fn program(&self) -> &Program {
        &self.shared.bundle.plan().networks[&self.kind]
    }

    /// The output for a map `[N, C, H, W]` or ids `[N, L]` of the size that the plan was compiled for: f32, maps with
    /// channels first.
    pub(crate) fn run(&mut self, input: &HostTensor) -> Result<HostTensor, RuntimeError> {
        let rows = self.run_rows(input)?;
        let program = self.program();
        let shape = &program.values[program.outputs["prediction"].index()].shape;
        let halves = rows.as_pod::<f16>(DType::F16)?;
        let stride = rows.shape().last().copied().unwrap_or(1);
        Ok(HostTensor::from_f32(
            channels_first(shape),
            planes(&halves, stride, shape),
        ))
    }

    /// The same as the device holds it: f16, channels last and padded with zeros to a multiple of eight.
    pub(crate) fn run_rows(&mut self, input: &HostTensor) -> Result<HostTensor, RuntimeError> {
        self.shared.device.enter()?;
        let rows = input_rows(self.kind, sample_of(self.program()), input)?;
        self.dense.write_input(&rows)?;
        let captured = &self.dense.captured;
        self.device_time = launch(&self.shared, &self.around, &mut self.islands, captured)?;
        let program = &self.shared.bundle.plan().networks[&self.kind];
        let shape = &program.values[program.outputs["prediction"].index()].shape;
        output(&self.shared, self.kind, captured.prediction, shape, &mut self.staging)
    }

    /// What the device worked on the last run.
    pub(crate) fn device_time(&self) -> Duration {
        self.device_time
    }

    /// The time of every node of a run over the last input, launch by launch.
    pub(crate) fn measure(&mut self) -> Result<Vec<NodeTime>, RuntimeError> {
        let Shared {
            bundle,
            device,
            functions,
            ..
        } = &*self.shared;
        device.enter()?;
        let plan = bundle.plan();
        let captured = &self.dense.captured;
        // SAFETY: as in `launch`.
        let times = unsafe {
            captured.measure(device, functions, &mut self.islands, plan, &|rows: Rowed| {
                rows.address.base
            })?
        };
        let timed = times.into_iter().map(|(index, seconds)| {
            let node = &plan.networks[&self.kind].nodes[index];
            NodeTime {
                node: node.name.clone(),
                kernel: node.kernel.name(),
                time: Duration::from_secs_f64(seconds.max(0.0)),
                macs: node.macs_dense,
            }
        });
        Ok(timed.collect())
    }
}

/// Runs a graph over a network's buffers and waits: what the device worked.
fn launch(
    shared: &Shared,
    around: &[Event; 2],
    islands: &mut Islands,
    captured: &Captured,
) -> Result<Duration, RuntimeError> {
    around[0].record()?;
    // SAFETY: all buffers that the graph names live as long as the network that holds it; nothing of a network lies in a
    // slot.
    unsafe { captured.run(islands, shared.bundle.plan(), &|rows: Rowed| rows.address.base)? };
    around[1].record()?;
    around[1].synchronize()?;
    Ok(Duration::from_secs_f64(around[1].since(&around[0])?.max(0.0)))
}

/// The rows of a result of `shape`, its channels padded, by way of `staging`, which is as large as the whole result.
fn output(
    shared: &Shared,
    kind: NetworkKind,
    prediction: Prediction,
    shape: &Shape,
    staging: &mut Pinned,
) -> Result<HostTensor, RuntimeError> {
    let mut dims = shape.to_vec();
    let rows = prediction.rows;
    let count: usize = dims.iter().rev().skip(1).product();
    let bytes = &mut staging.bytes_mut()[..count * rows.stride * size_of::<f16>()];
    // SAFETY: the rows lie in the block of values.
    unsafe { shared.device.read_into(rows.address.base, bytes)? };
    if !bytes_are_finite(DType::F16, bytes) {
        return Err(RuntimeError::Overflow(kind.title()));
    }
    if let Some(channels) = dims.last_mut() {
        *channels = rows.stride;
    }
    Ok(HostTensor::new(DType::F16, dims, bytes.to_vec().into())?)
}

impl Drop for NetworkProgram {
    fn drop(&mut self) {
        // Memory is freed with the context current; an error here has nobody to go to.
        let _ = self.shared.device.enter();
    }
}

fn sample_of(program: &Program) -> &Value {
    &program.values[program.inputs["sample"].index()]
}

fn input_bytes(sample: &Value) -> usize {
    match sample.dtype.is_float() {
        true => half_rows_bytes(&sample.shape),
        false => sample.shape.elements() * size_of::<i32>(),
    }
}

/// `[N, H, W, C]` as `[N, C, H, W]`; other ranks stay.
fn channels_first(shape: &Shape) -> Shape {
    match shape[..] {
        [images, height, width, channels] => [images, channels, height, width].into(),
        _ => shape.clone(),
    }
}

/// The input as the program reads it: ids as i32, a map as f16 rows of padded channels.
fn input_rows(kind: NetworkKind, sample: &Value, input: &HostTensor) -> Result<Vec<u8>, RuntimeError> {
    let expected = channels_first(&sample.shape);
    if *input.shape() != expected || input.dtype().is_float() != sample.dtype.is_float() {
        return Err(RuntimeError::Mismatch {
            what: format!("input of the {}", kind.title()),
            expected_dtype: sample.dtype,
            expected,
            dtype: input.dtype(),
            shape: input.shape().clone(),
        });
    }
    if !sample.dtype.is_float() {
        let ids = input.to_i64_vec().into_iter().map(|id| id as i32);
        return Ok(bytemuck::cast_slice(&ids.collect::<Vec<i32>>()).to_vec());
    }
    let [images, height, width, channels] = sample.shape[..] else {
        return Ok(super::slots::half_rows(input));
    };
    let planes = input.to_f32_vec();
    Ok(rows_of_planes(&planes, [images, channels, height * width]))
}

/// Rows of `stride` as the values of `shape`, maps channel by channel.
fn planes(rows: &[f16], stride: usize, shape: &Shape) -> Vec<f32> {
    let channels = shape.last().copied().unwrap_or(1);
    let [images, height, width, _] = shape[..] else {
        let rows = rows.chunks_exact(stride);
        return rows
            .flat_map(|row| row[..channels].iter().map(|value| value.to_f32()))
            .collect();
    };
    let pixels = height * width;
    let mut planes = vec![0.0; images * channels * pixels];
    for (index, plane) in planes.chunks_exact_mut(pixels.max(1)).enumerate() {
        let (image, channel) = (index / channels, index % channels);
        for (value, row) in plane
            .iter_mut()
            .zip(rows[image * pixels * stride..].chunks_exact(stride))
        {
            *value = row[channel].to_f32();
        }
    }
    planes
}
