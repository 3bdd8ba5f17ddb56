//! Buffers that convolutions gather their sources in: active rows first, behind them the ring of recorded ones.
//!
//! Frozen norms are known before the step begins, so most of this is nobody's work: whoever computes active rows writes
//! them, scaled, where the next convolution reads them, and the rings of all convolutions are fetched by one launch at the
//! step's start.

use std::collections::{HashMap, HashSet};

use fisec_kernels::cuda::{Address, CONV_NORMED_SILU, Epilogue, Rows};
use fisec_plan::{ConvKernel, Extent, Kernel, SlotId, SlotKind, Stage, ValueId};

use super::rows::{Move, Scaled};
use super::{Assembler, Context, Rowed};
use crate::RuntimeError;
use crate::cuda::lists::{List, Window};

/// A convolution's source: node and position.
type Place = (usize, usize);

/// What a program's convolutions gather.
pub(super) struct Gathering {
    sources: HashMap<Place, Source>,
    /// for a computed value the source that takes it as soon as it is there
    taken: HashMap<ValueId, Place>,
    /// for a computed value its affine call with coefficients known before the step
    scaled: HashMap<ValueId, Affine>,
    /// how often a value is read, in any way
    uses: HashMap<ValueId, usize>,
}

/// Rows of a value scaled for somebody who does not gather.
#[derive(Clone, Copy)]
struct Affine {
    scaled: Scaled,
    output: ValueId,
}

/// One source that is gathered.
#[derive(Clone, Copy)]
struct Source {
    value: ValueId,
    outside: Option<SlotId>,
    window: Window,
    scaled: Scale,
    rows: Option<Rowed>,
    has_active: bool,
    has_ring: bool,
}

#[derive(Clone, Copy)]
enum Scale {
    None,
    /// known before the step
    Recorded(Scaled),
    /// computed in it
    Computed,
}

impl Gathering {
    pub(super) fn new(context: &Context<'_>) -> Self {
        let mut gathering = Gathering {
            sources: HashMap::new(),
            taken: HashMap::new(),
            scaled: HashMap::new(),
            uses: uses(context),
        };
        let frozen = frozen_norms(context);
        let mut products = HashSet::new();
        for (index, node) in context.program.nodes.iter().enumerate() {
            match &node.kernel {
                Kernel::Conv(conv) => {
                    gathering.conv(context, index, conv, &frozen, &products);
                    products.insert(conv.output);
                }
                Kernel::Linear(linear) if linear.siblings.is_empty() => {
                    products.insert(linear.output);
                }
                Kernel::Affine {
                    input,
                    coefficients,
                    silu,
                    output,
                } if products.contains(input) => {
                    let Some(&known) = frozen.get(coefficients) else {
                        continue;
                    };
                    let channels = context.program.values[input.index()].shape.last().copied();
                    let scaled = Scaled {
                        coefficients: known,
                        channels: channels.unwrap_or(1),
                        silu: *silu,
                    };
                    gathering.scaled.entry(*input).or_insert(Affine {
                        scaled,
                        output: *output,
                    });
                }
                _ => {}
            }
        }
        gathering
    }

    fn conv(
        &mut self,
        context: &Context<'_>,
        node: usize,
        conv: &ConvKernel,
        frozen: &HashMap<ValueId, Address>,
        products: &HashSet<ValueId>,
    ) {
        let Some(window) = window(context, conv) else { return };
        let mut first = 0;
        for (position, source) in conv.sources.iter().enumerate() {
            let channels = |id: ValueId| context.program.values[id.index()].shape.last().copied().unwrap_or(1);
            let scaled = match conv.coefficients.map(|id| (id, frozen.get(&id))) {
                None => Scale::None,
                Some((_, None)) => Scale::Computed,
                Some((id, Some(&coefficients))) => Scale::Recorded(
                    Scaled {
                        coefficients,
                        channels: channels(id),
                        silu: conv.silu,
                    }
                    .from(first),
                ),
            };
            first += channels(source.value);
            let place = (node, position);
            if products.contains(&source.value) && !matches!(scaled, Scale::Computed) {
                self.taken.entry(source.value).or_insert(place);
            }
            let gathered = Source {
                value: source.value,
                outside: source.outside,
                window,
                scaled,
                rows: None,
                has_active: false,
                has_ring: false,
            };
            self.sources.insert(place, gathered);
        }
    }
}

