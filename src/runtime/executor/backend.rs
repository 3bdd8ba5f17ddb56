//! What a device must be able to do. The walker over nodes is the same for all.

use fisec_kernels::cpu::ConvTable;
use fisec_plan::{Extent, Node, Plan, Program, SlotId, SlotKind, ValueId};
use fisec_tensor::{ActiveSet, HostTensor, Shape};

use super::report::StepReport;
use crate::{Binding, RuntimeError, SlotSource};

/// A device that holds values and runs kernel calls.
pub(crate) trait Backend: Send {
    /// A value on the device: floats in the layout of the plan.
    type Value: Send + Sync;

    /// Takes a host tensor of any float type.
    fn import(&mut self, tensor: &HostTensor) -> Result<Self::Value, RuntimeError>;

    /// A `[N, C, H, W]` map as rows `[N, H, W, C]`.
    fn import_planes(&mut self, planes: &[f32], images: usize, channels: usize) -> Self::Value;

    /// The value as a host tensor of `shape`.
    fn export(&self, value: &Self::Value, shape: Shape) -> Result<HostTensor, RuntimeError>;

    /// Rows as `[N, C, H, W]`, zero outside `active`.
    fn export_planes(
        &self,
        value: &Self::Value,
        images: usize,
        channels: usize,
        active: Option<Active<'_>>,
    ) -> Vec<f32>;

    /// A recorded slot with its active rows replaced, in the slot's type.
    fn replace_rows(
        &self,
        recorded: &HostTensor,
        rows: &Self::Value,
        active: &ActiveSet,
    ) -> Result<HostTensor, RuntimeError>;

    /// Runs a kernel call that is no [`fisec_plan::Kernel::WriteSlot`]. Returns the wanted outputs in order.
    fn run(&mut self, call: &Call<'_, Self::Value>, report: &mut StepReport) -> Result<Vec<Self::Value>, RuntimeError>;

    /// Opens what the node needs before its first run.
    fn prepare(&mut self, plan: &Plan, node: &Node) -> Result<(), RuntimeError>;

    /// Whether no element of a value is infinite or not a number.
    fn is_finite(&self, value: &Self::Value) -> bool;

    /// Takes back the memory of a value.
    fn recycle(&mut self, value: Self::Value);

    /// Calls `work` where the device's threads are.
    fn scope<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R;
}

/// How a value with active pixels is stored.
#[derive(Clone, Copy)]
pub(crate) enum Active<'a> {
    /// packed rows
    Packed(&'a ActiveSet),
    /// the whole map, of which the active pixels count
    Whole(&'a ActiveSet),
}

/// A kernel call with everything that it reads.
pub(crate) struct Call<'a, V> {
    pub(crate) plan: &'a Plan,
    pub(crate) program: &'a Program,
    pub(crate) node: &'a Node,
    pub(crate) step: usize,
    pub(crate) binding: Option<&'a Binding>,
    pub(crate) source: Option<&'a dyn SlotSource>,
    pub(crate) table: Option<&'a ConvTable>,
    pub(crate) values: &'a Values<'a, V>,
    /// the outputs to compute, in order; islands may have others that nobody reads at this step
    pub(crate) wanted: &'a [ValueId],
}

/// Values by id: those of this step, else those of the prompt, else those of the timestep.
pub(crate) struct Values<'a, V> {
    pub(crate) step: Vec<Option<V>>,
    pub(crate) prompt: &'a [Option<V>],
    pub(crate) timestep: &'a [Option<V>],
}

impl<V> Values<'_, V> {
    pub(crate) fn get(&self, id: ValueId) -> Option<&V> {
        let stages = [self.step.as_slice(), self.prompt, self.timestep];
        stages.into_iter().find_map(|values| values.get(id.index())?.as_ref())
    }
}

