//! Words: emphasis, alignment, and the tables of attention control.

use fisec_diffusion::words::{Alignment, ControlOptions, Emphasis, Source, Steering, Words};
use fisec_diffusion::{DiffusionError, Tokens};
use fisec_plan::ControlInput;
use proptest::prelude::*;

const LENGTH: usize = 16;

/// Begin, one token per letter run or mark of a text, end, padding; words of two halves give two tokens.
fn tokens(text: &str) -> Tokens {
    let (mut ids, mut spans) = (vec![1], vec![(0, 0)]);
    let mut rest = 0;
    while let Some(start) = text[rest..].find(|c: char| !c.is_whitespace()).map(|at| at + rest) {
        let letters = text[start..]
            .find(|c: char| !c.is_alphanumeric())
            .unwrap_or(text.len() - start);
        let end = start + letters.max(1);
        for (from, to) in halves(start, end) {
            ids.push(
                text[from..to]
                    .bytes()
                    .fold(7, |sum, byte| sum * 31 % 9973 + u32::from(byte)),
            );
            spans.push((from, to));
        }
        rest = end;
    }
    ids.push(2);
    spans.push((0, 0));
    let used = ids.len().min(LENGTH);
    ids.resize(LENGTH, 0);
    spans.resize(LENGTH, (0, 0));
    Tokens {
        ids,
        used,
        spans,
        dropped: None,
    }
}

fn halves(start: usize, end: usize) -> Vec<(usize, usize)> {
    match end - start {
        0..=4 => vec![(start, end)],
        _ => vec![(start, start + 4), (start + 4, end)],
    }
}

fn align(old: &str, new: &str) -> Alignment {
    Alignment::of((&tokens(old), old), (&tokens(new), new))
}

fn weights(prompt: &str) -> Vec<(String, f32)> {
    let emphasis = Emphasis::parse(prompt).unwrap();
    let letters = emphasis.text.char_indices();
    let weighed = letters.map(|(at, letter)| (letter, emphasis.at(at)));
    let mut parts: Vec<(String, f32)> = Vec::new();
    for (letter, weight) in weighed {
        match parts.last_mut() {
            Some((part, last)) if (*last - weight).abs() < 1e-6 => part.push(letter),
            _ => parts.push((letter.to_string(), weight)),
        }
    }
    parts
}

fn part(text: &str, weight: f32) -> (String, f32) {
    (text.to_owned(), weight)
}

#[test]
fn brackets_weigh_words_as_other_tools_do() {
    let close = |prompt: &str, expected: &[(String, f32)]| {
        let found = weights(prompt);
        let same = found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-5);
        assert!(same, "{prompt}: {found:?} instead of {expected:?}");
    };
    close(
        "a (dog) on grass",
        &[part("a ", 1.0), part("dog", 1.1), part(" on grass", 1.0)],
    );
    close("a ((dog))", &[part("a ", 1.0), part("dog", 1.21)]);
    close("a [dog]", &[part("a ", 1.0), part("dog", 1.0 / 1.1)]);
    close("(red:1.4) apple", &[part("red", 1.4), part(" apple", 1.0)]);
    close(
        "(a (red:1.5) apple:2)",
        &[part("a ", 2.0), part("red", 3.0), part(" apple", 2.0)],
    );
    close(
        "(a [red] one: 0.5 )",
        &[part("a ", 0.5), part("red", 0.5 / 1.1), part(" one", 0.5)],
    );
    close(r"a \(real\) dog", &[part("a (real) dog", 1.0)]);
    close(r"(a \) dog:1.2)", &[part("a ) dog", 1.2)]);
    close("time: noon", &[part("time: noon", 1.0)]);
    close("(time: noon)", &[part("time: noon", 1.1)]);
    close("a (dog on grass", &[part("a ", 1.0), part("dog on grass", 1.1)]);
    close("a dog) on [grass", &[part("a dog) on ", 1.0), part("grass", 1.0 / 1.1)]);
    close(r"back\slash\", &[part(r"back\slash\", 1.0)]);
}

