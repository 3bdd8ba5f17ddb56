//! Where recorded activations come from and go to.

use fisec_plan::SlotId;
use fisec_tensor::HostTensor;

use crate::RuntimeError;

/// Recorded activations of one image.
pub trait SlotSource: Sync {
    /// Name of the recording, by which a device may know that it still holds it. Two recordings of one name are equal.
    fn recording(&self) -> Option<&str> {
        None
    }

    /// The whole value of `slot` at `step`, in the slot's element type and shape. Cross-attention maps may end after the
    /// last token of the prompt; those of the tokens that follow count as zero.
    fn slot(&self, step: usize, slot: SlotId) -> Result<HostTensor, RuntimeError>;
}

/// Takes the activations of an image that is being made.
pub trait SlotSink: Send {
    /// Name under which the recording can be read again: see [`SlotSource::recording`].
    fn recording(&self) -> Option<&str> {
        None
    }

    /// Whether `slot` of `step` is of use. What is not is not computed, where that saves work.
    fn wants(&self, _step: usize, _slot: SlotId) -> bool {
        true
    }

    /// Whether a slot that is of use is wanted at once. If not, a device that keeps it puts it when [asked
    /// to](crate::Executor::hand_over).
    fn wants_now(&self, _step: usize, _slot: SlotId) -> bool {
        true
    }

    /// Records `value` (any float type, the slot's shape) as `slot` of `step`.
    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError>;
}