impl<'a, V> Call<'a, V> {
    pub(crate) fn value(&self, id: ValueId) -> Result<&'a V, RuntimeError> {
        let missing = || self.error(format!("value {} is not computed", id.0));
        self.values.get(id).ok_or_else(missing)
    }

    pub(crate) fn extent(&self, id: ValueId) -> Extent {
        self.program.values[id.index()].extent
    }

    pub(crate) fn shape(&self, id: ValueId) -> &'a Shape {
        &self.program.values[id.index()].shape
    }

    /// Last dimension.
    pub(crate) fn channels(&self, id: ValueId) -> usize {
        self.shape(id).last().copied().unwrap_or(1)
    }

    /// First dimension.
    pub(crate) fn images(&self, id: ValueId) -> usize {
        self.shape(id).first().copied().unwrap_or(1)
    }

    /// Rows per image at full extent.
    pub(crate) fn pixels(&self, id: ValueId) -> usize {
        let shape = self.shape(id);
        shape.iter().take(shape.len().saturating_sub(1)).skip(1).product()
    }

    /// Elements that are stored.
    pub(crate) fn elements(&self, id: ValueId) -> Result<usize, RuntimeError> {
        Ok(match self.extent(id) {
            Extent::Full => self.shape(id).elements(),
            Extent::Active(level) => self.images(id) * self.active(level)?.len() * self.channels(id),
        })
    }

    pub(crate) fn active(&self, level: u32) -> Result<&'a ActiveSet, RuntimeError> {
        let unbound = || self.error("it is sparse and no mask is bound");
        self.binding.map(|binding| binding.active(level)).ok_or_else(unbound)
    }

    /// The active set of a value, `None` when it is full.
    pub(crate) fn active_of(&self, id: ValueId) -> Result<Option<&'a ActiveSet>, RuntimeError> {
        match self.extent(id) {
            Extent::Full => Ok(None),
            Extent::Active(level) => self.active(level).map(Some),
        }
    }

    /// The recorded value of a slot at this step.
    pub(crate) fn slot(&self, id: SlotId) -> Result<HostTensor, RuntimeError> {
        let source = self
            .source
            .ok_or_else(|| self.error("it reads a slot and no recording is given"))?;
        recorded(self.plan, source, self.step, id)
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> RuntimeError {
        RuntimeError::plan(&self.node.name, reason)
    }
}

/// A slot's value, checked against the plan.
pub(crate) fn recorded(
    plan: &Plan,
    source: &dyn SlotSource,
    step: usize,
    id: SlotId,
) -> Result<HostTensor, RuntimeError> {
    let slot = &plan.slots[id.index()];
    let value = source.slot(step, id)?;
    let value = match slot.kind {
        SlotKind::Maps { .. } => widened(value, &slot.shape)?,
        _ => value,
    };
    if (value.dtype(), value.shape()) != (slot.dtype, &slot.shape) {
        return Err(RuntimeError::Mismatch {
            what: format!("slot `{}`", slot.name),
            expected_dtype: slot.dtype,
            expected: slot.shape.clone(),
            dtype: value.dtype(),
            shape: value.shape().clone(),
        });
    }
    Ok(value)
}

/// Maps `[heads, L, used]` with zeros for the tokens after the used ones, when they fit `shape` otherwise.
fn widened(maps: HostTensor, shape: &Shape) -> Result<HostTensor, RuntimeError> {
    let (&[heads, queries, used], &[.., tokens]) = (maps.shape().dims(), shape.dims()) else {
        return Ok(maps);
    };
    if used >= tokens || [heads, queries] != shape[..2] {
        return Ok(maps);
    }
    let size = maps.dtype().size();
    let mut bytes = vec![0; shape.elements() * size];
    let rows = bytes.chunks_exact_mut(tokens * size);
    for (row, given) in rows.zip(maps.data().chunks_exact((used * size).max(1))) {
        row[..used * size].copy_from_slice(given);
    }
    Ok(HostTensor::new(maps.dtype(), shape.clone(), bytes.into())?)
}
