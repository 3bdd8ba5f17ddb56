//! The sizes that recorded tensors bind a model to: as `compile` binds them, so that what it cannot bind fails here too.

use fisec_onnx::{Bindings, Declared, Model};
use fisec_passes::Roles;
use fisec_tensor::HostTensor;

use super::{Arguments, Recorded};
use crate::cli::compile::StepSizes;
use crate::cli::failure::Failure;

/// Sizes for the inputs of the model. Those of a denoiser are images, rows, columns and tokens; channels and widths follow
/// from the model. An input that `compile` refuses is bound to its recorded shape.
pub fn bindings(arguments: &Arguments, recorded: &Recorded) -> Result<Bindings, Failure> {
    let inputs = Model::open(&arguments.model)?.inputs();
    let bindings = match Roles::beside_others(&inputs) {
        Ok(roles) => denoiser(&roles, &inputs, arguments, recorded)?,
        Err(_) => arguments.choices.bind(network(&inputs, recorded)),
    };
    Ok(bindings)
}

fn denoiser(
    roles: &Roles,
    inputs: &[Declared],
    arguments: &Arguments,
    recorded: &Recorded,
) -> Result<Bindings, Failure> {
    let (sample, context) = (recorded.input(&roles.sample)?, recorded.input(&roles.context)?);
    let ([batch, _, height, width], [_, tokens, _]) = (&sample.shape()[..], &context.shape()[..]) else {
        return Err(Failure::new(format!(
            "latents are [N, C, H, W] and text is [N, tokens, width]; recorded are `in_{}` [{}] and `in_{}` [{}]",
            roles.sample,
            sample.shape(),
            roles.context,
            context.shape()
        ))
        .hint("record one array for every input, in the shape that the model takes"));
    };
    let sizes = StepSizes {
        batch: *batch,
        height: *height,
        width: *width,
        tokens: *tokens,
    };
    // one timestep for all images is as good as one for each
    let timestep = recorded.input(&roles.timestep)?.shape();
    let bindings = sizes.bindings(&arguments.choices).input(&roles.timestep, timestep);
    let names = [&roles.sample, &roles.timestep, &roles.context];
    let others = inputs.iter().filter(|input| !names.contains(&&input.name));
    Ok(others.fold(bindings, |bindings, input| bound(bindings, input, recorded)))
}

/// A network beside the denoiser, or anything else.
fn network(inputs: &[Declared], recorded: &Recorded) -> Bindings {
    if let [input] = inputs
        && let Some(array) = recorded.inputs.get(&input.name)
    {
        match array.shape()[..] {
            [batch, tokens] => return Bindings::text_encoder(batch, tokens),
            [batch, channels, height, width] => return Bindings::vae(batch, channels, height, width),
            _ => {}
        }
    }
    inputs
        .iter()
        .fold(Bindings::new(), |bindings, input| bound(bindings, input, recorded))
}

fn bound(bindings: Bindings, input: &Declared, recorded: &Recorded) -> Bindings {
    match recorded.inputs.get(&input.name) {
        Some(array) => bindings.input(&input.name, array.shape()),
        None => bindings,
    }
}

impl Recorded {
    /// The recorded array of an input.
    pub fn input(&self, name: &str) -> Result<&HostTensor, Failure> {
        self.inputs.get(name).ok_or_else(|| {
            Failure::new(format!("no array `in_{name}` is recorded"))
                .hint("record one array for every input of the model")
        })
    }
}
