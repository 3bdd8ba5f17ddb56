//! A dense program that knows no slots, with the memory it runs in: a network beside the denoiser, or the prompt's values.

use std::collections::{BTreeMap, HashMap};

use fisec_plan::Program;
use fisec_tensor::ActiveSet;

use super::assemble::{Boxes, Context, measure, table};
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
    memory: Memory,
    values: Buffer,
}

/// What all programs over the same weights share.
pub(super) struct Memory {
    weights: Weights,
    table: Buffer,
    input: Buffer,
}

impl Dense {
    /// Captures `program`, whose input takes `input_bytes`.
    pub(super) fn capture(
        shared: &Shared,
        program: &Program,
        input_bytes: usize,
        boxes: &Boxes,
    ) -> Result<Self, RuntimeError> {
        let (bundle, device) = (&shared.bundle, &shared.device);
        device.enter()?;
        let nodes = program.nodes.iter();
        let memory = Memory {
            weights: Weights::upload(device, &shared.functions, bundle, nodes, &BTreeMap::new())?,
            table: device.upload(&[0; table::ENTRIES * size_of::<u64>()])?,
            input: device.allocate(input_bytes)?,
        };
        let mut values = device.allocate(0)?;
        let captured = memory.capture(shared, program, boxes, &[], |bytes| {
            values = device.allocate(bytes)?;
            Ok(Some(values.address()))
        })?;
        Ok(Dense {
            captured: captured.expect("there is memory for it"),
            memory,
            values,
        })
    }

    /// Captures another program of the same weights and input, which is not to run while this one does. `None` when it needs
    /// more memory.
    pub(super) fn capture_too(
        &self,
        shared: &Shared,
        program: &Program,
        boxes: &Boxes,
        levels: &[ActiveSet],
    ) -> Result<Option<Captured>, RuntimeError> {
        let values = &self.values;
        self.memory.capture(shared, program, boxes, levels, |bytes| {
            Ok((bytes <= values.bytes()).then_some(values.address()))
        })
    }

    /// The table that launches name.
    pub(super) fn table(&self) -> u64 {
        self.memory.table.address()
    }

    /// Writes the input, in the order of the stream.
    pub(super) fn write_input(&mut self, rows: &[u8]) -> Result<(), RuntimeError> {
        self.memory.input.write(0, rows)
    }
}

impl Memory {
    /// `values` gives the memory that the program's values need.
    fn capture(
        &self,
        shared: &Shared,
        program: &Program,
        boxes: &Boxes,
        levels: &[ActiveSet],
        values: impl FnOnce(usize) -> Result<Option<u64>, RuntimeError>,
    ) -> Result<Option<Captured>, RuntimeError> {
        let plan = shared.bundle.plan();
        let context = Context {
            plan,
            program,
            prepared: &Prepared::network(program),
            gpu: shared.gpu,
            levels,
            weights: &self.weights.addresses,
            folded: &self.weights.folded,
            norms: &FoldedNorms::default(),
            early: &HashMap::new(),
            slots: &SlotBlock::new(plan),
            table: self.table.address(),
            sample: self.input.address(),
            control: &HashMap::new(),
            remember: false,
            maps: false,
            boxes,
        };
        let measured = measure(&context)?;
        let Some(values) = values(measured.bytes)? else {
            return Ok(None);
        };
        let captured = Captured::new(&shared.device, &shared.functions, &context, None, &measured, values)?;
        Ok(Some(captured))
    }
}
