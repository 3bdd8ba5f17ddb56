//! What a step takes, and what it must look like.

use fisec_plan::{ControlInput, Plan, Program, ProgramKind, SlotId};
use fisec_tensor::{DType, HostTensor, Shape};

use crate::{Binding, Control, RuntimeError, SlotSink, SlotSource};

/// What one step takes.
pub(crate) struct StepInput<'a> {
    pub(crate) step: usize,
    pub(crate) sample: &'a [f32],
    pub(crate) binding: Option<&'a Binding>,
    pub(crate) source: Option<&'a dyn SlotSource>,
    pub(crate) sink: Option<&'a mut dyn SlotSink>,
    pub(crate) control: Option<&'a Control>,
}

impl<'a> StepInput<'a> {
    pub(crate) fn dense(step: usize, sample: &'a [f32]) -> Self {
        StepInput {
            step,
            sample,
            binding: None,
            source: None,
            sink: None,
            control: None,
        }
    }

    pub(crate) fn wants(&self, slot: SlotId) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.wants(self.step, slot))
    }
}

/// Fails unless `context` is a text embedding of the plan.
pub(crate) fn check_context(plan: &Plan, context: &HostTensor) -> Result<(), RuntimeError> {
    let expected = Shape::from([plan.batch, plan.context[0], plan.context[1]]);
    if *context.shape() == expected && context.dtype().is_float() {
        return Ok(());
    }
    Err(RuntimeError::Mismatch {
        what: "text embedding".into(),
        expected_dtype: DType::F32,
        expected,
        dtype: context.dtype(),
        shape: context.shape().clone(),
    })
}

/// Fails when a step of `kind` cannot run with `input` after `timesteps` (how many) and the context were set.
pub(crate) fn check_step(
    plan: &Plan,
    timesteps: Option<usize>,
    has_context: bool,
    kind: ProgramKind,
    input: &StepInput<'_>,
) -> Result<(), RuntimeError> {
    let program = plan.programs.get(kind).ok_or(RuntimeError::NoProgram(kind.name()))?;
    let steps = timesteps.ok_or(RuntimeError::NotPrepared("timesteps"))?;
    if program.inputs.contains_key("context") && !has_context {
        return Err(RuntimeError::NotPrepared("text embedding"));
    }
    check_control(program, input)?;
    if input.step >= steps {
        return Err(RuntimeError::Step {
            step: input.step,
            steps,
        });
    }
    if input.binding.is_some_and(|binding| !binding.fits(plan)) {
        return Err(RuntimeError::ForeignBinding);
    }
    let [channels, height, width] = plan.latent;
    let expected = plan.samples() * channels * height * width;
    if input.sample.len() != expected {
        return Err(RuntimeError::SampleSize {
            expected,
            got: input.sample.len(),
        });
    }
    Ok(())
}

fn check_control(program: &Program, input: &StepInput<'_>) -> Result<(), RuntimeError> {
    for table in ControlInput::ALL {
        let Some(id) = program.inputs.get(table.name()) else {
            continue;
        };
        let given = input.control.ok_or(RuntimeError::NotPrepared("control"))?.table(table);
        let expected = &program.values[id.index()].shape;
        if given.shape() != expected {
            return Err(RuntimeError::Mismatch {
                what: table.name().into(),
                expected_dtype: DType::F32,
                expected: expected.clone(),
                dtype: DType::F32,
                shape: given.shape().clone(),
            });
        }
    }
    Ok(())
}
