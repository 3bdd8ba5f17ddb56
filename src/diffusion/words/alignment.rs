//! Which words of a new prompt are those of the old one.

use std::ops::Range;

use crate::Tokens;

/// Where the attention map of a new token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// the same token, in the old prompt at this position
    Kept(usize),
    /// tokens that this one replaces; `among` new ones share them
    Replaced {
        /// positions in the old prompt
        old: Range<usize>,
        /// tokens that stand in their place
        among: usize,
    },
    /// nothing of the old prompt
    New,
}

/// Both prompts side by side, from begin to end token. Padding is aligned with nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// one per used token of the new prompt
    pub sources: Vec<Source>,
    /// positions in the old prompt whose words are gone or replaced
    pub gone: Vec<usize>,
}

impl Alignment {
    /// Aligns two prompts, given with the text that was tokenised.
    ///
    /// Words are aligned as Needleman and Wunsch do, with 1 for equal words, 0 for a gap, never unequal ones beside each
    /// other, and in as few pieces as possible: a word counts as a whole, however many tokens it has. What lies between kept words in both prompts is
    /// a replacement: token by token when there are as many, otherwise all for all.
    pub fn of(old: (&Tokens, &str), new: (&Tokens, &str)) -> Self {
        let (old_words, new_words) = (words(old), words(new));
        let ids = |tokens: &Tokens, word: &Range<usize>| tokens.ids[word.clone()].to_vec();
        let left: Vec<Vec<u32>> = old_words.iter().map(|word| ids(old.0, word)).collect();
        let right: Vec<Vec<u32>> = new_words.iter().map(|word| ids(new.0, word)).collect();
        let mut alignment = Alignment {
            sources: Vec::new(),
            gone: Vec::new(),
        };
        let (mut old_end, mut new_end) = (0, 0);
        let (old_last, new_last) = (old.0.used, new.0.used);
        // begin and end always stay: that words stand beside them says nothing
        let kept = common(inner(&left), inner(&right))
            .into_iter()
            .map(|(a, b)| (a + 1, b + 1));
        let ends = (left.len().saturating_sub(1), right.len().saturating_sub(1));
        let kept = [(0, 0)].into_iter().chain(kept).chain([ends]);
        let kept = kept.map(|(a, b)| (old_words[a].clone(), new_words[b].clone()));
        for (old_word, new_word) in kept.chain([(old_last..old_last, new_last..new_last)]) {
            alignment.between(old_end..old_word.start, new_end..new_word.start);
            alignment.sources.extend(old_word.clone().map(Source::Kept));
            (old_end, new_end) = (old_word.end, new_word.end);
        }
        alignment
    }

    fn between(&mut self, old: Range<usize>, new: Range<usize>) {
        let (before, among) = (old.len(), new.len());
        self.gone.extend(old.clone());
        self.sources.extend(new.enumerate().map(|(index, _)| match before {
            0 => Source::New,
            _ if before == among => Source::Replaced {
                old: old.start + index..old.start + index + 1,
                among: 1,
            },
            _ => Source::Replaced {
                old: old.clone(),
                among,
            },
        }));
    }

    /// Positions in the new prompt of words that the old one does not have.
    pub fn added(&self) -> Vec<usize> {
        let sources = self.sources.iter().enumerate();
        sources
            .filter(|(_, source)| !matches!(source, Source::Kept(_)))
            .map(|(position, _)| position)
            .collect()
    }
}

/// What stands between begin and end.
fn inner<T>(words: &[T]) -> &[T] {
    words.get(1..words.len().saturating_sub(1)).unwrap_or_default()
}

/// Token ranges of words; begin and end tokens are words of their own.
fn words((tokens, text): (&Tokens, &str)) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for position in 0..tokens.used {
        match words.last_mut() {
            Some(word) if is_one_word(text, tokens.spans[position - 1], tokens.spans[position]) => word.end += 1,
            _ => words.push(position..position + 1),
        }
    }
    words
}

/// Whether two tokens adjoin inside a run of letters and digits.
fn is_one_word(text: &str, (_, end): (usize, usize), (start, last): (usize, usize)) -> bool {
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (Some(before), Some(after)) = (text.get(..start), text.get(start..)) else {
        return false;
    };
    end == start && start < last && inside(before.chars().next_back()) && inside(after.chars().next())
}

/// Pairs of positions of a longest common subsequence; among several the one in fewest pieces, so that of two equal
/// words the one among its neighbours is kept.
fn common<T: PartialEq>(left: &[T], right: &[T]) -> Vec<(usize, usize)> {
    // (pairs, pairs that follow another at once) from each position on, after a pair or after a gap
    let mut best = vec![vec![[(0usize, 0usize); 2]; right.len() + 1]; left.len() + 1];
    let paired = |best: &[Vec<[(usize, usize); 2]>], i: usize, j: usize, after_pair: bool| {
        let (pairs, joints) = best[i + 1][j + 1][1];
        (pairs + 1, joints + usize::from(after_pair))
    };
    for (i, a) in left.iter().enumerate().rev() {
        for (j, b) in right.iter().enumerate().rev() {
            let gap = best[i + 1][j][0].max(best[i][j + 1][0]);
            best[i][j] = [false, true].map(|after_pair| match a == b {
                true => gap.max(paired(&best, i, j, after_pair)),
                false => gap,
            });
        }
    }
    let (mut i, mut j, mut after_pair, mut pairs) = (0, 0, false, Vec::new());
    while i < left.len() && j < right.len() {
        let wanted = best[i][j][usize::from(after_pair)];
        if left[i] == right[j] && wanted == paired(&best, i, j, after_pair) {
            pairs.push((i, j));
            (i, j, after_pair) = (i + 1, j + 1, true);
            continue;
        }
        match wanted == best[i + 1][j][0] {
            true => i += 1,
            false => j += 1,
        }
        after_pair = false;
    }
    pairs
}
