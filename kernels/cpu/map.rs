//! Where a kernel reads the rows of a map: packed or full fresh rows, and recorded rows outside the active set.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Rows as they stand in a slot.
#[derive(Clone, Copy, Debug)]
pub enum RecordedRows<'a> {
    /// 32-bit floats
    F32(&'a [f32]),
    /// 16-bit floats
    F16(&'a [f16]),
}

impl RecordedRows<'_> {
    /// Copies `into.len()` elements from element `start` on.
    pub fn read(&self, start: usize, into: &mut [f32]) {
        match self {
            RecordedRows::F32(values) => into.copy_from_slice(&values[start..start + into.len()]),
            RecordedRows::F16(values) => values[start..start + into.len()].convert_to_f32_slice(into),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            RecordedRows::F32(values) => values.len(),
            RecordedRows::F16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes per element.
    pub fn element_bytes(&self) -> usize {
        match self {
            RecordedRows::F32(_) => 4,
            RecordedRows::F16(_) => 2,
        }
    }
}

/// A map `[N, pixels, channels]` of which rows are read by image and pixel.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// channels of a row
    pub channels: usize,
    /// pixels of the whole map
    pub pixels: usize,
    /// `[N, pixels, channels]` without `ranks`, else packed rows `[N, active, channels]`
    pub fresh: &'a [f32],
    /// rank of every pixel among the active ones, negative outside
    pub ranks: Option<&'a [i32]>,
    /// the recorded map, read where a pixel is not active: of all images, or of one that stands for all
    pub outside: Option<RecordedRows<'a>>,
}

impl<'a> Map<'a> {
    /// A map that is there entirely.
    pub fn full(fresh: &'a [f32], pixels: usize, channels: usize) -> Self {
        Map {
            channels,
            pixels,
            fresh,
            ranks: None,
            outside: None,
        }
    }

    /// Packed rows, with the recorded map outside the active set.
    pub fn packed(fresh: &'a [f32], ranks: &'a [i32], channels: usize, outside: Option<RecordedRows<'a>>) -> Self {
        Map {
            channels,
            pixels: ranks.len(),
            fresh,
            ranks: Some(ranks),
            outside,
        }
    }

    /// Position of a pixel's row among an image's fresh rows, or `None` outside the active set.
    fn position(&self, pixel: usize) -> Option<usize> {
        match self.ranks {
            None => Some(pixel),
            Some(ranks) => usize::try_from(ranks[pixel]).ok(),
        }
    }

    /// The row of a pixel when it is fresh. `images` is N.
    pub fn fresh_row(&self, images: usize, image: usize, pixel: usize) -> Option<&'a [f32]> {
        let per_image = self.fresh.len() / images;
        let start = image * per_image + self.position(pixel)? * self.channels;
        Some(&self.fresh[start..start + self.channels])
    }

    /// Images of the recorded map.
    pub fn recorded_images(&self) -> usize {
        let elements = self.outside.as_ref().map_or(0, RecordedRows::len);
        elements / (self.pixels * self.channels).max(1)
    }

    /// Copies the row of a pixel. A pixel that is neither fresh nor recorded gives zeros: only results that are
    /// discarded depend on it.
    pub fn read_row(&self, images: usize, image: usize, pixel: usize, into: &mut [f32]) {
        if let Some(row) = self.fresh_row(images, image, pixel) {
            into.copy_from_slice(row);
        } else if let Some(recorded) = &self.outside {
            let image = image % self.recorded_images().max(1);
            recorded.read((image * self.pixels + pixel) * self.channels, into);
        } else {
            into.fill(0.0);
        }
    }
}
