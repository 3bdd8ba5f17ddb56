//! The CPU backend: fisec's own kernels on a rayon pool, islands in ONNX Runtime.

mod arena;
mod attention;
mod conv;
mod islands;
mod kernels;
mod norms;
mod recorded;
mod value;
mod weights;

use std::borrow::Cow;

use fisec_kernels::cpu as kernel;
use fisec_plan::{Bundle, Kernel, Node, Plan};
use fisec_tensor::{ActiveSet, DType, HostTensor, Shape};
use rayon::ThreadPool;

use crate::RuntimeError;
use crate::executor::{Active, Backend, Call, StepReport};
use crate::ort::OnnxRuntime;
use arena::Arena;
use islands::Islands;
use value::{CpuValue, Floats};
use weights::Weights;

type CpuCall<'a> = Call<'a, CpuValue>;

/// Kernels, weights and memory of one executor.
pub(crate) struct CpuBackend {
    /// `None` while the pool's threads run this backend
    pool: Option<ThreadPool>,
    arena: Arena,
    weights: Weights,
    islands: Islands,
}

impl CpuBackend {
    pub(crate) fn new(bundle: Bundle, onnx_runtime: Option<OnnxRuntime>, threads: usize) -> Result<Self, RuntimeError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("fisec-{index}"))
            .build()
            .map_err(|error| RuntimeError::Threads(error.to_string()))?;
        let islands = Islands::new(bundle.folder(), bundle.plan().islands.len(), onnx_runtime, threads);
        Ok(CpuBackend {
            pool: Some(pool),
            arena: Arena::default(),
            weights: Weights::new(bundle),
            islands,
        })
    }

    /// A value of `length` floats that `fill` writes entirely.
    fn compute(&mut self, length: usize, fill: impl FnOnce(&Weights, &mut [f32]) -> Result<(), RuntimeError>) -> Made {
        let mut output = self.arena.take(length);
        fill(&self.weights, output.as_mut_slice())?;
        Ok(vec![output])
    }
}

/// Outputs of a kernel call.
type Made = Result<Vec<CpuValue>, RuntimeError>;

impl Backend for CpuBackend {
    type Value = CpuValue;

    fn import(&mut self, tensor: &HostTensor) -> Result<CpuValue, RuntimeError> {
        // Many exports take the timestep as an integer; islands get their declared type back.
        Ok(CpuValue::Shared(Floats::new(&tensor.cast(DType::F32))?))
    }

    fn import_planes(&mut self, planes: &[f32], images: usize, channels: usize) -> CpuValue {
        let mut value = self.arena.take(planes.len());
        kernel::nchw_to_nhwc(planes, images, channels, value.as_mut_slice());
        value
    }

    fn export(&self, value: &CpuValue, shape: Shape) -> Result<HostTensor, RuntimeError> {
        Ok(match value {
            CpuValue::Shared(floats) => floats.tensor().reshaped(shape)?,
            CpuValue::Exact { tensor, .. } => tensor.reshaped(shape)?,
            CpuValue::Owned { .. } => {
                let bytes = bytemuck::cast_slice(value.as_slice()).to_vec();
                HostTensor::new(DType::F32, shape, bytes.into())?
            }
        })
    }

    fn export_planes(&self, value: &CpuValue, images: usize, channels: usize, active: Option<Active<'_>>) -> Vec<f32> {
        let rows = value.as_slice();
        let Some(active) = active else {
            let mut planes = vec![0.0; rows.len()];
            kernel::nhwc_to_nchw(rows, images, channels, &mut planes);
            return planes;
        };
        let (set, is_packed) = match active {
            Active::Packed(set) => (set, true),
            Active::Whole(set) => (set, false),
        };
        let pixels = set.ranks().len();
        let per_image = if is_packed { set.len() } else { pixels };
        let mut planes = vec![0.0; images * channels * pixels];
        for image in 0..images {
            for (rank, &pixel) in set.pixels().iter().enumerate() {
                let row = image * per_image + if is_packed { rank } else { pixel as usize };
                for channel in 0..channels {
                    planes[(image * channels + channel) * pixels + pixel as usize] = rows[row * channels + channel];
                }
            }
        }
        planes
    }

