//! Convolutions behind a doubling, by the parity of their outputs: rows in four parts, a block of weights for each.
//!
//! Parts are filled up to whole tiles by rows that are there already: they compute the same and write it to the same
//! place, so that kernels need not know.

use fisec_kernels::cuda::{ConvParams, ConvWork, Epilogue, Rows, conv_choice, k_tiles};
use fisec_plan::cuda::padded;
use fisec_plan::{ConvKernel, Extent};
use fisec_tensor::{PARITIES, PARITY_TAPS};

use super::Assembler;
use super::sources::Sources;
use crate::RuntimeError;
use crate::binding::geometry;
use crate::cuda::lists::{List, Parities, Taps};

impl Assembler<'_> {
    /// Launches the convolution by parity, when it can be and that is predicted to be quicker: four blocks of weights are
    /// 16/9 of the bytes, which few rows wait for.
    pub(super) fn conv_by_parity(
        &mut self,
        conv: &ConvKernel,
        sources: &Sources,
        epilogue: Epilogue,
    ) -> Result<bool, RuntimeError> {
        let (Some(weight), Some(taps)) = (conv.by_parity, sources.taps) else {
            return Ok(false);
        };
        // parts of rows are written in the rows' own order
        if self.context.norms.last_of(conv.output).is_some() {
            return Ok(false);
        }
        let extent = self.extent(conv.output);
        if conv
            .residual
            .is_some_and(|residual| self.extent(residual.value) != extent)
        {
            return Ok(false);
        }
        let (images, rows) = (self.images(conv.output), self.most_rows(conv.output));
        let cout = padded(self.channels(conv.output));
        let work = |taps: usize, parts: usize, blocks: usize| ConvWork {
            rows,
            cout,
            k_tiles: k_tiles(taps, &sources.widths),
            gated: false,
            normed: false,
            parts,
            blocks,
        };
        let whole = conv_choice(self.context.gpu, work(conv.kernel.iter().product(), 1, 1));
        let choice = conv_choice(self.context.gpu, work(PARITY_TAPS, PARITIES * images, PARITIES));
        if whole.time <= choice.time {
            return Ok(false);
        }
        let parities = Parities {
            output: match extent {
                Extent::Full => None,
                Extent::Active(level) => Some(level),
            },
            geometry: geometry(conv),
            tile_rows: choice.tile.rows(),
        };
        let taps = match taps {
            List::GatheredTaps(window) => Taps::Gathered(window.input),
            _ => Taps::Pixels,
        };
        let live = self.live(conv.output).count;
        let numbers = self.list(List::ParityRows(parities));
        let map = self.entries_of(numbers);
        let epilogue = self.leaving(conv.output, epilogue);
        let params = ConvParams {
            table: self.table_of(List::ParityTaps(parities, taps)),
            live: self.count_of(numbers),
            weights: self.weight(weight)?,
            blocks: self.table_of(List::ParityBlocks(parities)),
            images: images as i32,
            taps: PARITY_TAPS as i32,
            cout: cout as i32,
            epilogue: Epilogue {
                output_rows: Rows::listed(map, live),
                residual_rows: epilogue.residual_rows.through(map),
                normed_rows: epilogue.normed_rows.through(map),
                ..epilogue
            },
            ..ConvParams::default()
        };
        self.launch_product(sources, params, choice, images * numbers.most);
        Ok(true)
    }
}
