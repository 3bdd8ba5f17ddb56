//! Which words of a prompt are new.

use super::escape;

/// The new prompt as HTML, words left out as `<del>`, new ones as `<ins>`.
pub fn marked(before: &str, after: &str) -> String {
    let old: Vec<&str> = before.split_whitespace().collect();
    let new: Vec<&str> = after.split_whitespace().collect();
    let common = common_suffixes(&old, &new);
    let (mut i, mut j) = (0, 0);
    let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
    while i < old.len() || j < new.len() {
        let (tag, word) = if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
            ("", new[j - 1])
        } else if i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ("del", old[i - 1])
        } else {
            j += 1;
            ("ins", new[j - 1])
        };
        match parts.last_mut() {
            Some((last, words)) if *last == tag => words.push(word),
            _ => parts.push((tag, vec![word])),
        }
    }
    let parts = parts.iter().map(|(tag, words)| {
        let words = escape(&words.join(" "));
        match *tag {
            "" => words,
            tag => format!("<{tag}>{words}</{tag}>"),
        }
    });
    parts.collect::<Vec<_>>().join(" ")
}

/// `[i][j]`: length of the longest common subsequence of `old[i..]` and `new[j..]`.
fn common_suffixes(old: &[&str], new: &[&str]) -> Vec<Vec<usize>> {
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn replaced_added_and_removed_words_are_marked() {
        assert_eq!(
            marked("a dog on grass", "a cat on grass"),
            "a <del>dog</del> <ins>cat</ins> on grass"
        );
        assert_eq!(marked("a dog", "a dog with a hat"), "a dog <ins>with a hat</ins>");
        assert_eq!(marked("a big dog", "a dog"), "a <del>big</del> dog");
    }
}
