//! The recorded exports, raised.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fisec_ir::Graph;
use fisec_onnx::{Bindings, import};
use fisec_passes::canonical::canonicalize;
use fisec_tensor::HostTensor;

use crate::npz::read_npz;

/// A recorded export with its inputs and torch's outputs.
pub struct Route {
    /// folder below `tests/data/onnx`
    pub name: &'static str,
    /// latent rows and columns, batch
    size: [usize; 3],
    /// largest error, relative to the largest output: rounding of f32 sums, and of f16 activations
    pub tolerance: f64,
}

/// Every recorded U-Net.
pub const ROUTES: [Route; 3] = [
    Route {
        name: "ts17_static",
        size: [16, 16, 2],
        tolerance: 1e-4,
    },
    Route {
        name: "ts17_fp16_eager_upcast_static",
        size: [8, 8, 2],
        tolerance: 5e-3,
    },
    Route {
        name: "dynamo20_dyn",
        size: [16, 24, 6],
        tolerance: 1e-4,
    },
];

impl Route {
    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        data().join("onnx").join(self.name)
    }

    /// Its ONNX file, unpacked where it is stored compressed.
    pub fn model(&self) -> PathBuf {
        let packed = self.folder().join("model.onnx.gz");
        if !packed.is_file() {
            return self.folder().join("model.onnx");
        }
        let name = format!("fisec-{}-{}.onnx", self.name, std::process::id());
        let unpacked = std::env::temp_dir().join(name);
        if !unpacked.is_file() {
            let mut model = Vec::new();
            let mut reader = flate2::read::GzDecoder::new(std::fs::File::open(&packed).unwrap());
            reader.read_to_end(&mut model).unwrap();
            // other threads may do the same: whoever is last puts the same bytes there
            let whole = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(whole.path(), model).unwrap();
            whole.persist(&unpacked).unwrap();
        }
        unpacked
    }

    /// The imported and raised graph.
    pub fn raised(&self) -> Graph {
        raised(&self.model(), &self.bindings())
    }

    /// The sizes it was recorded at.
    pub fn bindings(&self) -> Bindings {
        let [height, width, batch] = self.size;
        Bindings::unet(batch, height, width, 77)
    }

    /// Inputs by name, in the types that the graph declares, and torch's outputs by name.
    pub fn recorded(&self, graph: &Graph) -> (BTreeMap<String, HostTensor>, BTreeMap<String, HostTensor>) {
        let arrays = read_npz(&self.folder().join("io.npz"));
        let inputs = graph.inputs().into_iter().map(|(id, name)| {
            let dtype = graph.node(id).outputs()[0].dtype;
            (name.to_owned(), arrays[&format!("in_{name}")].cast(dtype))
        });
        let outputs = graph
            .outputs()
            .into_iter()
            .map(|(_, name)| (name.to_owned(), arrays[&format!("out_{name}")].clone()));
        (inputs.collect(), outputs.collect())
    }
}

/// `tests/data`.
pub fn data() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if own.join("tests/data").is_dir() {
        own
    } else {
        own.parent().expect("a crate below the root")
    };
    root.join("tests/data")
}

/// A model after all canonical passes.
pub fn raised(model: &Path, bindings: &Bindings) -> Graph {
    let mut graph = import(model, bindings).expect("imports").graph;
    canonicalize(&mut graph, &mut |_, _| ControlFlow::Continue(())).expect("canonical");
    graph
}

/// The largest difference relative to the largest expected value.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "values of one shape");
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let differs = |(a, b): (&f64, &f64)| if a.is_finite() { (a - b).abs() } else { f64::INFINITY };
    found.iter().zip(expected).map(differs).fold(0.0, f64::max) / largest
}
