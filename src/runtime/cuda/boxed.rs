//! A decoder's program for a part of its image.
//!
//! What precedes the first doubling, attention over all pixels among it, is computed whole: it is a tenth of the work.
//! From there on every doubling reads a box of the map before it, larger than the wanted part by what the convolutions
//! behind it reach. Beyond a box are zeros, as beyond an image; what they spoil does not come as far as the wanted part.
//! Norms are frozen: their scale and shift are given, because a box has no statistics of the whole.

use std::collections::{HashMap, HashSet};

use fisec_plan::{ConvKernel, ConvSource, Kernel, Node, Program, ValueId};
use fisec_tensor::{ActiveSet, Area, Mask};

/// Wanted parts have whole multiples of so many latents: few sizes, few graphs.
const GRID: usize = 4;

/// Of the image, beyond which a box saves too little.
const LARGEST: f64 = 0.6;

/// A program over boxes, for every part of one size.
pub(super) struct Boxed {
    pub(super) program: Program,
    /// values that are cut out of a map, with the index of their frame
    pub(super) windows: HashMap<ValueId, u32>,
    frames: Vec<Frame>,
    /// rows and columns of the latents
    latents: [usize; 2],
    /// of the wanted part, in latents
    wanted: [usize; 2],
}

/// The box that a doubling reads.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// pixels per latent of the map that it is cut from
    scale: usize,
    /// latents around the wanted part
    halo: usize,
    /// rows and columns in latents
    size: [usize; 2],
}

impl Boxed {
    /// The program for parts of the size of `area`, rounded up. `None` where boxes save little, or where something that sees
    /// the whole map follows the first doubling.
    pub(super) fn new(program: &Program, area: &Area) -> Option<Boxed> {
        let Some(&[1, height, width, _]) = program
            .inputs
            .get("sample")
            .map(|id| program.values[id.index()].shape.dims())
        else {
            return None;
        };
        let latents = [height, width];
        let mut boxed = Boxed {
            program: Program {
                nodes: Vec::new(),
                ..program.clone()
            },
            windows: HashMap::new(),
            frames: Vec::new(),
            latents,
            wanted: rounded(area, latents),
        };
        let first = first_box(program)?;
        let reach = reach(program, first)?;
        boxed.program.nodes = program.nodes[..first].to_vec();
        let mut inside = HashMap::new();
        for node in &program.nodes[first..] {
            boxed.take(program, node, &reach, &mut inside)?;
        }
        let output = program.outputs.get("prediction")?;
        let pixels = |size: [usize; 2]| (size[0] * size[1]) as f64;
        let share = pixels(boxed.frames.first()?.size) / pixels(latents);
        (inside.contains_key(output) && share <= LARGEST).then_some(boxed)
    }

    /// Whether parts of this size are those of the program.
    pub(super) fn fits(&self, area: &Area) -> bool {
        rounded(area, self.latents) == self.wanted
    }

    /// What is computed of the image, in latents: as much as the last box holds.
    pub(super) fn computed(&self, area: &Area) -> Area {
        let frame = self.frames[self.frames.len() - 1];
        let [top, left] = frame.start(self.place(area), self.latents);
        Area {
            top,
            left,
            height: frame.size[0],
            width: frame.size[1],
        }
    }

    /// The boxes as active sets, each of the map of the box before it.
    pub(super) fn levels(&self, area: &Area) -> Vec<ActiveSet> {
        let at = self.place(area);
        let (mut around, mut origin) = (self.latents, [0, 0]);
        let mut levels = Vec::new();
        for frame in &self.frames {
            let start = frame.start(at, self.latents);
            let inside = |pixel: usize, axis: usize| {
                let first = (start[axis] - origin[axis]) * frame.scale;
                (first..first + frame.size[axis] * frame.scale).contains(&pixel)
            };
            let mask = Mask::from_fn(around[0] * frame.scale, around[1] * frame.scale, |row, column| {
                inside(row, 0) && inside(column, 1)
            });
            levels.push(ActiveSet::new(mask));
            (around, origin) = (frame.size, start);
        }
        levels
    }

