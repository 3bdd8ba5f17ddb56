//! The types of `plan.json`.

use std::collections::BTreeMap;

use fisec_tensor::{DType, Shape};
use serde::{Deserialize, Serialize};

use crate::Kernel;

/// Version of the bundle's format. A runtime refuses any other.
pub const FORMAT: u32 = 4;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// Position in its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index!(
    /// Index into [`Program::values`].
    ValueId
);
index!(
    /// Index into [`Plan::weights`].
    WeightId
);
index!(
    /// Index into [`Plan::slots`].
    SlotId
);
index!(
    /// Index into [`Plan::islands`].
    IslandId
);

/// A compiled model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`FORMAT`]
    pub format: u32,
    /// version of the compiler
    pub fisec: String,
    /// `cpu` or `cuda:<arch>`
    pub target: String,
    /// readable name of the model, usually its folder
    pub model: String,
    /// blake3 of the model's ONNX file and external data
    pub model_hash: String,
    /// images per step: 2 with guidance (unconditional first)
    pub batch: usize,
    /// latent channels, rows and columns
    pub latent: [usize; 3],
    /// text tokens and width of the text embedding
    pub context: [usize; 2],
    /// what the user asked for
    pub options: CompileOptions,
    /// resolutions, finest first; behind them sets of active pixels with the ring around them
    pub levels: Vec<Level>,
    /// recorded activations
    pub slots: Vec<Slot>,
    /// constants
    pub weights: Vec<Weight>,
    /// dense subgraphs
    pub islands: Vec<Island>,
    /// the programs
    pub programs: Programs,
    /// networks beside the denoiser that the target computes by itself; the others run in ONNX Runtime, see `pipeline`
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<NetworkKind, Program>,
    /// the islands of stage `prompt` as a program of the target
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptProgram>,
    /// share of active latents above which a dense step is predicted to be faster, 0 to 1
    pub break_even: f64,
    /// kernels compiled for the target: name of the kernel to file
    pub modules: BTreeMap<String, String>,
    /// the rest of the pipeline, when the model came with one
    pub pipeline: Option<PipelineFiles>,
    /// every other file of the bundle by relative path
    pub files: BTreeMap<String, FileHash>,
}

/// Choices of the user that change what is computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileOptions {
    /// keys and values of self-attention
    pub keys: Keys,
    /// group norm statistics
    pub norm: Norm,
    /// number of finest levels that are sparse; `None`: chosen by cost
    pub sparse_levels: Option<usize>,
    /// element type of recorded slots
    pub cache_dtype: DType,
    /// number of levels, coarsest first, whose cross-attention `guide` controls; `None`: all
    #[serde(default)]
    pub control_levels: Option<usize>,
    /// latents of a step
    pub samples: Samples,
    /// what second convolutions read around the active set
    pub halos: Halos,
    /// what computes the levels that are dense
    #[serde(default)]
    pub remainder: Remainder,
}

/// Where a block's second convolution has its first one's result from, outside the active set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Halos {
    /// recorded
    #[default]
    Recorded,
    /// computed, where that is cheap for the bytes that need not be recorded
    Computed,
}

/// What the images of a step have in common beside the timestep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Samples {
    /// one latent under several texts, as guidance has it
    #[default]
    Shared,
    /// nothing: every image has a latent of its own
    Each,
}

/// What computes the levels that are dense. The CPU has ONNX Runtime for it and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remainder {
    /// the target's own kernels, where it has them
    #[default]
    Native,
    /// ONNX Runtime: on a device its CUDA provider, with values where the kernels before left them
    OnnxRuntime,
}

/// Which keys and values the active queries of self-attention see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keys {
    /// recorded ones with the active ones replaced
    #[default]
    Full,
    /// active ones only
    Masked,
}

/// Which statistics group norms use in an edit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// those recorded at the same step
    #[default]
    Frozen,
    /// the recorded sums corrected by what changed inside the active set
    Updated,
    /// recomputed over the whole map
    Live,
}

/// A resolution of the U-Net.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// rows
    pub height: usize,
    /// columns
    pub width: usize,
    /// no resolution of its own: the active set is that of this level and the pixels next to it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub around: Option<u32>,
    /// whether `edit` computes only active pixels here
    pub sparse: bool,
    /// why
    pub reason: String,
}

/// A recorded activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// the producing layer
    pub name: String,
    /// layout and purpose
    pub kind: SlotKind,
    /// element type in the store
    pub dtype: DType,
    /// `[N, H, W, C]`, `[N, L, C]`, `[N, groups, 2]` or `[heads, L, tokens]`; `N` is 1 where all images have the same
    pub shape: Shape,
    /// bytes per step
    pub bytes: u64,
}

/// What a slot holds and which part of it an edit reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SlotKind {
    /// a map of which the ring within `radius` of the active set is read
    Halo {
        /// level
        level: u32,
        /// Chebyshev distance
        radius: usize,
    },
    /// a map or token sequence that is read whole
    Full {
        /// level
        level: u32,
    },
    /// group norm statistics
    Stats,
    /// cross-attention maps of the conditioned images, `[heads, L, tokens]`: read whole by `guide`, and kept for the
    /// first calls of a schedule only
    Maps {
        /// level of the queries
        level: u32,
    },
}

