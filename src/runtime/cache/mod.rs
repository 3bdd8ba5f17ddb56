//! The cache store: remembered images on disk, each with the recorded activations of all its steps.
//!
//! ```text
//! $FISEC_HOME/images/<id>/
//!     manifest.json     key, parent, sizes and checksums of everything below, its own checksum
//!     latents.bin       trajectory, f32 [calls + 1, C, H, W]
//!     drift.bin         of an inverted picture: what each call misses the trajectory by, f32 [calls, C, H, W]
//!     step-000.bin      all slots of the call back to back, in slot order, without cross-attention maps
//!     maps-000.bin      those, of the first calls only, up to the last token of the prompt
//!     image.png  mask.png
//! ```
//!
//! An image appears under its name complete or not at all. What is damaged counts as not remembered, but takes room, and
//! goes first when room is made. Processes that change the store at once wait for each other at `$FISEC_HOME/images.lock`;
//! what is being written or removed is in hidden scratch folders of `fisec_plan`, beside the images.

mod entry;
mod error;
mod home;
mod key;
mod listing;
mod lock;
mod manifest;
mod memory;
mod nearest;
mod prune;
mod recording;
mod store;
mod writer;

pub use entry::Entry;
pub use error::CacheError;
pub use home::default_home;
pub use key::ImageKey;
pub use listing::{Damaged, Listing};
pub use manifest::{Kept, Manifest, SlotLayout, StepFile};
pub use memory::MemoryCache;
pub use nearest::{Nearest, prompt_distance};
pub use prune::Pruned;
pub use recording::Recording;
pub use store::{DEFAULT_LIMIT, Store};