#[test]
fn kept_words_are_kept_wherever_they_stand() {
    let alignment = align("a dog on grass", "a huge dog on the grass");
    use Source::{Kept, New};
    // begin a huge dog on the grass(2) end
    let expected = [Kept(0), Kept(1), New, Kept(2), Kept(3), New, Kept(4), Kept(5), Kept(6)];
    assert_eq!(alignment.sources, expected);
    assert_eq!(alignment.gone, Vec::<usize>::new());
    assert_eq!(alignment.added(), [2, 5]);
}

#[test]
fn of_two_equal_words_the_one_among_its_neighbours_is_kept() {
    let alignment = align("a dog in snow", "a dog on top and a dog in snow");
    // begin [a dog on top and] a dog in snow end
    let kept: Vec<usize> = (6..10).collect();
    let positions = alignment.sources.iter().enumerate();
    let found = positions.filter(|(_, source)| matches!(source, Source::Kept(old) if (1..5).contains(old)));
    assert_eq!(found.map(|(position, _)| position).collect::<Vec<_>>(), kept);
    assert_eq!(alignment.added(), [1, 2, 3, 4, 5]);
}

#[test]
fn replaced_words_share_what_they_replace() {
    let alignment = align("a dog on grass", "a giraffe on grass");
    let shared = Source::Replaced { old: 2..3, among: 2 };
    assert_eq!(alignment.sources[2..4], [shared.clone(), shared]);
    assert_eq!(alignment.gone, [2]);
    let alignment = align("a pelican on grass", "a giraffe on grass");
    assert_eq!(alignment.sources[2], Source::Replaced { old: 2..3, among: 1 });
    assert_eq!(alignment.sources[3], Source::Replaced { old: 3..4, among: 1 });
    let alignment = align("a dog on grass under a rainbow", "a dog on grass");
    assert_eq!(alignment.gone, [6, 7, 8, 9, 10]);
}

#[test]
fn a_word_counts_as_a_whole() {
    // both begin with the token `rain`
    let alignment = align("a raincoat", "a rainbow");
    assert_eq!(alignment.gone, [2, 3], "no half of a word is kept");
}

#[test]
fn tables_follow_the_steering() {
    let alignment = align("a dog on grass", "a giraffe on old grass");
    let options = |steering, replace_calls| ControlOptions {
        steering,
        replace_calls,
        emphasis: 1.5,
        ..ControlOptions::default()
    };
    let words = |steering, replace_calls| Words::new(&alignment, &options(steering, replace_calls), 3, LENGTH).unwrap();
    let table = |words: &Words, call: usize, input| words.control[call].table(input).to_f32_vec();
    assert!(words(Steering::None, None).control.is_empty());
    // begin a giraffe(2) on old grass(2) end
    let kept = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0];
    let refine = words(Steering::Refine, None);
    assert_eq!(refine.control.len(), 3);
    assert_eq!(table(&refine, 0, ControlInput::Blend)[..9], kept);
    assert!(
        table(&refine, 0, ControlInput::Blend)[9..]
            .iter()
            .all(|&blend| blend == 0.0),
        "padding is free"
    );
    let weight = table(&refine, 0, ControlInput::Weight);
    assert_eq!(weight[..9], [1.0, 1.0, 1.5, 1.5, 1.0, 1.5, 1.0, 1.0, 1.0]);
    let replace = words(Steering::Replace, Some(1));
    let follows = [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
    assert_eq!(table(&replace, 0, ControlInput::Blend)[..9], follows);
    assert_eq!(table(&replace, 1, ControlInput::Blend)[..9], kept, "only in its window");
    let mapper = table(&replace, 0, ControlInput::Mapper);
    assert_eq!(
        (mapper[2 * LENGTH + 2], mapper[2 * LENGTH + 3]),
        (0.5, 0.5),
        "dog to both halves of giraffe"
    );
    assert_eq!(mapper[3 * LENGTH + 4], 1.0, "`on` moved by one");
}

