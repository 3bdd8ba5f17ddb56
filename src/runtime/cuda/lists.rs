//! Index lists that kernels read: active pixels, rings, taps. A mask decides their contents; their places are made for
//! the largest mask of a bucket.

use std::collections::HashMap;
use std::ops::Range;

use fisec_kernels::cpu::{ConvGeometry, ConvTable};
use fisec_kernels::cuda::BLOCK_ROWS;
use fisec_tensor::{ActiveSet, PARITIES};

/// A list's count stands in front of its entries, in bytes of its own: entries are 16-byte aligned.
const HEADER: usize = 16;

/// What a list holds. Levels are indices into the plan's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum List {
    /// active pixels of a level
    Active(u32),
    /// all others
    Inactive(u32),
    /// pixels of the input that a convolution reads beside the active ones
    Ring(Window),
    /// no entries: active pixels and ring together, the rows of a gathered source
    Gathered(Window),
    /// source row of every tap of a convolution over active outputs, rows as in [`List::Gathered`]
    GatheredTaps(Window),
    /// source pixel of every tap; `None`: every output
    PixelTaps(Option<u32>, ConvGeometry),
    /// outputs of a convolution by parity: which of them every row computes
    ParityRows(Parities),
    /// source row of every tap of such rows
    ParityTaps(Parities, Taps),
    /// which parity every [`BLOCK_ROWS`] of such rows have
    ParityBlocks(Parities),
    /// scale 1 and shift 0 for so many images and channels, f32
    Identity(usize, usize),
}

/// A convolution between two sparse levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Window {
    pub(super) input: u32,
    pub(super) output: u32,
    pub(super) geometry: ConvGeometry,
}

/// Rows of a convolution by parity: the outputs of each parity in whole tiles, filled up with the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Parities {
    /// level of the outputs; `None`: every output
    pub(super) output: Option<u32>,
    pub(super) geometry: ConvGeometry,
    /// rows of a tile, a multiple of [`BLOCK_ROWS`]
    pub(super) tile_rows: usize,
}

/// What taps count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Taps {
    /// pixels of a whole map
    Pixels,
    /// rows of a gathered source, as in [`List::Gathered`] of this level
    Gathered(u32),
}

/// A list in the block of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) list: List,
    /// bytes from the block's start
    offset: usize,
    /// largest count
    pub(super) most: usize,
    /// entries per counted thing
    width: usize,
}

/// The lists of one program for one bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    placed: Vec<Placed>,
    bytes: usize,
}

/// Contents of lists under a mask.
pub(super) struct Contents<'a> {
    levels: &'a [ActiveSet],
    tables: HashMap<(Option<u32>, ConvGeometry), ConvTable>,
}

