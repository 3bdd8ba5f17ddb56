//! The way back to an image whose file could not be written: the command that writes it again, or a rescued copy.

use fisec_diffusion::Request;

use super::Arguments;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::printable::shell_word;

/// The failure with a way to the image: the command that writes a remembered one again, or where an image that is not
/// remembered was put.
pub(super) fn unwritten(
    failure: Failure,
    png: &[u8],
    id: Option<&str>,
    arguments: &Arguments,
    request: &Request,
) -> Failure {
    if failure.is_closed_pipe() {
        return failure;
    }
    if let Some(id) = id {
        let command = command(id, arguments, request);
        return failure.hint(format!("the image is remembered as {id}: `{command}` writes it again"));
    }
    if png.is_empty() {
        return failure;
    }
    match output::rescue(png, "png") {
        Ok(path) => {
            let word = shell_word(&path.display().to_string());
            failure.hint(format!("the image is in {0}: `mv {word} OTHER.png`", path.display()))
        }
        Err(error) => Failure::new(format!(
            "{}; the image is not remembered, and it could not be put elsewhere: {error}",
            failure.message()
        ))
        .hint("free some space, or leave out `--forget`, and run the command again"),
    }
}

/// The command that gives a remembered image under another name. All that tells images apart beside their words must be
/// as it was.
fn command(id: &str, arguments: &Arguments, request: &Request) -> String {
    let mut words = vec!["fisec".to_owned(), "run".into(), arguments.plan.display().to_string()];
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    add("--base", id.to_owned());
    add("--prompt", request.prompt.clone());
    if !request.negative.is_empty() {
        add("--negative", request.negative.clone());
    }
    add("--seed", request.seed.to_string());
    add("--steps", request.steps.to_string());
    add("--guidance", request.guidance.to_string());
    if let Some(sampler) = request.sampler {
        add("--sampler", sampler.name().to_owned());
    }
    add("-o", "OTHER.png".to_owned());
    words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}
