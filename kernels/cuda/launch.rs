//! One launch of a kernel.

use bytemuck::Pod;

/// Folders that hold kernels: each makes one module.
pub const KERNELS: [&str; 16] = [
    "advance_step",
    "attention",
    "attention_control",
    "attention_stream",
    "attention_wgmma",
    "attention_wide",
    "causal_attention",
    "fold_norm",
    "geglu",
    "group_norm",
    "latent",
    "layer_norm",
    "move_rows",
    "sparse_conv",
    "sparse_conv_stream",
    "sparse_conv_wgmma",
];

/// A GPU architecture that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Arch {
    Sm80,
    Sm90a,
    Sm100a,
}

impl Arch {
    /// The architecture that a target `cuda:<arch>` names.
    pub fn of_target(target: &str) -> Option<Self> {
        match target.strip_prefix("cuda:")? {
            "sm_80" => Some(Arch::Sm80),
            "sm_90a" => Some(Arch::Sm90a),
            "sm_100a" => Some(Arch::Sm100a),
            _ => None,
        }
    }

    /// Whether kernels with Hopper's warpgroup products run.
    pub fn has_wgmma(self) -> bool {
        self == Arch::Sm90a
    }

    /// Whether blocks can form clusters.
    pub fn has_clusters(self) -> bool {
        self != Arch::Sm80
    }

    /// Whether code for this architecture runs on a device of this compute capability.
    pub fn runs_on(self, major: i32, minor: i32) -> bool {
        match self {
            Arch::Sm80 => major == 8,
            // the `a` targets run on exactly their own generation
            Arch::Sm90a => (major, minor) == (9, 0),
            Arch::Sm100a => (major, minor) == (10, 0),
        }
    }
}

/// What variants are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gpu {
    /// architecture
    pub arch: Arch,
    /// blocks of one per multiprocessor that run at once
    pub multiprocessors: usize,
}

/// A kernel with its grid and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// folder of the kernel: which module
    pub kernel: &'static str,
    /// function in it
    pub entry: &'static str,
    /// blocks
    pub grid: [u32; 3],
    /// threads per block
    pub threads: u32,
    /// bytes of dynamic shared memory
    pub shared: u32,
    /// blocks of a cluster along z; 1: none
    pub cluster: u32,
    /// the kernel may start while the one before it drains
    pub overlap: bool,
    /// the parameter struct
    pub params: Vec<u8>,
}

impl Launch {
    /// A launch without shared memory or cluster that overlaps with the one before.
    pub(super) fn new(
        kernel: &'static str,
        entry: &'static str,
        grid: [usize; 3],
        threads: u32,
        params: &impl Pod,
    ) -> Self {
        Launch {
            kernel,
            entry,
            grid: grid.map(|blocks| blocks.max(1) as u32),
            threads,
            shared: 0,
            cluster: 1,
            overlap: true,
            params: bytemuck::bytes_of(params).to_vec(),
        }
    }
}
