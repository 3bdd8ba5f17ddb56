//! Whether the networks beside the U-Net have the inputs and outputs that a pipeline uses, of sizes that fit each other.

use std::path::Path;

use fisec_onnx::{Bindings, Declared, Inspection, unknown_type};
use fisec_plan::NetworkKind;
use fisec_tensor::DType;

use super::import;
use crate::cli::failure::Failure;

/// Pixels' channels.
const RGB: usize = 3;

/// What parts of different models are told.
const ONE_EXPORT: &str = "the parts are of different models: export the pipeline as one";

/// Checks that a network has the one input and the output that a pipeline uses.
///
/// # Errors
/// Names the inputs or outputs that it has instead.
pub fn check(kind: NetworkKind, file: &Path, inspection: &Inspection) -> Result<(), Failure> {
    let is_text = kind == NetworkKind::TextEncoder;
    let (what, rank) = if is_text {
        ("token ids [N, tokens]", 2)
    } else {
        ("a map [N, C, H, W]", 4)
    };
    let [input] = &inspection.inputs[..] else {
        let reason = format!("it should have one input, {what}; it has {}", names(&inspection.inputs));
        return Err(unusable(kind, file, &reason));
    };
    let has_type = match is_text {
        true => matches!(input.dtype, Some(DType::I32 | DType::I64)),
        false => input.dtype.is_some_and(|dtype| dtype.is_float()),
    };
    if !has_type || input.dims.as_ref().is_some_and(|dims| dims.len() != rank) {
        let reason = format!("its input should be {what}; it is {}", name(input));
        return Err(unusable(kind, file, &reason));
    }
    let output = output(kind, inspection).map_err(|reason| unusable(kind, file, &reason))?;
    if output.dtype.is_some_and(|dtype| !dtype.is_float()) {
        let reason = format!("its output should be floats; it is {}", name(output));
        let floats = "export it without conversion to bytes: fisec reads pictures as floats from -1 to 1";
        return Err(unusable(kind, file, &reason).hint(floats));
    }
    Ok(())
}

/// The output that a pipeline reads, as the network is opened to run, or why there is none.
fn output(kind: NetworkKind, inspection: &Inspection) -> Result<&Declared, String> {
    let dims: Vec<Vec<Option<usize>>> = inspection
        .outputs
        .iter()
        .map(|output| output.fixed_dims().unwrap_or_default())
        .collect();
    let named: Vec<(&str, &[Option<usize>])> = inspection
        .outputs
        .iter()
        .zip(&dims)
        .map(|(output, dims)| (output.name.as_str(), &dims[..]))
        .collect();
    // a single output of unknown rank is told by what the graph computes
    match &inspection.outputs[..] {
        [only] if only.dims.is_none() => Ok(only),
        outputs => Ok(&outputs[kind.output(&named)?]),
    }
}

/// Sizes that the parts of a pipeline share.
pub struct Fit {
    /// tokens of a prompt
    pub tokens: usize,
    /// of the text embedding that the U-Net takes
    pub width: usize,
    /// channels, rows and columns of latents
    pub latent: [usize; 3],
    /// pixels per latent along one axis
    pub scale: usize,
}

impl Fit {
    /// Checks the sizes of a network that [`check`] has accepted.
    ///
    /// # Errors
    /// Names both sizes where they differ.
    pub fn check(&self, kind: NetworkKind, file: &Path, inspection: &Inspection) -> Result<(), Failure> {
        let [channels, height, width] = self.latent;
        let (rows, columns) = (height * self.scale, width * self.scale);
        let (given, wanted, bindings) = match kind {
            NetworkKind::TextEncoder => (
                vec![1, self.tokens],
                vec![vec![1, self.tokens, self.width]],
                Bindings::text_encoder(1, self.tokens),
            ),
            NetworkKind::VaeDecoder => (
                vec![1, channels, height, width],
                vec![vec![1, RGB, rows, columns]],
                Bindings::vae(1, channels, height, width),
            ),
            NetworkKind::VaeEncoder => (
                vec![1, RGB, rows, columns],
                vec![vec![1, channels, height, width], vec![1, 2 * channels, height, width]],
                Bindings::vae(1, RGB, rows, columns),
            ),
        };
        // ids are repeated for the images of a text encoder of a fixed batch
        let skipped = usize::from(kind == NetworkKind::TextEncoder);
        let declared = inspection.inputs[0].fixed_dims().unwrap_or_default();
        if !agree(&declared, &given, skipped) {
            let message = format!("it takes {}, {} are given to it", text(&declared), sizes(&given));
            return Err(unusable(kind, file, &message).hint(match kind {
                NetworkKind::TextEncoder => ONE_EXPORT.to_owned(),
                _ => {
                    "export it with dynamic axes, or compile for the size that it was exported for: `--size`".to_owned()
                }
            }));
        }
        let Ok(output) = output(kind, inspection) else {
            return Ok(());
        };
        let found = inferred(kind, file, &bindings, &output.name).or_else(|| output.fixed_dims());
        let Some(found) = found else { return Ok(()) };
        if wanted.iter().any(|wanted| agree(&found, wanted, skipped)) {
            return Ok(());
        }
        let wanted: Vec<String> = wanted.iter().map(|wanted| sizes(wanted)).collect();
        let message = format!(
            "it gives {}, the U-Net and the size ask for {}",
            text(&found),
            wanted.join(" or ")
        );
        Err(unusable(kind, file, &message).hint(ONE_EXPORT))
    }
}

/// The shape of an output by what the graph computes; `None` where that cannot be inferred.
fn inferred(kind: NetworkKind, file: &Path, bindings: &Bindings, output: &str) -> Option<Vec<Option<usize>>> {
    let mut graph = import::import(file, bindings).ok()?.graph;
    graph.set_name(kind.name());
    import::fold(&mut graph).ok()?;
    let (id, _) = graph.outputs().into_iter().find(|(_, name)| *name == output)?;
    let value = graph.operand_type(graph.operands(id)[0])?;
    let is_known = value.shape != unknown_type().shape;
    is_known.then(|| value.shape.iter().map(|&size| Some(size)).collect())
}

/// Whether sizes are the same behind the first `skipped`, as far as they are known.
fn agree(found: &[Option<usize>], wanted: &[usize], skipped: usize) -> bool {
    let mut pairs = found.iter().zip(wanted).skip(skipped);
    found.is_empty() || found.len() == wanted.len() && pairs.all(|(found, wanted)| found.is_none_or(|f| f == *wanted))
}

fn unusable(kind: NetworkKind, file: &Path, reason: &str) -> Failure {
    Failure::new(format!(
        "the {} cannot be used: {reason}\n  --> {}",
        kind.title(),
        file.display()
    ))
    .hint("export the pipeline with optimum or diffusers, each network with the inputs of text-to-image")
}

fn names(declared: &[Declared]) -> String {
    match declared {
        [] => "none".into(),
        some => some.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

fn name(declared: &Declared) -> String {
    let dtype = declared
        .dtype
        .map_or("another type".to_owned(), |dtype| dtype.to_string());
    let dims = declared.fixed_dims().as_deref().map(text).unwrap_or_default();
    format!("`{}`: {dtype}{dims}", declared.name)
}

fn text(dims: &[Option<usize>]) -> String {
    let sizes = dims
        .iter()
        .map(|dim| dim.map_or("?".to_owned(), |size| size.to_string()));
    format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
}

fn sizes(dims: &[usize]) -> String {
    text(&dims.iter().map(|&size| Some(size)).collect::<Vec<_>>())
}