    /// Where the wanted part of the rounded size begins.
    fn place(&self, area: &Area) -> [usize; 2] {
        let within = |start: usize, axis: usize| start.min(self.latents[axis] - self.wanted[axis]);
        [within(area.top, 0), within(area.left, 1)]
    }

    /// Appends a node of the boxes; `inside` are values by the frame that they fill.
    fn take(
        &mut self,
        whole: &Program,
        node: &Node,
        reach: &HashMap<ValueId, usize>,
        inside: &mut HashMap<ValueId, usize>,
    ) -> Option<()> {
        let mut own = node.clone();
        let frame = match &mut own.kernel {
            // their coefficients are given
            Kernel::GroupNormStats { .. } | Kernel::NormCoefficients(_) => return Some(()),
            Kernel::Conv(conv) if conv.upsample.is_some() => {
                let frame = self.cut(whole, conv, reach, inside)?;
                self.program.nodes.push(Node {
                    kernel: Kernel::Gather {
                        input: conv.sources[0].value,
                        output: frame.1,
                    },
                    ..node.clone()
                });
                conv.sources[0].value = frame.1;
                frame.0
            }
            other => {
                let maps = maps_of(other);
                let frame = *inside.get(maps.first()?)?;
                maps.iter().all(|id| inside.get(id) == Some(&frame)).then_some(frame)?
            }
        };
        let latents = self.frames[frame].size;
        if let Kernel::Conv(conv) = &mut own.kernel {
            let resized = |size: [usize; 2]| self.resized(size, latents);
            conv.upsample = match conv.upsample {
                Some(size) => Some(resized(size)?),
                None => None,
            };
            (conv.input_size, conv.output_size) = (resized(conv.input_size)?, resized(conv.output_size)?);
        }
        for id in own.kernel.outputs() {
            self.resize(id, latents)?;
            inside.insert(id, frame);
        }
        self.program.nodes.push(own);
        Some(())
    }

    /// A new frame, and the value that it cuts out of what a doubling reads.
    fn cut(
        &mut self,
        whole: &Program,
        conv: &ConvKernel,
        reach: &HashMap<ValueId, usize>,
        inside: &HashMap<ValueId, usize>,
    ) -> Option<(usize, ValueId)> {
        let [ConvSource { value, outside: None }] = conv.sources[..] else {
            return None;
        };
        let before = inside.get(&value).copied();
        if conv.residual.is_some() || before.map(|frame| frame + 1).unwrap_or(0) != self.frames.len() {
            return None;
        }
        let shape = &whole.values[value.index()].shape;
        let scale = scale_of([shape[1], shape[2]], self.latents)?;
        let halo = reach.get(&value)?.div_ceil(scale);
        let size = [0, 1].map(|axis| (self.wanted[axis] + 2 * halo).min(self.latents[axis]));
        self.frames.push(Frame { scale, halo, size });
        let cut = ValueId(self.program.values.len() as u32);
        self.program.values.push(whole.values[value.index()].clone());
        self.resize(cut, size)?;
        self.windows.insert(cut, self.frames.len() as u32 - 1);
        Some((self.frames.len() - 1, cut))
    }

    /// Gives a value the size that it has where the image has `latents`.
    fn resize(&mut self, id: ValueId, latents: [usize; 2]) -> Option<()> {
        let &[images, height, width, channels] = self.program.values[id.index()].shape.dims() else {
            return None;
        };
        let [height, width] = self.resized([height, width], latents)?;
        self.program.values[id.index()].shape = [images, height, width, channels].into();
        Some(())
    }

    fn resized(&self, size: [usize; 2], latents: [usize; 2]) -> Option<[usize; 2]> {
        let scale = scale_of(size, self.latents)?;
        Some(latents.map(|side| side * scale))
    }
}

impl Frame {
    /// Its first latent: as far as the image reaches.
    fn start(&self, wanted: [usize; 2], latents: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let last = latents[axis] - self.size[axis];
            wanted[axis].saturating_sub(self.halo).min(last)
        })
    }
}

