//! A program's launches as graphs, and the lists that a mask fills.

use std::collections::HashMap;
use std::sync::Arc;

use fisec_kernels::cuda::MoveJob;
use fisec_plan::{IslandCall, Kernel, Plan, Program, ProgramKind, ValueId};
use fisec_tensor::{ActiveSet, Mask};

use super::assemble::{Assembled, Blocks, Context, Item, Prediction, Rowed, assemble};
use super::driver::{Buffer, Device, Event, Functions, Graph};
use super::islands::{Islands, Operand};
use crate::RuntimeError;

/// One program for one bucket, ready to run at any step.
pub(super) struct Captured {
    /// `None`: a network beside the denoiser
    pub(super) kind: Option<ProgramKind>,
    pub(super) remember: bool,
    pub(super) maps: bool,
    pub(super) prediction: Prediction,
    segments: Vec<Segment>,
    assembled: Assembled,
    lists: Buffer,
    /// what `lists` holds
    listed: Vec<u8>,
    _jobs: Buffer,
    mask: Option<Mask>,
    /// by node
    islands: HashMap<usize, IslandCall>,
}

enum Segment {
    Graph(Graph),
    /// index into the items
    Island(usize),
}

impl Captured {
    /// Captures what `measured` has measured, its values in `values`.
    pub(super) fn new(
        device: &Arc<Device>,
        functions: &Functions,
        context: &Context<'_>,
        kind: Option<ProgramKind>,
        measured: &Assembled,
        values: u64,
    ) -> Result<Self, RuntimeError> {
        let lists = device.allocate(measured.lists.bytes())?;
        let mut jobs = device.allocate(measured.jobs.len() * size_of::<MoveJob>())?;
        let blocks = Blocks {
            values,
            lists: lists.address(),
            jobs: jobs.address(),
        };
        let assembled = assemble(context, measured, blocks)?;
        jobs.write_beside(0, bytemuck::cast_slice(&assembled.jobs))?;
        let mut captured = Captured {
            kind,
            remember: context.remember,
            maps: context.maps,
            prediction: assembled.prediction,
            segments: Vec::new(),
            assembled,
            lists,
            listed: Vec::new(),
            _jobs: jobs,
            mask: None,
            islands: islands(context.program),
        };
        captured.segments = captured.capture(device, functions)?;
        if context.levels.is_empty() {
            captured.fill(context.levels)?;
        }
        Ok(captured)
    }

    fn capture(&self, device: &Arc<Device>, functions: &Functions) -> Result<Vec<Segment>, RuntimeError> {
        let items = &self.assembled.items;
        let islands = items
            .iter()
            .enumerate()
            .filter(|(_, item)| matches!(item, Item::Island(..)));
        let mut ends: Vec<usize> = islands.map(|(index, _)| index).collect();
        ends.push(items.len());
        let mut segments = Vec::new();
        let mut first = 0;
        for end in ends {
            if first < end {
                let graph = device.capture(|| {
                    let part = &items[first..end];
                    // SAFETY: assembled over buffers that live as long as this graph, see `Engine`.
                    part.iter().try_for_each(|item| unsafe { put(device, functions, item) })
                })?;
                segments.push(Segment::Graph(graph));
            }
            if end < items.len() {
                segments.push(Segment::Island(end));
            }
            first = end + 1;
        }
        Ok(segments)
    }

    /// Where an output of the program is.
    pub(super) fn output(&self, id: ValueId) -> Option<Rowed> {
        self.assembled.outputs.get(&id).copied()
    }

    /// Makes the lists those of a mask. `false` when the mask does not fit this bucket.
    pub(super) fn bind(&mut self, levels: &[ActiveSet]) -> Result<bool, RuntimeError> {
        let mask = levels[0].mask();
        if self.mask.as_ref() == Some(mask) {
            return Ok(true);
        }
        if !self.fill(levels)? {
            return Ok(false);
        }
        self.mask = Some(mask.clone());
        Ok(true)
    }

    /// The same whatever mask they are of now.
    pub(super) fn fill(&mut self, levels: &[ActiveSet]) -> Result<bool, RuntimeError> {
        let Some(changed) = self.assembled.lists.fill(levels, &mut self.listed) else {
            return Ok(false);
        };
        self.mask = None;
        // whoever runs the graph waits for it, so nothing on the stream reads them
        self.lists.write_beside(changed.start, &self.listed[changed])?;
        Ok(true)
    }

    /// Whether this bucket is not much larger than a mask needs.
    pub(super) fn is_near(&self, active: usize) -> bool {
        self.assembled
            .lists
            .most_active()
            .is_none_or(|most| most <= active + active / 4 + 16)
    }

