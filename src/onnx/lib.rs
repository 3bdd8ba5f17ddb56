//! ONNX in and out: a reader over memory maps, the import of a model as a graph, the export of graphs as models.
//!
//! ```no_run
//! use fisec_onnx::{Bindings, import};
//!
//! let bindings = Bindings::unet(2, 96, 96, 77);
//! let unet = import("unet/model.onnx".as_ref(), &bindings)?;
//! println!("{} nodes written by {}", unet.graph.len(), unet.producer);
//! # Ok::<(), fisec_onnx::ImportError>(())
//! ```

mod bind;
mod element;
mod error;
mod export;
mod files;
mod functions;
mod import;
mod inspect;
mod model;
mod node;
mod order;
#[allow(missing_docs, clippy::all, rustdoc::all)]
mod proto;
mod read;
mod solve;
mod tensor;
mod widen;

pub use bind::Bindings;
pub use element::{element_type, onnx_number};
pub use error::ImportError;
pub use export::{ExportError, Location, Ports, SinkError, WeightSink, export, has_onnx_form};
pub use import::{Decide, Import, import, unknown_type};
pub use inspect::{Inspection, inspect};
pub use model::{Declared, DeclaredSize, Model};
pub use widen::widened;