/// The levels of a convolution that gathers: all its sources active at one level, its output active.
fn window(context: &Context<'_>, conv: &ConvKernel) -> Option<Window> {
    let level = |id: ValueId| match context.program.values[id.index()].extent {
        Extent::Active(level) => Some(level),
        Extent::Full => None,
    };
    let (output, input) = (level(conv.output)?, level(conv.sources[0].value)?);
    let geometry = super::sources::whole_window(conv);
    let gathers = conv.coefficients.is_some() || !super::sources::is_pointwise(&geometry);
    let same = conv.sources.iter().all(|source| level(source.value) == Some(input));
    (same && gathers).then_some(Window {
        input,
        output,
        geometry,
    })
}

/// Coefficients that are recorded: their slots.
fn frozen_norms(context: &Context<'_>) -> HashMap<ValueId, Address> {
    let steps = context.program.nodes.iter().filter(|node| node.stage == Stage::Step);
    let reads = steps.filter_map(|node| match node.kernel {
        Kernel::ReadSlot { slot, output } => Some((slot, output)),
        _ => None,
    });
    let norms = reads.filter(|(slot, _)| context.plan.slots[slot.index()].kind == SlotKind::Stats);
    norms
        .map(|(slot, output)| (output, Address::in_slot(super::table::READ, context.slots.offset(slot))))
        .collect()
}

fn uses(context: &Context<'_>) -> HashMap<ValueId, usize> {
    let mut uses = HashMap::new();
    let program = context.program;
    let reads = program.nodes.iter().flat_map(|node| node.kernel.inputs());
    let kept = context.prepared.remembered.iter().flatten().map(|(_, value)| *value);
    let kept = kept.filter(|_| context.remember);
    for id in reads.chain(program.outputs.values().copied()).chain(kept) {
        *uses.entry(id).or_insert(0) += 1;
    }
    uses
}

