//! Which remembered image a new prompt is closest to.

use super::Manifest;

/// A remembered image from which an edit can start.
#[derive(Clone, Debug)]
pub struct Nearest {
    /// the image
    pub manifest: Manifest,
    /// words to insert, delete or replace
    pub distance: usize,
}

/// Words that must be inserted, deleted or replaced to turn one prompt into the other. Case and punctuation at the
/// ends of words do not count.
pub fn prompt_distance(a: &str, b: &str) -> usize {
    let (a, b) = (words(a), words(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The nearest of `images` to `prompt`, when at least half of the words of the longer prompt stay. Among equals a first
/// image precedes an edit, which precedes older ones.
pub(crate) fn nearest(images: Vec<Manifest>, prompt: &str) -> Option<Nearest> {
    let length = words(prompt).len();
    images
        .into_iter()
        .map(|manifest| Nearest {
            distance: prompt_distance(&manifest.key.prompt, prompt),
            manifest,
        })
        .filter(|image| 2 * image.distance <= length.max(words(&image.manifest.key.prompt).len()))
        .min_by_key(|image| {
            let age = u64::MAX - image.manifest.created;
            (image.distance, image.manifest.parent.is_some(), age)
        })
}

fn words(prompt: &str) -> Vec<String> {
    prompt
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_words() {
        assert_eq!(prompt_distance("a dog on grass", "a cat on grass"), 1);
        assert_eq!(prompt_distance("a dog on grass", "A dog, on grass."), 0);
        assert_eq!(prompt_distance("a dog", "a dog under a rainbow"), 3);
        assert_eq!(prompt_distance("", "two words"), 2);
        assert_eq!(prompt_distance("one two three", "two three four"), 2);
    }
}
