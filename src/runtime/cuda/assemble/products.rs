//! Convolutions and linears.

use fisec_kernels::cpu::ConvGeometry;
use fisec_kernels::cuda::{
    self as kernel, Address, CONV_GEGLU, ConvChoice, ConvParams, ConvWork, Epilogue, ROW_PART_COLUMNS, Rows,
    conv_choice, k_tiles,
};
use fisec_plan::cuda::{TILE_CHANNELS, padded};
use fisec_plan::{ConvKernel, ConvSource, Extent, LinearKernel, ResidualSource, ValueId};

use super::rows::{Move, Scaled};
use super::{Assembler, Held, Rowed};
use crate::RuntimeError;
use crate::binding::geometry;
use crate::cuda::folded::FoldedNorm;
use crate::cuda::lists::{List, Window};

/// Where a product reads.
pub(super) struct Sources {
    rows: Vec<Rowed>,
    pub(super) widths: Vec<usize>,
    image_rows: Rows,
    /// taps of every row; none: row `i` reads row `i`
    pub(super) taps: Option<List>,
}

impl Assembler<'_> {
    pub(super) fn conv(&mut self, conv: &ConvKernel) -> Result<(), RuntimeError> {
        let inputs = self.split_sources(&conv.sources)?;
        let sources = match inputs.iter().all(|source| self.extent(source.value) == Extent::Full) {
            true => self.map_sources(conv, &inputs)?,
            false => self.packed_sources(conv, &inputs)?,
        };
        let time = conv.vector.map(|id| self.rows(id)).transpose()?;
        let epilogue = Epilogue {
            bias: self.optional_weight(conv.bias)?,
            time: time.map_or(Address::ABSENT, |rows| rows.address),
            time_stride: time.map_or(0, |rows| rows.stride as i32),
            ..Epilogue::default()
        };
        let epilogue = self.residual(epilogue, conv.residual, conv.output)?;
        if self.conv_by_parity(conv, &sources, epilogue)? {
            return Ok(());
        }
        let weight = self.weight(conv.weight)?;
        let taps = conv.kernel[0] * conv.kernel[1];
        let cout = padded(self.channels(conv.output));
        self.product(&sources, weight, (taps, cout), epilogue, conv.output)
    }

    pub(super) fn linear(&mut self, linear: &LinearKernel) -> Result<(), RuntimeError> {
        let norm = self.context.norms.of(self.node);
        let mut source = self.rows(norm.map_or(linear.input, |norm| norm.input))?;
        if let Some(norm) = linear.layer_norm.filter(|_| norm.is_none()) {
            let bytes = self.most_rows(linear.input) * source.stride * 2;
            let normed = Rowed {
                address: Address::at(self.scratch(bytes)),
                stride: source.stride,
            };
            self.layer_norm(linear.input, source, normed, norm)?;
            source = normed;
        }
        let sources = Sources {
            rows: vec![source],
            widths: vec![self.channels(linear.input)],
            image_rows: Rows::PACKED,
            taps: None,
        };
        let epilogue = Epilogue {
            bias: self.optional_weight(linear.bias)?,
            flags: if linear.geglu { CONV_GEGLU } else { 0 },
            ..Epilogue::default()
        };
        let epilogue = match norm {
            Some(norm) => self.normed(epilogue, linear, norm)?,
            None => epilogue,
        };
        let epilogue = self.residual(epilogue, linear.residual, linear.output)?;
        let weight = self.weight(linear.weight)?;
        let mut cout = self.channels(linear.output) * if linear.geglu { 2 } else { 1 };
        if linear.siblings.is_empty() {
            return self.product(&sources, weight, (1, cout), epilogue, linear.output);
        }
        cout += linear.siblings.iter().map(|&id| self.channels(id)).sum::<usize>();
        let epilogue = match self.make_parts(linear, epilogue) {
            Some(epilogue) => epilogue,
            None => {
                let to = self.make_columns(linear, cout);
                Epilogue {
                    output: to.address,
                    output_stride: to.stride as i32,
                    ..epilogue
                }
            }
        };
        self.multiply(&sources, weight, (1, cout), epilogue, linear.output)
    }

    /// A layer norm before the product, which its weights hold.
    fn normed(
        &mut self,
        epilogue: Epilogue,
        linear: &LinearKernel,
        norm: FoldedNorm,
    ) -> Result<Epilogue, RuntimeError> {
        let (Some(folded), Some(&parts)) = (self.context.folded.get(&linear.weight), self.row_parts.get(&norm.input))
        else {
            return Err(self.error("its layer norm is folded into nothing"));
        };
        Ok(Epilogue {
            bias: Address::at(folded.bias),
            norm_parts: parts,
            column_sums: folded.column_sums,
            norm_part_count: (self.channels(norm.input) / ROW_PART_COLUMNS) as i32,
            norm_epsilon: norm.epsilon as f32,
            ..epilogue
        })
    }

    /// Has mean and deviation of the output's rows written, where a folded norm reads them.
    fn with_row_parts(&mut self, epilogue: Epilogue, output: ValueId) -> Epilogue {
        let Some(last) = self.context.norms.last_of(output) else {
            return epilogue;
        };
        let count = self.channels(output) / ROW_PART_COLUMNS;
        let bytes = self.most_rows(output) * count * 2 * size_of::<f32>();
        let row_parts = self.allocate(bytes, last);
        self.row_parts.insert(output, row_parts);
        Epilogue {
            row_parts,
            row_part_count: count as i32,
            ..epilogue
        }
    }

    /// An epilogue that writes several results each to rows of their own, where one of them is recorded: it is computed in its slot.
    fn make_parts(&mut self, linear: &LinearKernel, epilogue: Epilogue) -> Option<Epilogue> {
        let outputs = results(linear);
        let width = self.channels(linear.output);
        let fits = outputs.len() <= 3 && outputs.iter().all(|&id| self.channels(id) == width);
        if !fits || !outputs.iter().any(|id| self.recorded.contains_key(id)) {
            return None;
        }
        let rows: Vec<Rowed> = outputs.into_iter().map(|id| self.make_rows(id)).collect();
        let beside = |index: usize| rows.get(index).map_or(Address::ABSENT, |rows| rows.address);
        Some(Epilogue {
            output: rows[0].address,
            output_stride: rows[0].stride as i32,
            beside: [beside(1), beside(2)],
            part_columns: width as i32,
            ..epilogue
        })
    }

    /// Rows of several results side by side.
    fn make_columns(&mut self, linear: &LinearKernel, columns: usize) -> Rowed {
        let outputs = results(linear);
        let last = outputs.iter().filter_map(|id| self.last_use.get(id)).max().copied();
        let bytes = self.most_rows(linear.output) * columns * 2;
        let whole = Rowed {
            address: Address::at(self.allocate(bytes, last.unwrap_or(self.node))),
            stride: columns,
        };
        let mut first = 0;
        for id in outputs {
            let rows = Rowed {
                address: whole.address.offset(first as u64 * 2),
                ..whole
            };
            self.values.insert(id, Held::Rows(rows));
            first += self.channels(id);
        }
        whole
    }

    /// One source that is a concatenation of two as those two, when the weights' tiles allow it.
    fn split_sources(&mut self, sources: &[ConvSource]) -> Result<Vec<ConvSource>, RuntimeError> {
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
    fn map_sources(&mut self, conv: &ConvKernel, inputs: &[ConvSource]) -> Result<Sources, RuntimeError> {
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

    fn rows_of(&mut self, inputs: &[ConvSource]) -> Result<Vec<Rowed>, RuntimeError> {
        inputs.iter().map(|source| self.rows(source.value)).collect()
    }

    /// Room for a map beside a value's own.
    fn scratch_map(&mut self, like: ValueId) -> Rowed {
        let stride = self.stride(like);
        let bytes = self.images(like) * self.pixels(like) * stride * 2;
        Rowed {
            address: Address::at(self.scratch(bytes)),
            stride,
        }
    }

    /// Whole maps, normed by statistics of their own.
    fn normed_maps(&mut self, node: usize, inputs: &[ConvSource], silu: bool) -> Result<Vec<Rowed>, RuntimeError> {
        let from = self.rows_of(inputs)?;
        let parts: Vec<(ValueId, Rowed)> = inputs.iter().map(|source| source.value).zip(from).collect();
        let to: Vec<Rowed> = inputs.iter().map(|source| self.scratch_map(source.value)).collect();
        self.whole_norm(node, &parts, &to, silu)?;
        Ok(to)
    }

    /// Whole maps, scaled by coefficients that are known.
    fn scaled_maps(&mut self, conv: &ConvKernel, inputs: &[ConvSource]) -> Result<Vec<Rowed>, RuntimeError> {
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
    fn packed_sources(&mut self, conv: &ConvKernel, inputs: &[ConvSource]) -> Result<Sources, RuntimeError> {
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
    fn gather_moves(
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

    fn scaled(&mut self, conv: &ConvKernel) -> Result<Option<Scaled>, RuntimeError> {
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

    fn residual(
        &mut self,
        epilogue: Epilogue,
        residual: Option<ResidualSource>,
        output: ValueId,
    ) -> Result<Epilogue, RuntimeError> {
        let Some(ResidualSource { value }) = residual else {
            return Ok(epilogue);
        };
        let (rows, in_images) = self.rows_of_images(value)?;
        let residual_rows = match (self.extent(value), self.extent(output)) {
            (Extent::Full, Extent::Active(level)) => {
                let listed = self.listed(List::Active(level), self.pixels(value)).0;
                if in_images == Rows::SHARED {
                    listed.shared()
                } else {
                    listed
                }
            }
            _ => in_images,
        };
        Ok(Epilogue {
            residual: rows.address,
            residual_stride: rows.stride as i32,
            residual_rows,
            ..epilogue
        })
    }

    fn product(
        &mut self,
        sources: &Sources,
        weights: u64,
        (taps, cout): (usize, usize),
        epilogue: Epilogue,
        output: ValueId,
    ) -> Result<(), RuntimeError> {
        let epilogue = self.leaving(output, epilogue);
        let epilogue = self.with_row_parts(epilogue, output);
        self.multiply(sources, weights, (taps, cout), epilogue, output)
    }

    /// An epilogue that writes a value's rows wherever they are wanted.
    pub(super) fn leaving(&mut self, output: ValueId, epilogue: Epilogue) -> Epilogue {
        let epilogue = self.taken(output, epilogue);
        if self.is_only_taken(output) {
            return epilogue;
        }
        let to = self.make_rows(output);
        Epilogue {
            output: to.address,
            output_stride: to.stride as i32,
            ..epilogue
        }
    }

    /// A product whose epilogue says where everything goes; `like` has its rows.
    fn multiply(
        &mut self,
        sources: &Sources,
        weights: u64,
        (taps, cout): (usize, usize),
        epilogue: Epilogue,
        like: ValueId,
    ) -> Result<(), RuntimeError> {
        let (live, images, rows) = (self.live(like), self.images(like), self.most_rows(like));
        let work = ConvWork {
            rows,
            cout,
            k_tiles: k_tiles(taps, &sources.widths),
            gated: epilogue.flags & CONV_GEGLU != 0,
            normed: epilogue.row_parts != 0 || epilogue.norm_parts != 0,
            parts: 1,
            blocks: 1,
        };
        let params = ConvParams {
            table: sources.taps.map_or(0, |list| self.table_of(list)),
            live: live.count,
            weights,
            images: images as i32,
            taps: taps as i32,
            cout: cout as i32,
            epilogue,
            ..ConvParams::default()
        };
        let choice = conv_choice(self.context.gpu, work);
        self.launch_product(sources, params, choice, rows);
        Ok(())
    }

    /// Launches a product of at most `rows` rows of all images, with what `params` lacks.
    pub(super) fn launch_product(&mut self, sources: &Sources, params: ConvParams, choice: ConvChoice, rows: usize) {
        let ConvChoice { tile, splits, .. } = choice;
        let workspace = match splits.workspace_bytes(tile, rows, params.cout as usize) {
            0 => 0,
            bytes => self.scratch(bytes),
        };
        let second = sources.rows.get(1);
        let params = ConvParams {
            source: [
                sources.rows[0].address,
                second.map_or(Address::ABSENT, |rows| rows.address),
            ],
            channels: [
                sources.widths[0] as i32,
                sources.widths.get(1).map_or(0, |&width| width as i32),
            ],
            source_stride: [
                sources.rows[0].stride as i32,
                second.map_or(0, |rows| rows.stride as i32),
            ],
            source_rows: sources.image_rows,
            workspace,
            slots: self.context.table,
            splits: splits.count() as i32,
            ..params
        };
        self.launch(kernel::sparse_conv(choice, &params, rows));
        if splits.is_reduced_later() {
            self.launch(kernel::sparse_conv_reduce(&params, rows));
        }
    }
}

/// All results of a product.
fn results(linear: &LinearKernel) -> Vec<ValueId> {
    std::iter::once(linear.output)
        .chain(linear.siblings.iter().copied())
        .collect()
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
