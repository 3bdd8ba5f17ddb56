//! A dense program that knows no slots, with the memory it runs in: a network beside the denoiser, or the prompt's values.

use std::collections::{BTreeMap, HashMap};

use fisec_plan::Program;

use super::assemble::{Context, measure, table};
use super::captured::Captured;
use super::driver::Buffer;
use super::folded::FoldedNorms;
use super::network::Shared;
use super::slots::SlotBlock;
use super::weights::Weights;
use crate::RuntimeError;
use crate::executor::Prepared;

/// A captured program, its weights uploaded.
pub(super) struct Dense {
    // the graph goes before the memory that it uses
    pub(super) captured: Captured,
    _weights: Weights,
    _values: Buffer,
    pub(super) table: Buffer,
    pub(super) input: Buffer,
}

impl Dense {
    /// Captures `program`, whose input takes `input_bytes`.
    pub(super) fn capture(shared: &Shared, program: &Program, input_bytes: usize) -> Result<Self, RuntimeError> {
        let (bundle, device) = (&shared.bundle, &shared.device);
        let plan = bundle.plan();
        device.enter()?;
        let nodes = program.nodes.iter();
        let weights = Weights::upload(device, &shared.functions, bundle, nodes, &BTreeMap::new())?;
        let table = device.upload(&[0; table::ENTRIES * size_of::<u64>()])?;
        let input = device.allocate(input_bytes)?;
        let context = Context {
            plan,
            program,
            prepared: &Prepared::network(program),
            gpu: shared.gpu,
            levels: &[],
            weights: &weights.addresses,
            folded: &weights.folded,
            norms: &FoldedNorms::default(),
            early: &HashMap::new(),
            slots: &SlotBlock::new(plan),
            table: table.address(),
            sample: input.address(),
            control: &HashMap::new(),
            remember: false,
            maps: false,
        };
        let measured = measure(&context)?;
        let values = device.allocate(measured.bytes)?;
        let captured = Captured::new(device, &shared.functions, &context, None, &measured, values.address())?;
        Ok(Dense {
            captured,
            _weights: weights,
            _values: values,
            table,
            input,
        })
    }
}
