//! Where a product reads: maps as they are, scaled, or packed with the taps of its window.

use fisec_kernels::cpu::ConvGeometry;
use fisec_kernels::cuda::{Address, Rows};
use fisec_plan::cuda::TILE_CHANNELS;
use fisec_plan::{ConvKernel, ConvSource, Extent, ValueId};

use super::rows::{Move, Scaled};
use super::{Assembler, Held, Rowed};
use crate::RuntimeError;
use crate::binding::geometry;
use crate::cuda::lists::{List, Window};

/// Where a product reads.
pub(super) struct Sources {
    pub(super) rows: Vec<Rowed>,
    pub(super) widths: Vec<usize>,
    pub(super) image_rows: Rows,
    /// taps of every row; none: row `i` reads row `i`
    pub(super) taps: Option<List>,
}

impl Assembler<'_> {
    /// One source that is a concatenation of two as those two, when the weights' tiles allow it.
    pub(super) fn split_sources(&mut self, sources: &[ConvSource]) -> Result<Vec<ConvSource>, RuntimeError> {
        let [only] = sources else { return Ok(sources.to_vec()) };
        if self.gathers() {
            return Ok(sources.to_vec());
        }
        let Held::Concat(parts) = self.held(only.value)? else {
            return Ok(sources.to_vec());
        };
        let whole_tiles = self.channels(parts[0]).is_multiple_of(TILE_CHANNELS);
        if parts.len() != 2 || !whole_tiles || only.outside.is_some() {
            return Ok(sources.to_vec());
        }
        let part = |value| ConvSource { value, outside: None };
        Ok(parts.into_iter().map(part).collect())
    }

    /// Whole maps: taps are pixels.
    pub(super) fn map_sources(&mut self, conv: &ConvKernel, inputs: &[ConvSource]) -> Result<Sources, RuntimeError> {
        let rows = match conv.coefficients {
            None => self.rows_of(inputs)?,
            Some(coefficients) => match self.held(coefficients)? {
                Held::Norm(node) => self.normed_maps(node, inputs, conv.silu)?,
                _ => self.scaled_maps(conv, inputs)?,
            },
        };
        let geometry = whole_window(conv);
        let taps = match self.extent(conv.output) {
            Extent::Full if is_pointwise(&geometry) => None,
            Extent::Full => Some(List::PixelTaps(None, geometry)),
            Extent::Active(level) => Some(List::PixelTaps(Some(level), geometry)),
        };
        Ok(Sources {
            rows,
            widths: inputs.iter().map(|source| self.stride(source.value)).collect(),
            image_rows: self.whole(inputs[0].value),
            taps,
        })
    }

    pub(super) fn rows_of(&mut self, inputs: &[ConvSource]) -> Result<Vec<Rowed>, RuntimeError> {
        inputs.iter().map(|source| self.rows(source.value)).collect()
    }

    /// Room for a map beside a value's own.
    pub(super) fn scratch_map(&mut self, like: ValueId) -> Rowed {
        let stride = self.stride(like);
        let bytes = self.images(like) * self.pixels(like) * stride * 2;
        Rowed {
            address: Address::at(self.scratch(bytes)),
            stride,
        }
    }

    /// Whole maps, normed by statistics of their own.
    pub(super) fn normed_maps(
        &mut self,
        node: usize,
        inputs: &[ConvSource],
        silu: bool,
    ) -> Result<Vec<Rowed>, RuntimeError> {
        let from = self.rows_of(inputs)?;
        let parts: Vec<(ValueId, Rowed)> = inputs.iter().map(|source| source.value).zip(from).collect();
        let to: Vec<Rowed> = inputs.iter().map(|source| self.scratch_map(source.value)).collect();
        self.whole_norm(node, &parts, &to, silu)?;
        Ok(to)
    }

    /// Whole maps, scaled by coefficients that are known.
    pub(super) fn scaled_maps(&mut self, conv: &ConvKernel, inputs: &[ConvSource]) -> Result<Vec<Rowed>, RuntimeError> {
        let scaled = self.scaled(conv)?;
        let mut rows = Vec::new();
        let mut moves = Vec::new();
        let mut first = 0;
        for source in inputs {
            let from = self.rows(source.value)?;
            let to = self.scratch_map(source.value);
            moves.push(Move {
                scaled: scaled.map(|scaled| scaled.from(first)),
                ..self.straight(source.value, from, to)
            });
            rows.push(to);
            first += self.channels(source.value);
        }
        self.moves(&moves);
        Ok(rows)
    }

    /// Packed rows, gathered where taps reach beyond them or a norm applies.
    pub(super) fn packed_sources(&mut self, conv: &ConvKernel, inputs: &[ConvSource]) -> Result<Sources, RuntimeError> {
        let level = |id: ValueId| match self.extent(id) {
            Extent::Active(level) => Some(level),
            Extent::Full => None,
        };
        let levels: Vec<u32> = inputs.iter().filter_map(|source| level(source.value)).collect();
        let Some(output) = level(conv.output) else {
            return Err(self.error("active rows are read for a whole map"));
        };
        let input = levels[0];
        if levels.iter().any(|&other| other != input) {
            return Err(self.error("its sources are of different levels"));
        }
        let geometry = whole_window(conv);
        let scaled = self.scaled(conv)?;
        let widths = inputs.iter().map(|source| self.stride(source.value)).collect();
        let taps_of = |window| (!is_pointwise(&geometry)).then_some(List::GatheredTaps(window));
        if let Some((rows, window)) = self.gathered(conv, scaled)? {
            return Ok(Sources {
                rows,
                widths,
                image_rows: self.rows_of_window(window),
                taps: taps_of(window),
            });
        }
        if levels.len() == inputs.len() {
            let rows = inputs
                .iter()
                .map(|source| self.rows(source.value))
                .collect::<Result<_, _>>()?;
            return Ok(Sources {
                rows,
                widths,
                image_rows: Rows::PACKED,
                taps: None,
            });
        }
        let window = Window {
            input,
            output,
            geometry,
        };
        let gathered = self.list(List::Gathered(window));
        let rows_to = Rows::of(self.count_of(gathered));
        let mut rows = Vec::new();
        let mut moves = Vec::new();
        let mut first = 0;
        for source in inputs {
            let from = self.rows(source.value)?;
            let stride = self.stride(source.value);
            let bytes = self.images(source.value) * gathered.most * stride * 2;
            let to = Rowed {
                address: Address::at(self.scratch(bytes)),
                stride,
            };
            let scaled = scaled.map(|scaled| scaled.from(first));
            moves.extend(self.gather_moves(source, from, to, rows_to, window, scaled)?);
            rows.push(to);
            first += self.channels(source.value);
        }
        self.moves(&moves);
        Ok(Sources {
            rows,
            widths,
            image_rows: rows_to,
            taps: taps_of(window),
        })
    }

    /// Moves that gather one of several sources some of which are whole maps.
    pub(super) fn gather_moves(
        &mut self,
        source: &ConvSource,
        from: Rowed,
        to: Rowed,
        to_rows: Rows,
        window: Window,
        scaled: Option<Scaled>,
    ) -> Result<Vec<Move>, RuntimeError> {
        let pixels = self.pixels(source.value);
        let is_full = self.extent(source.value) == Extent::Full;
        let (active_rows, active) = self.listed(List::Active(window.input), pixels);
        let straight = self.straight(source.value, from, to);
        let mut moves = vec![Move {
            from_rows: if is_full { active_rows } else { Rows::PACKED },
            to_rows,
            live: active,
            scaled,
            ..straight
        }];
        if is_pointwise(&window.geometry) {
            return Ok(moves);
        }
        let (mut ring_rows, ring) = self.listed(List::Ring(window), pixels);
        let outside = match (source.outside, is_full) {
            (Some(slot), _) => {
                ring_rows = self.recorded_rows(slot, source.value, ring_rows);
                Rowed {
                    address: self.slot_read(slot),
                    stride: to.stride,
                }
            }
            (None, true) => from,
            // binding has made sure that no active output reads there
            (None, false) => return Ok(moves),
        };
        moves.push(Move {
            from: outside,
            from_rows: ring_rows,
            to_rows,
            first: active.count,
            live: ring,
            scaled,
            ..straight
        });
        Ok(moves)
    }

    pub(super) fn scaled(&mut self, conv: &ConvKernel) -> Result<Option<Scaled>, RuntimeError> {
        let Some(coefficients) = conv.coefficients else {
            return Ok(None);
        };
        Ok(Some(Scaled {
            coefficients: self.floats(coefficients)?,
            channels: self.channels(coefficients),
            silu: conv.silu,
        }))
    }

    pub(super) fn table_of(&mut self, list: List) -> u64 {
        let placed = self.list(list);
        self.entries_of(placed)
    }
}

/// A convolution's sizes with all its taps.
pub(super) fn whole_window(conv: &ConvKernel) -> ConvGeometry {
    ConvGeometry {
        by_parity: false,
        ..geometry(conv)
    }
}

/// Whether output `i` reads exactly input `i`.
pub(super) fn is_pointwise(geometry: &ConvGeometry) -> bool {
    geometry.kernel == [1, 1] && geometry.stride == [1, 1] && geometry.padding == [0, 0] && geometry.upsample.is_none()
}

impl Scaled {
    /// The coefficients of the channels from `first` on.
    pub(super) fn from(self, first: usize) -> Self {
        Scaled {
            coefficients: self.coefficients.offset((first * size_of::<f32>()) as u64),
            ..self
        }
    }
}
