//! Where an image looks at words: what cross-attention maps say of the region that they change.

use fisec_plan::SlotId;
use fisec_runtime::{RuntimeError, SlotSink, SlotSource};
use fisec_tensor::{HostTensor, Mask};

use super::{above_otsu, scaled};

/// A slot of cross-attention maps, `[heads, height * width, tokens]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSlot {
    /// where the maps are
    pub slot: SlotId,
    /// rows of the level
    pub height: usize,
    /// columns of the level
    pub width: usize,
}

/// Attention to some tokens, summed over steps, layers and heads, at the latents' size.
///
/// Levels of half and quarter resolution count: at full resolution maps are noise, further down they are blots.
#[derive(Clone, Debug)]
pub struct Attention {
    height: usize,
    width: usize,
    sums: Vec<f64>,
}

impl Attention {
    /// Nothing yet, for latents of this size.
    pub fn new(height: usize, width: usize) -> Self {
        Attention {
            height,
            width,
            sums: vec![0.0; height * width],
        }
    }

    /// Whether maps of this level say where words are.
    pub fn counts(&self, slot: &MapSlot) -> bool {
        let halves = self.height.div_ceil(slot.height.max(1));
        (2..=4).contains(&halves)
    }

    /// Adds the maps of these tokens. Tokens that the maps do not have count as not attended to.
    pub fn add(&mut self, slot: &MapSlot, maps: &HostTensor, tokens: &[usize]) {
        let &[heads, queries, all] = maps.shape().dims() else {
            return;
        };
        if !self.counts(slot) || queries != slot.height * slot.width {
            return;
        }
        let values = maps.to_f32_vec();
        let mut level = vec![0.0f64; queries];
        for (index, row) in values.chunks_exact(all.max(1)).enumerate() {
            let found = tokens.iter().filter_map(|&token| row.get(token));
            level[index % queries] += found.map(|value| f64::from(*value)).sum::<f64>() / heads as f64;
        }
        for (index, sum) in self.sums.iter_mut().enumerate() {
            *sum += bilinear(&level, slot, [self.height, self.width], index);
        }
    }

    /// Adds what `source` recorded at a call.
    pub fn add_recorded(
        &mut self,
        source: &dyn SlotSource,
        call: usize,
        slots: &[MapSlot],
        tokens: &[usize],
    ) -> Result<(), RuntimeError> {
        for slot in slots
            .iter()
            .filter(|slot| self.counts(slot))
            .copied()
            .collect::<Vec<_>>()
        {
            self.add(&slot, &source.slot(call, slot.slot)?, tokens);
        }
        Ok(())
    }

    /// From 0, least attended, to 1, most.
    pub fn normalised(&self) -> Vec<f64> {
        scaled(&self.sums)
    }

    /// Latents at or above Otsu's threshold; none when no word was looked at more in one place than in another.
    pub fn mask(&self) -> Mask {
        above_otsu(&self.normalised(), self.height, self.width)
    }
}

/// The level's value at a latent, between the centres of its pixels.
fn bilinear(level: &[f64], slot: &MapSlot, [height, width]: [usize; 2], index: usize) -> f64 {
    let place = |position: usize, latents: usize, pixels: usize| {
        let at = (position as f64 + 0.5) * pixels as f64 / latents as f64 - 0.5;
        let at = at.clamp(0.0, (pixels - 1) as f64);
        let low = at as usize;
        (low, (low + 1).min(pixels - 1), at - low as f64)
    };
    let (top, bottom, down) = place(index / width, height, slot.height);
    let (left, right, across) = place(index % width, width, slot.width);
    let at = |row: usize, column: usize| level[row * slot.width + column];
    let upper = at(top, left) * (1.0 - across) + at(top, right) * across;
    let lower = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
    upper * (1.0 - down) + lower * down
}

/// Listens to the maps that a step makes, on their way to a recording or to nowhere.
pub(crate) struct Listener<'a> {
    pub(crate) slots: &'a [MapSlot],
    pub(crate) tokens: &'a [usize],
    pub(crate) attention: &'a mut Attention,
    pub(crate) sink: Option<&'a mut dyn SlotSink>,
}

impl Listener<'_> {
    fn heard(&self, slot: SlotId) -> Option<MapSlot> {
        let found = self.slots.iter().find(|map| map.slot == slot).copied();
        found.filter(|map| self.attention.counts(map))
    }
}

impl SlotSink for Listener<'_> {
    fn recording(&self) -> Option<&str> {
        SlotSink::recording(self.sink.as_deref()?)
    }

    fn wants_now(&self, step: usize, slot: SlotId) -> bool {
        self.heard(slot).is_some() || self.sink.as_ref().is_some_and(|sink| sink.wants_now(step, slot))
    }

    fn wants(&self, step: usize, slot: SlotId) -> bool {
        self.heard(slot).is_some() || self.sink.as_ref().is_some_and(|sink| sink.wants(step, slot))
    }

    fn put(&mut self, step: usize, slot: SlotId, value: HostTensor) -> Result<(), RuntimeError> {
        if let Some(map) = self.heard(slot) {
            self.attention.add(&map, &value, self.tokens);
        }
        match self.sink.as_deref_mut().filter(|sink| sink.wants(step, slot)) {
            Some(sink) => sink.put(step, slot, value),
            None => Ok(()),
        }
    }
}
