//! Which output of a denoiser is its prediction.

use super::RolesError;
use super::ports::{Port, list};
use super::purpose::of_channels;

/// The name that diffusers and optimum give the prediction.
const EXPORTED: &str = "out_sample";
/// Names of the prediction in other exports.
const NAMES: [&str; 9] = [
    "noise_pred",
    "noise_prediction",
    "model_output",
    "prediction",
    "v_prediction",
    "sample",
    "noise",
    "latent",
    "output",
];

/// The position of the prediction among `outputs`: the one of the latents' shape; the name decides among several of it.
/// `asked` is the name that the user gives, which decides everything but the shape.
///
/// # Errors
/// There is none, or there are several.
pub fn prediction(sample: &Port, outputs: &[Port], asked: Option<&str>) -> Result<usize, RolesError> {
    let fits = |output: &Port| is_like(output, sample);
    if let Some(asked) = asked {
        let Some(index) = outputs.iter().position(|output| output.name == asked) else {
            let message = format!("the model has no output `{asked}`, only {}", list(outputs));
            return Err(RolesError::new(message).hint("name one of them with `--prediction`, or leave it out"));
        };
        return match fits(&outputs[index]) {
            true => Ok(index),
            false => Err(unlike(sample, &outputs[index])),
        };
    }
    let fitting: Vec<usize> = (0..outputs.len()).filter(|&index| fits(&outputs[index])).collect();
    let exported = outputs.iter().position(|output| output.name == EXPORTED);
    match (exported, &fitting[..]) {
        (Some(exported), _) if fitting.contains(&exported) => Ok(exported),
        // its name says one thing, the shapes say another
        (Some(exported), [_, ..]) => Err(ambiguous(
            sample,
            outputs,
            &format!("`{EXPORTED}` has another: {}", outputs[exported].describe()),
        )),
        (None, [only]) => Ok(*only),
        (None, [_, _, ..]) => {
            let is_named = |index: &&usize| NAMES.contains(&outputs[**index].name.to_lowercase().as_str());
            let mut named = fitting.iter().filter(is_named);
            match (named.next(), named.next()) {
                (Some(&only), None) => Ok(only),
                _ => Err(ambiguous(
                    sample,
                    outputs,
                    "their names do not tell which of them it is",
                )),
            }
        }
        (_, []) => Err(none(sample, outputs)),
    }
}

/// Whether an output has the latents' element kind and shape; the number of images may be open.
fn is_like(output: &Port, sample: &Port) -> bool {
    let (Some(found), Some(wanted)) = (&output.dims, &sample.dims) else {
        return false;
    };
    output.is_float() && found.len() == wanted.len() && found[1..] == wanted[1..]
}

fn ambiguous(sample: &Port, outputs: &[Port], why: &str) -> RolesError {
    let message = format!(
        "which output is the prediction is ambiguous, {why}; the latents are {}, the outputs {}",
        sample.describe(),
        list(outputs)
    );
    RolesError::new(message).hint(format!("name it, e.g. `--prediction {}`", outputs[0].name))
}

fn none(sample: &Port, outputs: &[Port]) -> RolesError {
    let mut maps = outputs
        .iter()
        .filter(|output| output.rank() == Some(4) && output.is_float());
    let named = outputs.iter().find(|output| output.name == EXPORTED);
    if let Some(map) = named.or_else(|| maps.next().filter(|_| maps.next().is_none())) {
        return unlike(sample, map);
    }
    let message = format!(
        "no output has the shape of the latents {}: the outputs are {}",
        sample.describe(),
        list(outputs)
    );
    RolesError::new(message).hint("give the U-Net of a text-to-image pipeline")
}

/// The prediction is there and cannot be used.
fn unlike(sample: &Port, output: &Port) -> RolesError {
    let mut message = format!(
        "a U-Net whose prediction is not of the latents' shape is not supported: the latents are {}, the prediction is {}",
        sample.describe(),
        output.describe()
    );
    if let (Some(taken), Some(predicted)) = (sample.dim(1), output.dim(1))
        && taken != predicted
        && output.rank() == Some(4)
    {
        message = format!("{message}; {}", of_channels(taken, predicted));
    }
    RolesError::new(message).hint(
        "give the U-Net of the text-to-image model that this one was made from: its prediction has the latents' channels, \
         and fisec edits with it, also inside a mask",
    )
}