/// The coefficients that boxes are given, in the order in which they are computed: all behind the first doubling that a box
/// can read. Empty where there is none.
pub(super) fn frozen_norms(program: &Program) -> Vec<ValueId> {
    let nodes = first_box(program).map_or(&[][..], |first| &program.nodes[first..]);
    let norms = nodes.iter().filter_map(|node| match &node.kernel {
        Kernel::NormCoefficients(norm) => Some(norm.output),
        _ => None,
    });
    norms.collect()
}

/// The first doubling behind which everything is local.
fn first_box(program: &Program) -> Option<usize> {
    let mut nodes = program.nodes.iter();
    let local = nodes
        .rposition(|node| !is_local(&node.kernel))
        .map_or(0, |last| last + 1);
    let doubles = |node: &Node| matches!(&node.kernel, Kernel::Conv(conv) if conv.upsample.is_some());
    let first = local + program.nodes[local..].iter().position(doubles)?;
    // nothing but the doubling itself reads what is computed whole
    let made: HashSet<ValueId> = program.nodes[first..]
        .iter()
        .flat_map(|node| node.kernel.outputs())
        .collect();
    let mut read = program.nodes[first + 1..].iter().flat_map(|node| node.kernel.inputs());
    read.all(|id| made.contains(&id)).then_some(first)
}

/// Whether an output depends on the pixels around it only, as many to every side.
fn is_local(kernel: &Kernel) -> bool {
    match kernel {
        Kernel::Conv(conv) => {
            let seen = conv.upsample.unwrap_or(conv.input_size);
            let doubles = |size: [usize; 2]| size == conv.input_size.map(|side| 2 * side);
            let centred = |(kernel, padding): (&usize, &usize)| *kernel == 2 * padding + 1;
            conv.stride == [1, 1]
                && conv.vector.is_none()
                && seen == conv.output_size
                && conv.upsample.is_none_or(doubles)
                && conv.kernel.iter().zip(&conv.padding).all(centred)
        }
        Kernel::Add { .. } | Kernel::Affine { .. } | Kernel::Silu { .. } => true,
        Kernel::GroupNormStats { .. } | Kernel::NormCoefficients(_) => true,
        _ => false,
    }
}

/// How many pixels around the wanted ones are read of every map from node `first` on.
fn reach(program: &Program, first: usize) -> Option<HashMap<ValueId, usize>> {
    let mut reach: HashMap<ValueId, usize> = HashMap::new();
    for node in program.nodes[first..].iter().rev() {
        if matches!(node.kernel, Kernel::GroupNormStats { .. } | Kernel::NormCoefficients(_)) {
            continue;
        }
        let outputs = node.kernel.outputs();
        let of_output = outputs
            .iter()
            .filter_map(|id| reach.get(id))
            .max()
            .copied()
            .unwrap_or(0);
        for id in maps_of(&node.kernel) {
            let beyond = match &node.kernel {
                Kernel::Conv(conv) if conv.sources.iter().any(|source| source.value == id) => {
                    let seen = of_output + conv.padding[0].max(conv.padding[1]);
                    if conv.upsample.is_some() {
                        seen.div_ceil(2)
                    } else {
                        seen
                    }
                }
                _ => of_output,
            };
            let known = reach.entry(id).or_default();
            *known = beyond.max(*known);
        }
    }
    Some(reach)
}

/// The maps that a local call reads.
fn maps_of(kernel: &Kernel) -> Vec<ValueId> {
    let coefficients = match kernel {
        Kernel::Conv(conv) => conv.coefficients,
        Kernel::Affine { coefficients, .. } => Some(*coefficients),
        _ => None,
    };
    let mut maps = kernel.inputs();
    maps.retain(|id| Some(*id) != coefficients);
    maps
}

/// Pixels per latent; `None` when they are no whole number, or not the same for rows and columns.
fn scale_of(size: [usize; 2], latents: [usize; 2]) -> Option<usize> {
    let scale = size[0] / latents[0].max(1);
    (scale > 0 && size == latents.map(|side| side * scale)).then_some(scale)
}

/// Rows and columns of the wanted parts that an area counts to.
fn rounded(area: &Area, latents: [usize; 2]) -> [usize; 2] {
    let up = |side: usize, most: usize| side.next_multiple_of(GRID).min(most);
    [up(area.height, latents[0]), up(area.width, latents[1])]
}