impl Assembler<'_> {
    /// Fetches all rings that are recorded, before the first node.
    pub(super) fn fetch_rings(&mut self) {
        let mut places: Vec<Place> = self.gathering.sources.keys().copied().collect();
        places.sort_unstable();
        let mut moves = Vec::new();
        for place in places {
            let source = self.gathering.sources[&place];
            if source.outside.is_some() && !matches!(source.scaled, Scale::Computed) {
                moves.extend(self.ring_of(place, None));
            }
        }
        if !moves.is_empty() {
            self.moves(&moves);
        }
    }

    /// Whether this node gathers its sources.
    pub(super) fn gathers(&self) -> bool {
        self.gathering.sources.contains_key(&(self.node, 0))
    }

    /// The gathered sources of this node, completed; `None` when it does not gather.
    pub(super) fn gathered(
        &mut self,
        conv: &ConvKernel,
        scaled: Option<Scaled>,
    ) -> Result<Option<(Vec<Rowed>, Window)>, RuntimeError> {
        let Some(first) = self.gathering.sources.get(&(self.node, 0)) else {
            return Ok(None);
        };
        let window = first.window;
        let mut moves = Vec::new();
        let mut channels = 0;
        for (position, source) in conv.sources.iter().enumerate() {
            let place = (self.node, position);
            let scaled = scaled.map(|scaled| scaled.from(channels));
            moves.extend(self.active_of(place, scaled)?);
            moves.extend(self.ring_of(place, scaled));
            channels += self.channels(source.value);
        }
        if !moves.is_empty() {
            // in the same launch: what later convolutions take of values that are there already
            moves.extend(self.waiting()?);
            self.moves(&moves);
        }
        let places = (0..conv.sources.len()).map(|position| (self.node, position));
        let rows: Vec<Place> = places.collect();
        Ok(Some((
            rows.into_iter().map(|place| self.buffer(place)).collect(),
            window,
        )))
    }

    /// Where a computed value's rows are also written, when a convolution takes them.
    pub(super) fn taken(&mut self, output: ValueId, epilogue: Epilogue) -> Epilogue {
        let Some(&place) = self.gathering.taken.get(&output) else {
            return self.scaled_too(output, epilogue);
        };
        let rows = self.buffer(place);
        let source = self.gathering.sources.get_mut(&place).expect("taken by a source");
        source.has_active = true;
        let scaled = match source.scaled {
            Scale::Recorded(scaled) => Some(scaled),
            _ => None,
        };
        let window = source.window;
        let epilogue = Epilogue {
            normed: rows.address,
            normed_stride: rows.stride as i32,
            normed_rows: self.rows_of_window(window),
            ..epilogue
        };
        scaled.map_or(epilogue, |scaled| scaled.in_epilogue(epilogue))
    }

    /// Where a computed value's rows are written scaled for an affine call, which then has nothing to do.
    fn scaled_too(&mut self, value: ValueId, epilogue: Epilogue) -> Epilogue {
        let Some(&Affine { scaled, output }) = self.gathering.scaled.get(&value) else {
            return epilogue;
        };
        let rows = self.make_rows(output);
        scaled.in_epilogue(Epilogue {
            normed: rows.address,
            normed_stride: rows.stride as i32,
            normed_rows: Rows::PACKED,
            ..epilogue
        })
    }

    /// Whether a value is read by the convolution that takes it and by nobody else.
    pub(super) fn is_only_taken(&self, output: ValueId) -> bool {
        self.gathering.taken.contains_key(&output)
            && self.gathering.uses.get(&output) == Some(&1)
            && !self.recorded.contains_key(&output)
    }

    /// Rows of an image in a gathered buffer.
    pub(super) fn rows_of_window(&mut self, window: Window) -> Rows {
        let gathered = self.list(List::Gathered(window));
        Rows::of(self.count_of(gathered))
    }

    fn buffer(&mut self, place: Place) -> Rowed {
        let source = self.gathering.sources[&place];
        if let Some(rows) = source.rows {
            return rows;
        }
        let most = self.list(List::Gathered(source.window)).most;
        let stride = self.stride(source.value);
        let bytes = self.images(source.value) * most * stride * 2;
        let rows = Rowed {
            address: Address::at(self.allocate(bytes, place.0)),
            stride,
        };
        self.gathering.sources.get_mut(&place).expect("known").rows = Some(rows);
        rows
    }

    /// Active rows of later sources whose values exist and that nobody writes there.
    fn waiting(&mut self) -> Result<Vec<Move>, RuntimeError> {
        let later = self.gathering.sources.iter().filter(|((node, _), source)| {
            let is_known = self.values.contains_key(&source.value);
            *node > self.node && is_known && !source.has_active && !matches!(source.scaled, Scale::Computed)
        });
        let mut places: Vec<Place> = later.map(|(place, _)| *place).collect();
        places.sort_unstable();
        let mut moves = Vec::new();
        for place in places {
            moves.extend(self.active_of(place, None)?);
        }
        Ok(moves)
    }

    fn active_of(&mut self, place: Place, computed: Option<Scaled>) -> Result<Option<Move>, RuntimeError> {
        let source = self.gathering.sources[&place];
        if source.has_active {
            return Ok(None);
        }
        let (from, from_rows) = self.rows_of_images(source.value)?;
        let to = self.buffer(place);
        let to_rows = self.rows_of_window(source.window);
        self.gathering.sources.get_mut(&place).expect("known").has_active = true;
        Ok(Some(Move {
            from_rows,
            to_rows,
            scaled: source.scaled(computed),
            ..self.straight(source.value, from, to)
        }))
    }

    fn ring_of(&mut self, place: Place, computed: Option<Scaled>) -> Option<Move> {
        let source = self.gathering.sources[&place];
        // where nothing is recorded, binding has made sure that no active output reads there
        let slot = source.outside.filter(|_| !source.has_ring)?;
        self.gathering.sources.get_mut(&place).expect("known").has_ring = true;
        if super::sources::is_pointwise(&source.window.geometry) {
            return None;
        }
        let to = self.buffer(place);
        let to_rows = self.rows_of_window(source.window);
        let from = Rowed {
            address: self.slot_read(slot),
            stride: to.stride,
        };
        let (from_rows, live) = self.listed(List::Ring(source.window), self.pixels(source.value));
        let from_rows = self.recorded_rows(slot, source.value, from_rows);
        let first = self.live(source.value).count;
        Some(Move {
            from_rows,
            to_rows,
            first,
            live,
            scaled: source.scaled(computed),
            ..self.straight(source.value, from, to)
        })
    }
}

impl Scaled {
    /// Scale and shift of an epilogue's second output.
    fn in_epilogue(self, epilogue: Epilogue) -> Epilogue {
        Epilogue {
            affine: self.coefficients,
            affine_channels: self.channels as i32,
            flags: epilogue.flags | if self.silu { CONV_NORMED_SILU } else { 0 },
            ..epilogue
        }
    }
}

impl Source {
    fn scaled(&self, computed: Option<Scaled>) -> Option<Scaled> {
        match self.scaled {
            Scale::None => None,
            Scale::Recorded(scaled) => Some(scaled),
            Scale::Computed => computed,
        }
    }
}
