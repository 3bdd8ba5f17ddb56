//! From aligned words to the tables of attention control (Hertz et al. 2022, Prompt-to-Prompt).

use fisec_runtime::{Control, RuntimeError};

use super::{Alignment, Source};

/// Which recorded maps a guided step follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steering {
    /// none: words look where they will
    None,
    /// words that both prompts have look where they looked
    Refine,
    /// and replaced words look where those looked that they replace, so that the new thing has the old one's place and
    /// outline: regions found under it fit best
    Replace,
    /// as `Replace`, and none where words were only taken away: what is left has to take their place, so it must be free
    /// to look there
    #[default]
    Auto,
}

impl Steering {
    /// What is followed between these prompts.
    fn of(self, alignment: &Alignment) -> Self {
        match self {
            Steering::Auto if alignment.added().is_empty() && !alignment.gone.is_empty() => Steering::None,
            Steering::Auto => Steering::Replace,
            chosen => chosen,
        }
    }
}

/// How control is applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlOptions {
    /// what is followed
    pub steering: Steering,
    /// calls under control, at most those that are guided and have recorded maps; all of them when absent
    pub calls: Option<usize>,
    /// calls in which replaced words follow those that they replace; as `calls` when absent
    pub replace_calls: Option<usize>,
    /// factor on the attention that new and replaced words get
    pub emphasis: f32,
}

impl Default for ControlOptions {
    fn default() -> Self {
        ControlOptions {
            steering: Steering::default(),
            calls: None,
            replace_calls: None,
            emphasis: 1.0,
        }
    }
}

/// What an edit knows of the words: the tables of each call under control, and the tokens that changed.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// one per call under control, from the first on
    pub control: Vec<Control>,
    /// positions of new and replaced tokens in the new prompt
    pub added: Vec<usize>,
    /// positions of removed and replaced tokens in the old prompt
    pub gone: Vec<usize>,
}

impl Words {
    /// Tables for at most `calls` calls and prompts of `tokens` tokens, padding included. Padding keeps its own
    /// attention: that of the old prompt is not recorded.
    pub fn new(
        alignment: &Alignment,
        options: &ControlOptions,
        calls: usize,
        tokens: usize,
    ) -> Result<Self, RuntimeError> {
        let steering = options.steering.of(alignment);
        let calls = match steering {
            Steering::None => 0,
            _ => options.calls.map_or(calls, |most| most.min(calls)),
        };
        let replaced = match steering {
            Steering::Replace => options.replace_calls.unwrap_or(calls),
            _ => 0,
        };
        let table = |call: usize| tables(alignment, call < replaced, options.emphasis, tokens);
        Ok(Words {
            control: (0..calls).map(table).collect::<Result<_, _>>()?,
            added: alignment.added(),
            gone: alignment.gone.clone(),
        })
    }
}

fn tables(alignment: &Alignment, follows: bool, emphasis: f32, tokens: usize) -> Result<Control, RuntimeError> {
    let (mut mapper, mut blend, mut weight) = (vec![0.0; tokens * tokens], vec![0.0; tokens], vec![1.0; tokens]);
    for (new, source) in alignment.sources.iter().enumerate() {
        let (old, share) = match source {
            Source::Kept(old) => (*old..*old + 1, 1.0),
            Source::Replaced { old, among } => (old.clone(), 1.0 / *among as f32),
            Source::New => (0..0, 0.0),
        };
        old.for_each(|old| mapper[old * tokens + new] = share);
        blend[new] = match source {
            Source::Kept(_) => 1.0,
            Source::Replaced { .. } if follows => 1.0,
            _ => 0.0,
        };
        if !matches!(source, Source::Kept(_)) {
            weight[new] = emphasis;
        }
    }
    Control::new(mapper, blend, weight)
}