    /// Whether something runs on the host between parts of the program.
    pub(super) fn has_islands(&self) -> bool {
        let is_island = |segment: &Segment| matches!(segment, Segment::Island(_));
        self.segments.iter().any(is_island)
    }

    /// Puts a program without islands on the stream.
    ///
    /// # Safety
    /// As [`Captured::run`].
    pub(super) unsafe fn launch(&self) -> Result<(), RuntimeError> {
        self.segments.iter().try_for_each(|segment| match segment {
            // SAFETY: the caller's promise.
            Segment::Graph(graph) => unsafe { graph.launch() },
            Segment::Island(_) => Err(RuntimeError::plan("edit", "it has an island")),
        })
    }

    /// Puts the whole program on the stream.
    ///
    /// # Safety
    /// The buffers that the context named are alive.
    pub(super) unsafe fn run(
        &self,
        islands: &mut Islands,
        plan: &Plan,
        resolve: &dyn Fn(Rowed) -> u64,
    ) -> Result<(), RuntimeError> {
        for segment in &self.segments {
            match segment {
                // SAFETY: the caller's promise.
                Segment::Graph(graph) => unsafe { graph.launch()? },
                // SAFETY: the caller's promise.
                Segment::Island(item) => unsafe { self.island(islands, plan, *item, resolve)? },
            }
        }
        Ok(())
    }

    /// Runs item by item and measures each node: seconds by node, in order.
    ///
    /// # Safety
    /// As [`Captured::run`].
    pub(super) unsafe fn measure(
        &self,
        device: &Arc<Device>,
        functions: &Functions,
        islands: &mut Islands,
        plan: &Plan,
        resolve: &dyn Fn(Rowed) -> u64,
    ) -> Result<Vec<(usize, f64)>, RuntimeError> {
        let mut events = vec![Event::new(device)?];
        events[0].record()?;
        let mut nodes = Vec::new();
        for (index, item) in self.assembled.items.iter().enumerate() {
            match item {
                // SAFETY: the caller's promise.
                Item::Island(..) => unsafe { self.island(islands, plan, index, resolve)? },
                // SAFETY: the caller's promise.
                _ => unsafe { put(device, functions, item)? },
            }
            let event = Event::new(device)?;
            event.record()?;
            events.push(event);
            nodes.push(match item {
                Item::Launch(node, _) | Item::Island(node, ..) | Item::Zero(node, ..) => *node,
            });
        }
        device.synchronize()?;
        let mut times: Vec<(usize, f64)> = Vec::new();
        for (pair, node) in events.windows(2).zip(nodes) {
            let seconds = pair[1].since(&pair[0])?;
            match times.last_mut() {
                Some((last, total)) if *last == node => *total += seconds,
                _ => times.push((node, seconds)),
            }
        }
        Ok(times)
    }

    /// # Safety
    /// As [`Captured::run`].
    unsafe fn island(
        &self,
        islands: &mut Islands,
        plan: &Plan,
        item: usize,
        resolve: &dyn Fn(Rowed) -> u64,
    ) -> Result<(), RuntimeError> {
        let Item::Island(node, inputs, outputs) = &self.assembled.items[item] else {
            unreachable!("an island's index")
        };
        let inputs: Vec<u64> = inputs.iter().map(|rows| resolve(*rows)).collect();
        let outputs: Vec<Operand> = outputs.iter().map(|(port, rows)| (*port, resolve(*rows))).collect();
        // SAFETY: values have the rows of their ports, in the block that they were assembled in.
        unsafe { islands.run(plan, &self.islands[node], &inputs, &outputs) }
    }
}

/// The islands of a program by node.
fn islands(program: &Program) -> HashMap<usize, IslandCall> {
    let nodes = program.nodes.iter().enumerate();
    let islands = nodes.filter_map(|(index, node)| match &node.kernel {
        Kernel::Island(call) => Some((index, call.clone())),
        _ => None,
    });
    islands.collect()
}

/// Puts one item that is no island on the stream.
///
/// # Safety
/// Its addresses are those of live buffers.
unsafe fn put(device: &Device, functions: &Functions, item: &Item) -> Result<(), RuntimeError> {
    match item {
        // SAFETY: the caller's promise.
        Item::Launch(_, launch) => unsafe { device.launch(functions, launch) },
        // SAFETY: the caller's promise.
        Item::Zero(_, address, bytes) => unsafe { device.zero(*address, *bytes) },
        Item::Island(..) => unreachable!("islands are no launches"),
    }
}
