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
    /// Words are aligned as Needleman and Wunsch do, with 1 for equal words, 0 for a gap, and never unequal ones beside
    /// each other: a word counts as a whole, however many tokens it has. What lies between kept words in both prompts is
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
        let kept = common(&left, &right);
        let kept = kept
            .into_iter()
            .map(|(a, b)| (old_words[a].clone(), new_words[b].clone()));
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

/// Pairs of positions of a longest common subsequence, the first one found from the start.
fn common<T: PartialEq>(left: &[T], right: &[T]) -> Vec<(usize, usize)> {
    let mut lengths = vec![vec![0usize; right.len() + 1]; left.len() + 1];
    for (i, a) in left.iter().enumerate().rev() {
        for (j, b) in right.iter().enumerate().rev() {
            lengths[i][j] = match a == b {
                true => lengths[i + 1][j + 1] + 1,
                false => lengths[i + 1][j].max(lengths[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < left.len() && j < right.len() {
        if left[i] == right[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[i + 1][j] >= lengths[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}
