//! Operators that the compiler does not know: ONNX Runtime, which will run them, says what they give.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fisec_ir::ValueType;
use fisec_passes::canonical::{Answer, Refusal, Types};
use fisec_runtime::RuntimeError;
use fisec_runtime::ort::OnnxRuntime;

/// All questions about a model together take at most about this long.
const LONGEST: Duration = Duration::from_secs(60);

/// Asks ONNX Runtime, which is loaded for the first question. Equal questions are asked once.
#[derive(Default)]
pub struct AskOnnxRuntime {
    answers: HashMap<Vec<u8>, Result<Vec<Answer>, Refusal>>,
    spent: Duration,
}

impl Types for AskOnnxRuntime {
    fn of(&mut self, model: &[u8]) -> Result<Vec<Answer>, Refusal> {
        if let Some(known) = self.answers.get(model) {
            return known.clone();
        }
        if self.spent > LONGEST {
            return Err(Refusal {
                reason: format!("asking ONNX Runtime about the model has taken more than {} s", LONGEST.as_secs()),
                hint: Some("write shapes into the model, e.g. with onnx.shape_inference or ONNX Runtime's symbolic_shape_infer".into()),
            });
        }
        let start = Instant::now();
        let answer = probe(model).map_err(|error| Refusal {
            hint: error.hint().map(str::to_owned).or_else(|| hint_of(&error)),
            reason: error.to_string(),
        });
        self.spent += start.elapsed();
        self.answers.insert(model.to_owned(), answer.clone());
        answer
    }
}

fn probe(model: &[u8]) -> Result<Vec<Answer>, RuntimeError> {
    let probed = OnnxRuntime::load()?.probe(model)?;
    let answers = probed.into_iter().map(|output| Answer {
        value_type: ValueType::full(output.dtype, output.shape),
        value: output.value,
    });
    Ok(answers.collect())
}

fn hint_of(error: &RuntimeError) -> Option<String> {
    match error {
        RuntimeError::Probe(reason) if reason.contains("depends on the values") => None,
        _ => Some(
            "export the model without that operator; what ONNX Runtime does not run, fisec does not run either".into(),
        ),
    }
}