#[test]
fn words_that_are_left_look_freely_where_others_were_only_taken_away() {
    let calls = |old, new, steering| {
        let options = ControlOptions {
            steering,
            ..ControlOptions::default()
        };
        Words::new(&align(old, new), &options, 3, LENGTH).unwrap().control.len()
    };
    assert_eq!(calls("a dog on grass", "a dog", Steering::Auto), 0);
    assert_eq!(calls("a dog on grass", "a dog", Steering::Replace), 3);
    assert_eq!(calls("a dog", "a dog on grass", Steering::Auto), 3);
    assert_eq!(calls("a dog on grass", "a cat", Steering::Auto), 3);
    assert_eq!(
        calls("a dog", "a dog", Steering::Auto),
        3,
        "the same words with another weight"
    );
}

fn prompt() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a", "dog", "cat", "on", "grass", "rainbow", "raincoat", "red", ",",
    ]);
    prop::collection::vec(word, 0..7).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn text_without_brackets_is_left_alone(prompt in "[^\\\\()\\[\\]]{0,40}") {
        let emphasis = Emphasis::parse(&prompt).unwrap();
        prop_assert!(emphasis.is_plain());
        prop_assert_eq!(emphasis.text, prompt);
    }

    #[test]
    fn escaped_text_is_left_alone(prompt in "[a-z()\\[\\]\\\\ :0-9.]{0,30}") {
        let escaped: String = prompt
            .chars()
            .flat_map(|c| match c {
                '(' | ')' | '[' | ']' | '\\' => vec!['\\', c],
                _ => vec![c],
            })
            .collect();
        let emphasis = Emphasis::parse(&escaped).unwrap();
        prop_assert!(emphasis.is_plain());
        prop_assert_eq!(emphasis.text, prompt);
    }

    #[test]
    fn any_text_can_be_read(prompt in "[a-zé()\\[\\]\\\\ :0-9.]{0,40}") {
        let emphasis = match Emphasis::parse(&prompt) {
            Ok(emphasis) => emphasis,
            Err(error) => {
                prop_assert!(matches!(error, DiffusionError::Weight { .. }), "{}", error);
                return Ok(());
            }
        };
        let letters = |text: &str| text.chars().filter(|c| c.is_alphabetic()).collect::<String>();
        prop_assert_eq!(letters(&emphasis.text), letters(&prompt));
        prop_assert!((0..emphasis.text.len()).all(|at| emphasis.at(at).abs() <= 100.0));
        prop_assert_eq!(emphasis.at(emphasis.text.len()), 1.0);
    }

    #[test]
    fn alignment_accounts_for_every_token(old in prompt(), new in prompt()) {
        let alignment = align(&old, &new);
        let (old_tokens, new_tokens) = (tokens(&old), tokens(&new));
        prop_assert_eq!(alignment.sources.len(), new_tokens.used);
        let kept: Vec<usize> = alignment.sources.iter().filter_map(|source| match source {
            Source::Kept(old) => Some(*old),
            _ => None,
        }).collect();
        prop_assert!(kept.is_sorted_by(|a, b| a < b));
        let mut all = [kept.clone(), alignment.gone.clone()].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..old_tokens.used).collect::<Vec<_>>());
        for (position, source) in alignment.sources.iter().enumerate() {
            match source {
                Source::Kept(old) => prop_assert_eq!(old_tokens.ids[*old], new_tokens.ids[position]),
                Source::Replaced { old, .. } => prop_assert!(old.clone().all(|old| alignment.gone.contains(&old))),
                Source::New => {}
            }
        }
        prop_assert_eq!(align(&old, &old).added(), Vec::<usize>::new());
    }
}

#[test]
fn weights_have_a_range() {
    let nested = format!("{}a dog{}", "(".repeat(400), ")".repeat(400));
    for prompt in [
        "(dog:101)",
        "a (dog:99999999999999999999999999999999999999999) on grass",
        "((dog:60):2)",
        &nested,
    ] {
        let error = Emphasis::parse(prompt).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("dog") && message.contains("-100 to 100"), "{message}");
        assert!(error.hint().is_some());
    }
    assert_eq!(Emphasis::parse("(dog:100)").unwrap().at(0), 100.0);
}