/// A constant of the plan in the layout of the kernel that reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// name in the ONNX model
    pub name: String,
    /// element type
    pub dtype: DType,
    /// dimensions as the kernel reads them
    pub shape: Shape,
    /// where the bytes stand in another order, shared with an island: dimension `i` of the kernel is dimension `axes[i]`
    /// of what is stored. Empty: as the kernel reads them
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub axes: Vec<usize>,
    /// first byte in `weights.bin`, a multiple of 64
    pub offset: u64,
    /// number of bytes
    pub bytes: u64,
    /// blake3 of the bytes, hex
    pub hash: String,
}

/// A dense subgraph that ONNX Runtime executes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Island {
    /// unique name, e.g. `edit-core`
    pub name: String,
    /// ONNX file in the bundle
    pub file: String,
    /// inputs in order
    pub inputs: Vec<Port>,
    /// outputs in order
    pub outputs: Vec<Port>,
    /// ONNX names of the nodes inside
    pub nodes: Vec<String>,
    /// multiply-accumulates of one run
    pub macs: u64,
}

/// An input or output of an island. Maps are NHWC at ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// name in the ONNX file
    pub name: String,
    /// element type
    pub dtype: DType,
    /// dimensions
    pub shape: Shape,
}

/// The three programs of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Programs {
    /// dense; writes every slot
    pub record: Program,
    /// dense; under cross-attention control it reads the recorded maps and writes every slot, without it writes nothing
    pub guide: Program,
    /// sparse; reads slots. Absent when no level pays.
    pub edit: Option<Program>,
}

/// Name of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ProgramKind {
    Record,
    Guide,
    Edit,
}

/// What an island of stage `prompt` computes, as a program for the plan's device. Its one input, `sample`, is the text
/// embedding; everything is of stage `step`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptProgram {
    /// the island that every program calls
    pub island: IslandId,
    /// its calls; the output `prediction` is one of `outputs`
    pub program: Program,
    /// what stands at the island's output ports, in their order
    pub outputs: Vec<ValueId>,
}

/// A network beside the denoiser.
///
/// Its program has one input, `sample` (token ids `[N, tokens]`, or a map), and one output, `prediction`; all of it is of
/// stage `step` and of full extent, and knows no slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// token ids to embeddings
    TextEncoder,
    /// latents to an image
    VaeDecoder,
    /// an image to latents
    VaeEncoder,
}

/// Kernel calls in execution order.
///
/// Inputs by name: `sample` (f32 `[N, H, W, C]`, or one image for all: [`Plan::samples`]; step), `timestep` (f32 `[N]`, timestep stage), `context`
/// (`[N, tokens, width]`, prompt stage), and those of [`crate::ControlInput`]. Output: `prediction`, f32 `[N, H, W, C]`; in `edit` only its active pixels are
/// defined and the others are zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// all values
    pub values: Vec<Value>,
    /// inputs by name
    pub inputs: BTreeMap<String, ValueId>,
    /// outputs by name
    pub outputs: BTreeMap<String, ValueId>,
    /// kernel calls; those of an earlier stage may stand anywhere before their users
    pub nodes: Vec<Node>,
}

/// A value of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// element type
    pub dtype: DType,
    /// shape at full extent
    pub shape: Shape,
    /// what is stored
    pub extent: Extent,
    /// how often it is computed
    pub stage: Stage,
}

/// What of a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// everything
    Full,
    /// packed rows of the level's active pixels
    Active(u32),
}

/// How often a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// once per timestep of a schedule
    Timestep,
    /// once per prompt
    Prompt,
    /// every step
    Step,
}

/// One kernel call with its provenance and predicted work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// unique within the program, e.g. `down_blocks.0/resnets.0/conv1`
    pub name: String,
    /// what to run
    #[serde(flatten)]
    pub kernel: Kernel,
    /// how often
    pub stage: Stage,
    /// where it comes from and why
    pub provenance: Provenance,
    /// multiply-accumulates when everything is computed
    pub macs_dense: u64,
    /// predicted multiply-accumulates at 5, 15 and 30 % active latents
    pub macs_predicted: [u64; 3],
}

/// Where a node comes from and why it is what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// ONNX nodes that it computes
    pub origin: Vec<String>,
    /// the pass that made it
    pub pass: String,
    /// one clause
    pub reason: String,
}

/// The rest of a pipeline: paths relative to the bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineFiles {
    /// ONNX text encoder: token ids `[N, 77]` to embedding
    pub text_encoder: String,
    /// ONNX VAE decoder: latents to image
    pub vae_decoder: String,
    /// ONNX VAE encoder, when there is one
    pub vae_encoder: Option<String>,
    /// those networks that compute in half precision once more, in f32, for when half precision overflows
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub widened: BTreeMap<NetworkKind, String>,
    /// `tokenizer.json`, or the folder of `vocab.json` and `merges.txt`
    pub tokenizer: String,
    /// `scheduler_config.json`
    pub scheduler: String,
    /// factor on latents before the denoiser (`scaling_factor` of the VAE's configuration)
    pub scaling_factor: f64,
    /// pixels per latent along one axis
    pub vae_scale: usize,
}

/// Size and blake3 hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// bytes
    pub bytes: u64,
    /// blake3, hex
    pub blake3: String,
}