    fn replace_rows(
        &self,
        recorded: &HostTensor,
        rows: &CpuValue,
        active: &ActiveSet,
    ) -> Result<HostTensor, RuntimeError> {
        let base = match recorded.dtype() {
            DType::F16 | DType::F32 => Cow::Borrowed(recorded),
            _ => Cow::Owned(recorded.cast(DType::F32)),
        };
        let (images, channels) = (base.shape()[0], base.shape()[base.shape().len() - 1]);
        let mut bytes = base.data().to_vec();
        let is_half = base.dtype() == DType::F16;
        kernel::scatter_into_recorded(rows.as_slice(), active.pixels(), channels, images, is_half, &mut bytes);
        Ok(HostTensor::new(base.dtype(), base.shape().clone(), bytes.into())?)
    }

    fn run(&mut self, call: &CpuCall<'_>, report: &mut StepReport) -> Made {
        match &call.node.kernel {
            Kernel::Island(island) => self.island(call, island, report),
            Kernel::Conv(conv) => self.conv(call, conv, report),
            Kernel::Linear(linear) => self.linear(call, linear, report),
            Kernel::Attention(attention) => self.attention(call, attention, report),
            Kernel::LayerNorm {
                input,
                gamma,
                beta,
                epsilon,
                output,
            } => self.layer_norm(call, *input, (*gamma, *beta, *epsilon), *output),
            Kernel::Geglu { input, output } => self.geglu(call, *input, *output),
            Kernel::Silu { input, output } => self.silu(call, *input, *output),
            Kernel::Add { a, b, output } => self.add(call, *a, b.value, *output),
            Kernel::GroupNormStats { input, groups, output } => self.stats(call, *input, *groups, *output, report),
            Kernel::GroupNormStatsUpdate(update) => self.stats_update(call, update, report),
            Kernel::NormCoefficients(norm) => self.norm_coefficients(call, norm),
            Kernel::Affine {
                input,
                coefficients,
                silu,
                output,
            } => self.affine(call, *input, *coefficients, *silu, *output),
            Kernel::Repeat { input, output } => self.repeat(call, *input, *output),
            Kernel::Concat { inputs, output } => self.concat(call, inputs, *output),
            Kernel::ReadSlot { slot, .. } => self.read_slot(call, *slot, report),
            Kernel::Gather { input, output } => self.gather(call, *input, *output),
            Kernel::Scatter { rows, base, output } => self.scatter(call, *rows, *base, *output, report),
            Kernel::ControlledAttention(_) | Kernel::AttentionMaps(_) => {
                Err(call.error("control on the CPU is part of an island"))
            }
            Kernel::Gelu { .. } | Kernel::Lookup { .. } | Kernel::AddConstant { .. } | Kernel::CausalAttention(_) => {
                Err(call.error("only devices have this kernel"))
            }
            Kernel::WriteSlot { .. } => Err(call.error("slots are written by the walker")),
        }
    }

    fn prepare(&mut self, plan: &Plan, node: &Node) -> Result<(), RuntimeError> {
        node.kernel
            .weights()
            .into_iter()
            .try_for_each(|id| self.weights.get(id).map(drop))?;
        match &node.kernel {
            Kernel::Island(call) => self.islands.open(plan, call.island).map(drop),
            _ => Ok(()),
        }
    }

    fn is_finite(&self, value: &CpuValue) -> bool {
        value.as_slice().iter().all(|value| value.is_finite())
    }

    fn recycle(&mut self, value: CpuValue) {
        self.arena.give_back(value);
    }

    fn scope<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R {
        let Some(pool) = self.pool.take() else {
            return work(self);
        };
        let result = pool.install(|| work(self));
        self.pool = Some(pool);
        result
    }
}