impl Lists {
    /// The place of a list, made when it is new.
    pub(super) fn place(&mut self, list: List, contents: &mut Contents<'_>) -> Placed {
        if let Some(known) = self.placed.iter().find(|placed| placed.list == list) {
            return *known;
        }
        let placed = Placed {
            list,
            offset: self.bytes,
            most: contents.most(list),
            width: width(list),
        };
        self.bytes = (placed.offset + HEADER + placed.most * placed.width * size_of::<i32>()).next_multiple_of(HEADER);
        self.placed.push(placed);
        placed
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Most active pixels of the finest level, where lists depend on them.
    pub(super) fn most_active(&self) -> Option<usize> {
        let finest = self.placed.iter().find(|placed| placed.list == List::Active(0));
        finest.map(|placed| placed.most)
    }

    /// Makes `block` that of a mask: all of it when it is empty, otherwise what depends on the mask. The bytes that may have
    /// changed; `None` when the mask is larger than what there is room for.
    pub(super) fn fill(&self, levels: &[ActiveSet], block: &mut Vec<u8>) -> Option<Range<usize>> {
        let mut contents = Contents::new(levels);
        let is_new = block.is_empty();
        block.resize(self.bytes, 0);
        let mut changed = self.bytes..0;
        for placed in self
            .placed
            .iter()
            .filter(|placed| is_new || placed.list.depends_on_mask())
        {
            let (count, entries) = contents.of(placed.list);
            if count > placed.most {
                return None;
            }
            let bytes = &mut block[placed.offset..];
            bytes[..size_of::<i32>()].copy_from_slice(&(count as i32).to_ne_bytes());
            let entries: &[u8] = bytemuck::cast_slice(&entries);
            bytes[HEADER..HEADER + entries.len()].copy_from_slice(entries);
            changed = changed.start.min(placed.offset)..placed.offset + HEADER + entries.len();
        }
        Some(changed.start.min(changed.end)..changed.end)
    }
}

impl List {
    /// Whether another mask changes it.
    fn depends_on_mask(self) -> bool {
        match self {
            List::PixelTaps(output, _) => output.is_some(),
            List::ParityRows(rows) | List::ParityBlocks(rows) => rows.output.is_some(),
            List::ParityTaps(rows, taps) => rows.output.is_some() || taps != Taps::Pixels,
            List::Identity(..) => false,
            _ => true,
        }
    }
}

impl Placed {
    /// Address of the count.
    pub(super) fn count(&self, base: u64) -> u64 {
        base + self.offset as u64
    }

    /// Address of the entries.
    pub(super) fn entries(&self, base: u64) -> u64 {
        base + (self.offset + HEADER) as u64
    }
}

impl<'a> Contents<'a> {
    pub(super) fn new(levels: &'a [ActiveSet]) -> Self {
        Contents {
            levels,
            tables: HashMap::new(),
        }
    }

    /// Largest count of the bucket that this mask is in.
    fn most(&mut self, list: List) -> usize {
        match list {
            List::Active(level) => bucket(self.levels[level as usize].len(), self.pixels(level)),
            List::Inactive(level) => self.pixels(level),
            List::Ring(window) => bucket(self.ring(window).len(), self.pixels(window.input)),
            List::Gathered(window) => self.most(List::Active(window.input)) + self.most(List::Ring(window)),
            List::GatheredTaps(window) => self.most(List::Active(window.output)),
            List::PixelTaps(Some(level), _) => self.most(List::Active(level)),
            List::ParityRows(rows) | List::ParityTaps(rows, _) => self.most_by_parity(rows),
            List::ParityBlocks(rows) => self.most_by_parity(rows) / BLOCK_ROWS,
            List::PixelTaps(None, geometry) => geometry.output.iter().product(),
            List::Identity(..) => 1,
        }
    }

    /// Every parity may need a tile that it does not fill.
    fn most_by_parity(&mut self, rows: Parities) -> usize {
        let outputs = match rows.output {
            Some(level) => self.most(List::Active(level)),
            None => rows.geometry.output.iter().product(),
        };
        (outputs + PARITIES * (rows.tile_rows - 1)) / rows.tile_rows * rows.tile_rows
    }

    fn pixels(&self, level: u32) -> usize {
        self.levels[level as usize].ranks().len()
    }

