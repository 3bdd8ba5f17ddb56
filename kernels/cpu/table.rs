//! Index tables of a convolution: which input pixels are read, and where each output finds them.

use fisec_tensor::{PARITIES, first_source, parity};

/// Sizes of a convolution that do not depend on the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    /// rows and columns of the input
    pub input: [usize; 2],
    /// rows and columns after nearest upsampling, when there is any
    pub upsample: Option<[usize; 2]>,
    /// rows and columns of the output
    pub output: [usize; 2],
    /// rows and columns of the kernel
    pub kernel: [usize; 2],
    /// stride of rows and columns
    pub stride: [usize; 2],
    /// zero rows above and zero columns to the left
    pub padding: [usize; 2],
    /// 2×2 taps by the parity of the output instead of 3×3: `upsample` is exactly twice the input
    pub by_parity: bool,
}

impl ConvGeometry {
    /// Rows and columns of an output's taps.
    pub fn taps(&self) -> [usize; 2] {
        if self.by_parity { [2, 2] } else { self.kernel }
    }
}

/// The pixels that one convolution reads and writes under one mask. The same for every image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTable {
    taps_per_output: usize,
    reads: Vec<u32>,
    taps: Vec<i32>,
    outputs: Vec<u32>,
    kept: Option<Vec<u32>>,
    by_parity: Option<[Vec<u32>; PARITIES]>,
    is_pointwise: bool,
}

impl ConvTable {
    /// A tap that lies outside the image and reads zero.
    pub const ZERO: i32 = -1;

    /// The table of a convolution that computes `outputs` (ascending) and keeps those at the positions `kept`, all when
    /// `None`.
    pub fn new(geometry: &ConvGeometry, outputs: Vec<u32>, kept: Option<Vec<u32>>) -> Self {
        let rows = tap_sources(geometry, 0);
        let columns = tap_sources(geometry, 1);
        let [tap_rows, tap_columns] = geometry.taps();
        let taps_per_output = tap_rows * tap_columns;
        let mut taps = Vec::with_capacity(outputs.len() * taps_per_output);
        let mut is_read = vec![false; geometry.input[0] * geometry.input[1]];
        for &output in &outputs {
            let (row, column) = (
                output as usize / geometry.output[1],
                output as usize % geometry.output[1],
            );
            let columns = &columns[column * tap_columns..][..tap_columns];
            for &y in &rows[row * tap_rows..][..tap_rows] {
                for &x in columns {
                    let pixel = if y < 0 || x < 0 {
                        Self::ZERO
                    } else {
                        y * geometry.input[1] as i32 + x
                    };
                    if pixel >= 0 {
                        is_read[pixel as usize] = true;
                    }
                    taps.push(pixel);
                }
            }
        }
        let mut positions = vec![Self::ZERO; is_read.len()];
        let mut reads = Vec::with_capacity(outputs.len());
        for (pixel, _) in is_read.iter().enumerate().filter(|(_, read)| **read) {
            positions[pixel] = reads.len() as i32;
            reads.push(pixel as u32);
        }
        for tap in taps.iter_mut().filter(|tap| **tap >= 0) {
            *tap = positions[*tap as usize];
        }
        let is_pointwise = taps_per_output == 1 && taps.iter().enumerate().all(|(output, &tap)| tap == output as i32);
        ConvTable {
            taps_per_output,
            reads,
            taps,
            by_parity: geometry.by_parity.then(|| parities(&outputs, geometry.output[1])),
            outputs,
            kept,
            is_pointwise,
        }
    }

    /// The table of a convolution over the whole map.
    pub fn dense(geometry: &ConvGeometry) -> Self {
        let pixels = geometry.output[0] * geometry.output[1];
        Self::new(geometry, (0..pixels as u32).collect(), None)
    }

    /// Input pixels that are read, ascending.
    pub fn reads(&self) -> &[u32] {
        &self.reads
    }

    /// Output pixels that are computed, ascending.
    pub fn outputs(&self) -> &[u32] {
        &self.outputs
    }

    /// Positions among the outputs of the rows that are kept; `None`: all of them.
    pub fn kept(&self) -> Option<&[u32]> {
        self.kept.as_deref()
    }

    /// For a convolution by parity the positions among the outputs of those of each parity, ascending.
    pub fn by_parity(&self) -> Option<&[Vec<u32>; PARITIES]> {
        self.by_parity.as_ref()
    }

    /// For one output its taps, in kernel order, as positions among [`ConvTable::reads`] or [`ConvTable::ZERO`].
    pub fn taps(&self, output: usize) -> &[i32] {
        &self.taps[output * self.taps_per_output..(output + 1) * self.taps_per_output]
    }

    /// Rows times columns of taps.
    pub fn taps_per_output(&self) -> usize {
        self.taps_per_output
    }

    /// Whether output `i` reads exactly the input row at position `i`.
    pub fn is_pointwise(&self) -> bool {
        self.is_pointwise
    }

    /// Input pixels that the kept outputs read and for which `is_known` is false.
    pub fn unknown_reads(&self, is_known: impl Fn(usize) -> bool) -> usize {
        let unknown: Vec<bool> = self.reads.iter().map(|&pixel| !is_known(pixel as usize)).collect();
        if !unknown.contains(&true) {
            return 0;
        }
        let missing = |output: usize| {
            let taps = self.taps(output).iter();
            taps.filter(|&&tap| tap >= 0 && unknown[tap as usize]).count()
        };
        match &self.kept {
            Some(kept) => kept.iter().map(|&output| missing(output as usize)).sum(),
            None => (0..self.outputs.len()).map(missing).sum(),
        }
    }
}

/// Positions of the outputs of each parity.
fn parities(outputs: &[u32], width: usize) -> [Vec<u32>; PARITIES] {
    let mut positions: [Vec<u32>; PARITIES] = Default::default();
    for (position, &output) in outputs.iter().enumerate() {
        let (row, column) = (output as usize / width, output as usize % width);
        positions[parity(row, column)].push(position as u32);
    }
    positions
}

/// For every output index of an axis and every tap the input index, or -1 outside the image.
fn tap_sources(geometry: &ConvGeometry, axis: usize) -> Vec<i32> {
    let input = geometry.input[axis];
    if geometry.by_parity {
        let taps = (0..geometry.output[axis]).flat_map(|output| [first_source(output), first_source(output) + 1]);
        let inside = |tap: isize| if tap < input as isize { tap as i32 } else { -1 };
        return taps.map(inside).collect();
    }
    let size = geometry.upsample.map_or(input, |size| size[axis]);
    let mut sources = Vec::with_capacity(geometry.output[axis] * geometry.kernel[axis]);
    for output in 0..geometry.output[axis] {
        for tap in 0..geometry.kernel[axis] {
            let position = output * geometry.stride[axis] + tap;
            let inside = position
                .checked_sub(geometry.padding[axis])
                .filter(|&index| index < size);
            sources.push(inside.map_or(-1, |index| (index * input / size) as i32));
        }
    }
    sources
}
