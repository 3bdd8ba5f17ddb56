//! A network beside the denoiser on the device: one captured graph, from a tensor to a tensor.

use std::sync::Arc;
use std::time::Duration;

use fisec_kernels::cuda::Gpu;
use fisec_plan::cuda::padded;
use fisec_plan::{Bundle, NetworkKind, Program, Value};
use fisec_tensor::{DType, HostTensor, Shape};
use half::f16;

use super::assemble::Rowed;
use super::dense::Dense;
use super::driver::{Device, Event, Functions};
use super::islands::Islands;
use crate::RuntimeError;
use crate::executor::NodeTime;
use crate::ort::OnnxRuntime;

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
    bundle: Bundle,
    kind: NetworkKind,
    dense: Dense,
    functions: Arc<Functions>,
    around: [Event; 2],
    device_time: Duration,
    device: Arc<Device>,
    /// operators without a kernel
    islands: Islands,
}

impl NetworkProgram {
    /// Uploads the weights and captures the graph. `None` when the plan leaves this network to ONNX Runtime.
    pub(super) fn open(shared: &Shared, kind: NetworkKind) -> Result<Option<Self>, RuntimeError> {
        let (bundle, device) = (&shared.bundle, &shared.device);
        let plan = bundle.plan();
        let Some(program) = plan.networks.get(&kind) else {
            return Ok(None);
        };
        let dense = Dense::capture(shared, program, input_bytes(sample_of(program)))?;
        Ok(Some(NetworkProgram {
            kind,
            dense,
            functions: Arc::clone(&shared.functions),
            around: [Event::new(device)?, Event::new(device)?],
            device_time: Duration::ZERO,
            device: Arc::clone(device),
            islands: Islands::new(device, bundle, shared.onnx_runtime.as_ref(), shared.threads)?,
            bundle: bundle.clone(),
        }))
    }

    /// The output for a map `[N, C, H, W]` or ids `[N, L]` of the size that the plan was compiled for: f32, maps with
    /// channels first.
    pub(crate) fn run(&mut self, input: &HostTensor) -> Result<HostTensor, RuntimeError> {
        let rows = self.run_rows(input)?;
        let program = &self.bundle.plan().networks[&self.kind];
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
        self.device.enter()?;
        let rows = input_rows(self.kind, sample_of(&self.bundle.plan().networks[&self.kind]), input)?;
        self.dense.input.write(0, &rows)?;
        self.around[0].record()?;
        // SAFETY: all buffers that the graph names are fields of `self`; nothing of a network lies in a slot.
        unsafe {
            let plan = self.bundle.plan();
            self.dense
                .captured
                .run(&mut self.islands, plan, &|rows: Rowed| rows.address.base)?;
        }
        self.around[1].record()?;
        let output = self.output()?;
        self.device_time = Duration::from_secs_f64(self.around[1].since(&self.around[0])?.max(0.0));
        Ok(output)
    }

    /// What the device worked on the last run.
    pub(crate) fn device_time(&self) -> Duration {
        self.device_time
    }

    /// The time of every node of a run over the last input, launch by launch.
    pub(crate) fn measure(&mut self) -> Result<Vec<NodeTime>, RuntimeError> {
        self.device.enter()?;
        let plan = self.bundle.plan();
        // SAFETY: as in `run`.
        let times = unsafe {
            self.dense.captured.measure(
                &self.device,
                &self.functions,
                &mut self.islands,
                plan,
                &|rows: Rowed| rows.address.base,
            )?
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

    fn output(&self) -> Result<HostTensor, RuntimeError> {
        let program = &self.bundle.plan().networks[&self.kind];
        let mut dims = program.values[program.outputs["prediction"].index()].shape.to_vec();
        let rows = self.dense.captured.prediction.rows;
        let count: usize = dims.iter().rev().skip(1).product();
        // SAFETY: the rows lie in the block of values.
        let bytes = unsafe {
            self.device
                .read(rows.address.base, count * rows.stride * size_of::<f16>())?
        };
        // infinities and what is no number have all bits of the exponent
        let is_finite = |pair: &[u8]| pair[1] & 0x7c != 0x7c;
        if !bytes.chunks_exact(size_of::<f16>()).all(is_finite) {
            return Err(RuntimeError::Overflow(self.kind.title()));
        }
        if let Some(channels) = dims.last_mut() {
            *channels = rows.stride;
        }
        Ok(HostTensor::new(DType::F16, dims, bytes.into())?)
    }
}

impl Drop for NetworkProgram {
    fn drop(&mut self) {
        // Memory is freed with the context current; an error here has nobody to go to.
        let _ = self.device.enter();
    }
}

fn sample_of(program: &Program) -> &Value {
    &program.values[program.inputs["sample"].index()]
}

fn input_bytes(sample: &Value) -> usize {
    match sample.dtype.is_float() {
        true => super::slots::half_rows_bytes(&sample.shape),
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
    let (pixels, stride) = (height * width, padded(channels));
    let mut rows = vec![f16::ZERO; images * pixels * stride];
    for (index, plane) in input.to_f32_vec().chunks_exact(pixels.max(1)).enumerate() {
        let (image, channel) = (index / channels, index % channels);
        let own = &mut rows[image * pixels * stride..];
        for (row, &value) in own.chunks_exact_mut(stride).zip(plane) {
            row[channel] = f16::from_f32(value);
        }
    }
    Ok(bytemuck::cast_slice(&rows).to_vec())
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