    fn of(&mut self, list: List) -> (usize, Vec<i32>) {
        match list {
            List::Active(level) => {
                let pixels = self.levels[level as usize].pixels();
                (pixels.len(), pixels.iter().map(|&pixel| pixel as i32).collect())
            }
            List::Inactive(level) => {
                let ranks = self.levels[level as usize].ranks().iter().enumerate();
                let entries: Vec<i32> = ranks
                    .filter(|(_, rank)| **rank < 0)
                    .map(|(pixel, _)| pixel as i32)
                    .collect();
                (entries.len(), entries)
            }
            List::Ring(window) => {
                let ring = self.ring(window);
                (ring.len(), ring)
            }
            List::Gathered(window) => {
                let ring = self.ring(window).len();
                (self.levels[window.input as usize].len() + ring, Vec::new())
            }
            List::GatheredTaps(window) => self.gathered_taps(window),
            List::PixelTaps(output, geometry) => self.pixel_taps(output, geometry),
            List::ParityRows(rows) => {
                let numbers: Vec<i32> = self.by_parity(rows).into_iter().flatten().collect();
                (numbers.len(), numbers)
            }
            List::ParityTaps(rows, taps) => self.parity_taps(rows, taps),
            List::ParityBlocks(rows) => {
                let parities = self.by_parity(rows).into_iter().zip(0..);
                let blocks = parities.flat_map(|(rows, parity)| vec![parity; rows.len() / BLOCK_ROWS]);
                let blocks: Vec<i32> = blocks.collect();
                (blocks.len(), blocks)
            }
            List::Identity(images, channels) => {
                let one = 1f32.to_bits() as i32;
                let image = std::iter::repeat_n(one, channels).chain(std::iter::repeat_n(0, channels));
                let image: Vec<i32> = image.collect();
                (1, image.repeat(images))
            }
        }
    }

    fn table(&mut self, output: Option<u32>, geometry: ConvGeometry) -> &ConvTable {
        let levels = self.levels;
        self.tables.entry((output, geometry)).or_insert_with(|| match output {
            Some(level) => ConvTable::new(&geometry, levels[level as usize].pixels().to_vec(), None),
            None => ConvTable::dense(&geometry),
        })
    }

    fn ring(&mut self, window: Window) -> Vec<i32> {
        let ranks = self.levels[window.input as usize].ranks();
        let reads = self.table(Some(window.output), window.geometry).reads().iter();
        let outside = reads.filter(|&&pixel| ranks[pixel as usize] < 0);
        outside.map(|&pixel| pixel as i32).collect()
    }

    fn pixel_taps(&mut self, output: Option<u32>, geometry: ConvGeometry) -> (usize, Vec<i32>) {
        let table = self.table(output, geometry);
        let outputs = table.outputs().len();
        let pixel = |tap: i32| {
            if tap < 0 {
                tap
            } else {
                table.reads()[tap as usize] as i32
            }
        };
        let entries = (0..outputs).flat_map(|output| table.taps(output).iter().map(|&tap| pixel(tap)));
        (outputs, entries.collect())
    }

    /// Numbers of the outputs of each parity, in whole tiles.
    fn by_parity(&mut self, rows: Parities) -> [Vec<i32>; PARITIES] {
        let table = self.table(rows.output, rows.geometry);
        let parities = table.by_parity().expect("a convolution by parity");
        std::array::from_fn(|parity| {
            let mut numbers: Vec<i32> = parities[parity].iter().map(|&number| number as i32).collect();
            if let Some(&last) = numbers.last() {
                numbers.resize(numbers.len().next_multiple_of(rows.tile_rows), last);
            }
            numbers
        })
    }

    fn parity_taps(&mut self, rows: Parities, taps: Taps) -> (usize, Vec<i32>) {
        let (_, of_outputs) = match (taps, rows.output) {
            (Taps::Gathered(input), Some(output)) => self.gathered_taps(Window {
                input,
                output,
                geometry: rows.geometry,
            }),
            (_, output) => self.pixel_taps(output, rows.geometry),
        };
        let width = rows.geometry.taps().iter().product();
        let numbers: Vec<i32> = self.by_parity(rows).into_iter().flatten().collect();
        let taps = |&number: &i32| of_outputs[number as usize * width..][..width].to_vec();
        (numbers.len(), numbers.iter().flat_map(taps).collect())
    }

