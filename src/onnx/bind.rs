//! Sizes for the symbolic dimensions of a model's inputs.

use std::collections::BTreeMap;

/// Sizes for symbolic dimensions: given by symbol or axis, by input, or by the rank of the input.
///
/// Exporters name inputs and dimensions as they like; what a U-Net's inputs mean can be told from their rank, which is
/// what [`Bindings::unet`] and its like go by. Dimensions that the graph fixes by itself, such as channels, need no
/// binding: the importer solves for them. Fixed dimensions must agree where a size is given by rank or input.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    symbols: BTreeMap<String, usize>,
    inputs: BTreeMap<String, Vec<Option<usize>>>,
    ranks: BTreeMap<usize, Vec<Option<usize>>>,
}

impl Bindings {
    /// No sizes: enough for a static export.
    pub fn new() -> Self {
        Self::default()
    }

    /// A U-Net: latents `[batch, channels, height, width]` (in latent pixels), text `[batch, sequence, …]`, timesteps
    /// `[batch]` or a scalar.
    pub fn unet(batch: usize, height: usize, width: usize, sequence: usize) -> Self {
        Self::new()
            .rank(&[Some(batch), None, Some(height), Some(width)])
            .rank(&[Some(batch), Some(sequence), None])
            .rank(&[Some(batch)])
    }

    /// A text encoder: ids `[batch, sequence]`.
    pub fn text_encoder(batch: usize, sequence: usize) -> Self {
        Self::new().rank(&[Some(batch), Some(sequence)])
    }

    /// A VAE encoder or decoder: a map `[batch, channels, height, width]`, in pixels of its own input.
    pub fn vae(batch: usize, channels: usize, height: usize, width: usize) -> Self {
        Self::new().rank(&[Some(batch), Some(channels), Some(height), Some(width)])
    }

    /// Binds a symbol wherever it occurs; `input:axis` binds one axis of an input, e.g. one that has no symbol.
    pub fn symbol(mut self, symbol: impl Into<String>, size: usize) -> Self {
        self.symbols.insert(symbol.into(), size);
        self
    }

    /// Binds the whole shape of an input.
    pub fn input(mut self, name: impl Into<String>, shape: &[usize]) -> Self {
        self.inputs
            .insert(name.into(), shape.iter().map(|&size| Some(size)).collect());
        self
    }

    fn rank(mut self, sizes: &[Option<usize>]) -> Self {
        self.ranks.insert(sizes.len(), sizes.to_vec());
        self
    }

    /// The size asked for at `axis` of an input, by name or rank.
    pub(crate) fn size(&self, input: &str, rank: usize, axis: usize) -> Option<usize> {
        let by_name = self.inputs.get(input).filter(|sizes| sizes.len() == rank);
        by_name.or_else(|| self.ranks.get(&rank))?[axis]
    }

    /// The size given to a symbol, or to an axis of an input.
    pub(crate) fn given(&self, input: &str, axis: usize, symbol: &str) -> Option<usize> {
        let by_axis = self.symbols.get(&format!("{input}:{axis}"));
        by_axis.or_else(|| self.symbols.get(symbol)).copied()
    }

    /// The symbols that sizes are given to.
    pub(crate) fn symbols(&self) -> impl Iterator<Item = &str> {
        self.symbols.keys().map(String::as_str)
    }
}
