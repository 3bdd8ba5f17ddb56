//! Convolutions and linears.

use fisec_kernels::cuda::{
    self as kernel, Address, CONV_GEGLU, ConvChoice, ConvParams, ConvWork, Epilogue, ROW_PART_COLUMNS, Rows,
    conv_choice, k_tiles,
};
use fisec_plan::cuda::padded;
use fisec_plan::{ConvKernel, Extent, LinearKernel, ResidualSource, ValueId};

use super::sources::Sources;
use super::{Assembler, Held, Rowed};
use crate::RuntimeError;
use crate::cuda::folded::FoldedNorm;
use crate::cuda::lists::List;

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
