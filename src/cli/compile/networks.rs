//! The networks beside the U-Net, for targets that compute them by themselves.

use std::ops::ControlFlow;
use std::path::Path;

use fisec_ir::Graph;
use fisec_onnx::Bindings;
use fisec_passes::{Network, Pipeline};
use fisec_plan::NetworkKind;

use super::pipeline::Checked;
use super::{Watcher, import};
use crate::cli::console::Console;
use crate::cli::failure::Failure;

/// Pixels' channels.
const RGB: usize = 3;

/// The networks of a pipeline for latents `[channels, height, width]`, of which the target has kernels; none for the CPU.
/// What cannot be read or is of another form stays with ONNX Runtime, which says why when it cannot run it either.
pub fn build(
    pipeline: Option<&Checked<'_>>,
    target: &str,
    latent: [usize; 3],
    watcher: &mut Watcher,
    console: &Console,
) -> Result<Vec<Network>, Failure> {
    let Some(pipeline) = pipeline.filter(|_| target.starts_with("cuda:")) else {
        return Ok(Vec::new());
    };
    let [channels, height, width] = latent;
    let scale = pipeline.vae_scale();
    let mut networks = Vec::new();
    for (kind, file) in pipeline.parts().networks() {
        let bindings = match kind {
            NetworkKind::TextEncoder => Bindings::text_encoder(1, pipeline.tokens()),
            NetworkKind::VaeDecoder => Bindings::vae(1, channels, height, width),
            NetworkKind::VaeEncoder => Bindings::vae(1, RGB, height * scale, width * scale),
        };
        if watcher.is_stopped() {
            continue;
        }
        match one(kind, file, &bindings, watcher)? {
            Some(network) => networks.push(network),
            None => console.detail(&format!("the {} runs in ONNX Runtime", kind.title())),
        }
    }
    Ok(networks)
}

fn one(kind: NetworkKind, file: &Path, bindings: &Bindings, watcher: &mut Watcher) -> Result<Option<Network>, Failure> {
    let Ok(imported) = import::import(file, bindings) else {
        return Ok(None);
    };
    let mut graph = imported.graph;
    graph.set_name(kind.name());
    import::raise_graph(&mut graph, watcher)?;
    let mut listener = |_: usize, name: &str, graph: &Graph| -> ControlFlow<()> { watcher.after(name, graph) };
    Ok(Network::build(kind, graph, &mut Pipeline::new(&mut listener))?)
}
