//! Which output of a network beside the denoiser a pipeline reads.

use crate::NetworkKind;

/// Outputs that a message lists at most.
const LISTED: usize = 16;

/// Colours of a picture.
const RGB: usize = 3;

impl NetworkKind {
    /// The position of the output that a pipeline reads: told by rank (and by three channels for a picture), and by name
    /// where several have it; never by position. Outputs are given by name with their dimensions, `None` where a model
    /// leaves one open.
    ///
    /// # Errors
    /// No output fits, or several do: the reason lists them with their shapes.
    pub fn output(self, outputs: &[(&str, &[Option<usize>])]) -> Result<usize, String> {
        let fits = |dims: &[Option<usize>]| match self {
            NetworkKind::TextEncoder => dims.len() == 3,
            NetworkKind::VaeDecoder => dims.len() == 4 && dims[1].is_none_or(|channels| channels == RGB),
            NetworkKind::VaeEncoder => dims.len() == 4,
        };
        let fitting: Vec<usize> = (0..outputs.len()).filter(|&index| fits(outputs[index].1)).collect();
        let named = |name: &&str| fitting.iter().copied().find(|&index| outputs[index].0 == *name);
        match (&fitting[..], self.output_names().iter().find_map(named)) {
            ([only], _) => Ok(*only),
            (_, Some(named)) => Ok(named),
            ([], _) => Err(format!("it has no output that fits, only {}", listed(outputs))),
            _ => Err(format!(
                "which output is the {} is ambiguous: it has {}",
                self.result(),
                listed(outputs)
            )),
        }
    }

    /// Names that exporters give the output, the best first.
    fn output_names(self) -> &'static [&'static str] {
        match self {
            NetworkKind::TextEncoder => &["last_hidden_state", "prompt_embeds", "text_embeddings"],
            NetworkKind::VaeDecoder => &["sample", "image", "images", "out_sample", "decoded"],
            // mean and variance before a sample of them, which is drawn anew every time
            NetworkKind::VaeEncoder => &[
                "latent_parameters",
                "moments",
                "latent_dist",
                "latent_sample",
                "latents",
                "latent",
            ],
        }
    }

    fn result(self) -> &'static str {
        match self {
            NetworkKind::TextEncoder => "embedding of the tokens",
            NetworkKind::VaeDecoder => "picture",
            NetworkKind::VaeEncoder => "latents",
        }
    }
}

fn listed(outputs: &[(&str, &[Option<usize>])]) -> String {
    let size = |size: &Option<usize>| size.map_or("?".to_owned(), |size| size.to_string());
    let one = |(name, dims): &(&str, &[Option<usize>])| {
        let dims: Vec<String> = dims.iter().map(size).collect();
        format!("`{name}` [{}]", dims.join(","))
    };
    let described: Vec<String> = outputs.iter().take(LISTED).map(one).collect();
    match outputs.len().saturating_sub(LISTED) {
        0 => described.join(", "),
        more => format!("{} and {more} more", described.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: &[Option<usize>] = &[Some(1), Some(77), Some(64)];
    const POOLED: &[Option<usize>] = &[Some(1), Some(64)];
    const MAP: &[Option<usize>] = &[None, Some(8), None, None];
    const PICTURE: &[Option<usize>] = &[None, Some(3), None, None];

    #[test]
    fn the_embedding_is_found_wherever_it_stands() {
        let kind = NetworkKind::TextEncoder;
        assert_eq!(
            kind.output(&[("pooler_output", POOLED), ("last_hidden_state", TOKENS)]),
            Ok(1)
        );
        assert_eq!(kind.output(&[("1234", POOLED), ("1230", TOKENS)]), Ok(1));
        let several = [("hidden_states.0", TOKENS), ("last_hidden_state", TOKENS)];
        assert_eq!(kind.output(&several), Ok(1));
        let unnamed = kind.output(&[("a", TOKENS), ("b", TOKENS)]).unwrap_err();
        assert!(unnamed.contains("`a` [1,77,64], `b` [1,77,64]"), "{unnamed}");
        assert!(kind.output(&[("pooler_output", POOLED)]).is_err());
    }

    #[test]
    fn a_picture_has_three_channels() {
        let kind = NetworkKind::VaeDecoder;
        assert_eq!(kind.output(&[("features", MAP), ("x", PICTURE)]), Ok(1));
        assert!(kind.output(&[("a", PICTURE), ("b", PICTURE)]).is_err());
        assert_eq!(kind.output(&[("a", PICTURE), ("sample", PICTURE)]), Ok(1));
    }

    #[test]
    fn moments_come_before_a_sample_of_them() {
        let kind = NetworkKind::VaeEncoder;
        assert_eq!(kind.output(&[("latent_sample", MAP), ("moments", MAP)]), Ok(1));
        assert_eq!(kind.output(&[("loss", &[]), ("latent_sample", MAP)]), Ok(1));
    }
}
