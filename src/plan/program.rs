//! Walking a plan's programs.

use std::fmt;
use std::str::FromStr;

use fisec_tensor::PARITY_TAPS;

use crate::{Extent, Kernel, NetworkKind, Node, Plan, Program, ProgramKind, Programs, SlotKind, ValueId};

impl ProgramKind {
    /// All programs, in the order in which they are used.
    pub const ALL: [ProgramKind; 3] = [ProgramKind::Record, ProgramKind::Guide, ProgramKind::Edit];

    /// Name as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            ProgramKind::Record => "record",
            ProgramKind::Guide => "guide",
            ProgramKind::Edit => "edit",
        }
    }
}

impl NetworkKind {
    /// All of them, in the order in which an edit uses them.
    pub const ALL: [NetworkKind; 3] = [
        NetworkKind::TextEncoder,
        NetworkKind::VaeEncoder,
        NetworkKind::VaeDecoder,
    ];

    /// Name of its folder in a pipeline, and of its program.
    pub const fn name(self) -> &'static str {
        match self {
            NetworkKind::TextEncoder => "text_encoder",
            NetworkKind::VaeDecoder => "vae_decoder",
            NetworkKind::VaeEncoder => "vae_encoder",
        }
    }

    /// Its name in a sentence.
    pub const fn title(self) -> &'static str {
        match self {
            NetworkKind::TextEncoder => "text encoder",
            NetworkKind::VaeDecoder => "VAE decoder",
            NetworkKind::VaeEncoder => "VAE encoder",
        }
    }
}

impl fmt::Display for ProgramKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ProgramKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| format!("unknown program `{text}`"))
    }
}

impl Programs {
    /// The program of a kind; `edit` may be absent.
    pub fn get(&self, kind: ProgramKind) -> Option<&Program> {
        match kind {
            ProgramKind::Record => Some(&self.record),
            ProgramKind::Guide => Some(&self.guide),
            ProgramKind::Edit => self.edit.as_ref(),
        }
    }

    /// The programs that exist.
    pub fn iter(&self) -> impl Iterator<Item = (ProgramKind, &Program)> {
        ProgramKind::ALL
            .into_iter()
            .filter_map(|kind| self.get(kind).map(|program| (kind, program)))
    }
}

impl Program {
    /// The node of a name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Of the products that an active output takes in a dense step, the share that it takes here: taps of a doubled map that
    /// are summed, keys that are active. `active`: share of a level's pixels.
    pub fn share_of_terms(&self, kernel: &Kernel, active: impl Fn(u32) -> f64) -> f64 {
        let level = |id: ValueId| match self.values[id.index()].extent {
            Extent::Active(level) => Some(level),
            Extent::Full => None,
        };
        match kernel {
            Kernel::Conv(conv) if conv.by_parity.is_some() && level(conv.output).is_some() => {
                PARITY_TAPS as f64 / conv.kernel.iter().product::<usize>() as f64
            }
            Kernel::Attention(attention) if attention.k_outside.is_none() => level(attention.k).map_or(1.0, active),
            _ => 1.0,
        }
    }

    /// Multiply-accumulates per step when everything is computed.
    pub fn macs_dense(&self) -> u64 {
        self.nodes.iter().map(|node| node.macs_dense).sum()
    }

    /// Predicted multiply-accumulates per step at 5, 15 and 30 % active latents.
    pub fn macs_predicted(&self) -> [u64; 3] {
        std::array::from_fn(|share| self.nodes.iter().map(|node| node.macs_predicted[share]).sum())
    }
}

impl Plan {
    /// Whether the programs run on a CUDA device.
    pub fn is_cuda(&self) -> bool {
        self.target.starts_with("cuda:")
    }

    /// Latents that a step takes: one per image, or one for all.
    pub fn samples(&self) -> usize {
        let guide = &self.programs.guide;
        let shape = guide.inputs.get("sample").map(|id| &guide.values[id.index()].shape);
        shape.and_then(|shape| shape.first().copied()).unwrap_or(self.batch)
    }

    /// Bytes that an image's cache holds per step.
    pub fn cache_bytes_per_step(&self) -> u64 {
        let every_step = self
            .slots
            .iter()
            .filter(|slot| !matches!(slot.kind, SlotKind::Maps { .. }));
        every_step.map(|slot| slot.bytes).sum()
    }
}