    fn gathered_taps(&mut self, window: Window) -> (usize, Vec<i32>) {
        let active = &self.levels[window.input as usize];
        let table = self.table(Some(window.output), window.geometry);
        let mut next = active.len() as i32;
        let row_of_read: Vec<i32> = table
            .reads()
            .iter()
            .map(|&pixel| match active.ranks()[pixel as usize] {
                ActiveSet::INACTIVE => {
                    next += 1;
                    next - 1
                }
                rank => rank,
            })
            .collect();
        let outputs = table.outputs().len();
        let row = |tap: i32| if tap < 0 { tap } else { row_of_read[tap as usize] };
        let entries = (0..outputs).flat_map(|output| table.taps(output).iter().map(|&tap| row(tap)));
        (outputs, entries.collect())
    }
}

fn width(list: List) -> usize {
    let taps = |geometry: ConvGeometry| geometry.taps().iter().product();
    match list {
        List::Active(_) | List::Inactive(_) | List::Ring(_) | List::ParityRows(_) | List::ParityBlocks(_) => 1,
        List::ParityTaps(rows, _) => taps(rows.geometry),
        List::Gathered(_) => 0,
        List::GatheredTaps(window) => taps(window.geometry),
        List::PixelTaps(_, geometry) => taps(geometry),
        List::Identity(images, channels) => images * 2 * channels,
    }
}

/// The next size of a ladder of eight steps per doubling, at most `most`: one captured graph serves all masks of a step.
fn bucket(count: usize, most: usize) -> usize {
    let step = (count.next_power_of_two() / 16).max(16);
    count.next_multiple_of(step).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fisec_tensor::Mask;
    use proptest::prelude::*;

    fn same_3x3(size: [usize; 2], stride: usize) -> ConvGeometry {
        ConvGeometry {
            input: size,
            upsample: None,
            output: size.map(|side| side.div_ceil(stride)),
            kernel: [3, 3],
            stride: [stride; 2],
            padding: [1, 1],
            by_parity: false,
        }
    }

    fn filled(lists: &Lists, levels: &[ActiveSet]) -> Option<Vec<u8>> {
        let mut block = Vec::new();
        lists.fill(levels, &mut block)?;
        Some(block)
    }

    fn read(block: &[u8], placed: Placed) -> (usize, Vec<i32>) {
        let words: Vec<i32> = block[placed.offset..]
            .chunks_exact(4)
            .map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap()))
            .collect();
        let count = words[0] as usize;
        (count, words[4..4 + count * placed.width].to_vec())
    }

    proptest! {
        /// Rows of the gathered source, in order: active pixels, then the ring. Every tap finds the pixel it is for.
        #[test]
        fn taps_find_their_pixels((height, width) in (1usize..9, 1usize..9), stride in 1usize..3, seed: u64) {
            let geometry = same_3x3([height, width], stride);
            let fine = Mask::from_fn(height, width, |y, x| (seed >> ((y * width + x) % 64)) & 1 == 1);
            let coarse = fine.pooled();
            let levels = [ActiveSet::new(fine), ActiveSet::new(coarse)];
            let window = Window { input: 0, output: stride as u32 - 1, geometry };
            let mut lists = Lists::default();
            let mut contents = Contents::new(&levels);
            let wanted = [List::Active(0), List::Ring(window), List::Gathered(window), List::GatheredTaps(window), List::PixelTaps(Some(window.output), geometry)];
            let [active, ring, gathered, taps, pixels] = wanted.map(|list| lists.place(list, &mut contents));
            let block = filled(&lists, &levels).unwrap();
            let rows: Vec<i32> = read(&block, active).1.into_iter().chain(read(&block, ring).1).collect();
            prop_assert_eq!(read(&block, gathered).0, rows.len());
            let taps = read(&block, taps).1.into_iter().map(|row| if row < 0 { row } else { rows[row as usize] });
            prop_assert_eq!(taps.collect::<Vec<_>>(), read(&block, pixels).1);
            for list in [active, ring, gathered] {
                prop_assert!(read(&block, list).0 <= list.most);
            }
        }
    }

    proptest! {
        /// Every active output is in a tile of its parity, with its four pixels.
        #[test]
        fn rows_by_parity_are_the_active_outputs((height, width) in (1usize..6, 1usize..6), tile in 1usize..3, seed: u64) {
            let doubled = [2 * height, 2 * width];
            let geometry = ConvGeometry { upsample: Some(doubled), output: doubled, by_parity: true, ..same_3x3([height, width], 1) };
            let fine = Mask::from_fn(doubled[0], doubled[1], |y, x| (seed >> ((y * doubled[1] + x) % 64)) & 1 == 1);
            let coarse = fine.pooled();
            let levels = [ActiveSet::new(fine), ActiveSet::new(coarse)];
            let window = Window { input: 1, output: 0, geometry };
            let rows = Parities { output: Some(0), geometry, tile_rows: tile * BLOCK_ROWS };
            let mut lists = Lists::default();
            let mut contents = Contents::new(&levels);
            let wanted = [
                List::ParityRows(rows), List::ParityBlocks(rows), List::ParityTaps(rows, Taps::Gathered(1)), List::ParityTaps(rows, Taps::Pixels),
                List::GatheredTaps(window),
            ];
            let [numbers, blocks, gathered, pixels, whole] = wanted.map(|list| lists.place(list, &mut contents));
            let block = filled(&lists, &levels).unwrap();
            let (count, numbers) = read(&block, numbers);
            prop_assert!(count.is_multiple_of(tile * BLOCK_ROWS));
            let blocks = read(&block, blocks).1;
            let [gathered, pixels, whole] = [gathered, pixels, whole].map(|list| read(&block, list).1);
            for (row, &number) in numbers.iter().enumerate() {
                let output = levels[0].pixels()[number as usize] as usize;
                let (y, x) = (output / doubled[1], output % doubled[1]);
                prop_assert_eq!(blocks[row / BLOCK_ROWS] as usize, fisec_tensor::parity(y, x));
                prop_assert_eq!(&gathered[row * 4..][..4], &whole[number as usize * 4..][..4]);
                for tap in 0..4 {
                    let (y, x) = (y.div_ceil(2) + tap / 2, x.div_ceil(2) + tap % 2);
                    let inside = (1..=height).contains(&y) && (1..=width).contains(&x);
                    let pixel = if inside { ((y - 1) * width + x - 1) as i32 } else { -1 };
                    prop_assert_eq!(pixels[row * 4 + tap], pixel);
                }
            }
            let mut computed = numbers;
            computed.sort_unstable();
            computed.dedup();
            prop_assert_eq!(computed.len(), levels[0].len());
        }
    }

    #[test]
    fn a_larger_mask_has_no_room() {
        let levels = |active: usize| [ActiveSet::new(Mask::from_fn(16, 16, |y, x| y * 16 + x < active))];
        let small = levels(20);
        let mut lists = Lists::default();
        let placed = lists.place(List::Active(0), &mut Contents::new(&small));
        assert_eq!(placed.most, 32);
        assert!(filled(&lists, &levels(32)).is_some());
        assert!(filled(&lists, &levels(33)).is_none());
    }

    #[test]
    fn another_mask_changes_its_own_lists_only() {
        let levels = |active: usize| [ActiveSet::new(Mask::from_fn(16, 16, |y, x| y * 16 + x < active))];
        let geometry = same_3x3([16, 16], 1);
        let mut lists = Lists::default();
        for list in [List::PixelTaps(None, geometry), List::Active(0), List::Identity(2, 8)] {
            lists.place(list, &mut Contents::new(&levels(20)));
        }
        let mut block = filled(&lists, &levels(20)).unwrap();
        let changed = lists.fill(&levels(30), &mut block).unwrap();
        assert_eq!(block, filled(&lists, &levels(30)).unwrap());
        assert_eq!(
            changed,
            lists.placed[1].offset..lists.placed[1].offset + HEADER + 30 * 4
        );
    }
}
