//! Every ONNX operator that the oracle knows, against ONNX Runtime or the reference evaluator of the `onnx` package
//! (`tools/references/onnx_ops.py`).

mod common;

use fisec_oracle::{Tensor, difference};
use flate2::read::GzDecoder;
use serde_json::Value;

use common::{graph, try_run};

fn cases() -> Vec<Value> {
    serde_json::from_reader(GzDecoder::new(&include_bytes!("data/onnx_ops.json.gz")[..])).unwrap()
}

fn tensor(value: &Value) -> Option<Tensor> {
    let shape: Vec<usize> = value
        .get("shape")?
        .as_array()?
        .iter()
        .map(|dim| dim.as_u64().unwrap() as usize)
        .collect();
    let data = value["data"]
        .as_array()?
        .iter()
        .map(|element| element.as_f64().unwrap())
        .collect();
    Some(Tensor::typed(value["dtype"].as_str()?.parse().unwrap(), shape, data))
}

/// The case as a graph of one node, with the inputs that it takes.
fn source(case: &Value, inputs: &[Option<Tensor>], outputs: usize) -> String {
    let mut lines = vec!["graph case".to_owned()];
    let mut operands = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        match input {
            Some(x) => {
                lines.push(format!("%i{number} = input \"i{number}\" : {}[{}]", x.dtype, x.shape));
                operands.push(format!("%i{number}, "));
            }
            None => operands.push("_, ".to_owned()),
        }
    }
    let names: Vec<String> = (0..outputs).map(|output| format!("%o{output}")).collect();
    lines.push(format!(
        "{} = onnx {} {}opset={} domain={} {{{}}} : {}",
        names.join(", "),
        case["op"].as_str().unwrap(),
        operands.concat(),
        case["opset"],
        case["domain"],
        case["attributes"].as_str().unwrap(),
        vec!["f32[]"; outputs].join(", ")
    ));
    lines.extend((0..outputs).map(|output| format!("output %o{output}, \"o{output}\"")));
    lines.join("\n")
}

#[test]
fn operators_agree_with_their_references() {
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let inputs: Vec<Option<Tensor>> = case["inputs"].as_array().unwrap().iter().map(tensor).collect();
        let expected: Vec<Option<Tensor>> = case["outputs"].as_array().unwrap().iter().map(tensor).collect();
        let source = source(case, &inputs, expected.len());
        let names: Vec<String> = (0..inputs.len()).map(|number| format!("i{number}")).collect();
        let given: Vec<(&str, &Tensor)> = names
            .iter()
            .map(String::as_str)
            .zip(&inputs)
            .filter_map(|(name, x)| Some((name, x.as_ref()?)))
            .collect();
        let run = match try_run(&graph(&source), &given, &[], &[]) {
            Ok(run) => run,
            Err(error) => {
                wrong.push(format!("{error}\n{source}"));
                continue;
            }
        };
        for (output, expected) in expected.iter().enumerate() {
            let Some(expected) = expected else { continue };
            let found = &run.outputs[&format!("o{output}")];
            // the references are computed in f32
            match difference(found, expected) {
                Ok(apart) if apart.relative < 2e-6 && found.dtype == expected.dtype => {}
                other => wrong.push(format!(
                    "output {output}, {} for {}: {other:?}\n{source}",
                    found.dtype, expected.dtype
                )),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n\n")
    );
    assert!(cases.len() > 100);
}

/// Every operand of every case in turn replaced by something that does not fit: an error or a result, never a panic.
#[test]
fn odd_operands_do_not_panic() {
    let cases = cases();
    let odd = [
        vec![],
        vec![0],
        vec![1],
        vec![7],
        vec![2, 0, 3],
        vec![1, 1],
        vec![2, 3, 4, 5],
        vec![1, 2, 1, 2, 1],
    ];
    let numbers = [0.0, -1.0, 3.0, 1e18, f64::NAN];
    let mut failed = 0;
    let mut panicked = Vec::new();
    for case in &cases {
        let inputs: Vec<Option<Tensor>> = case["inputs"].as_array().unwrap().iter().map(tensor).collect();
        let outputs = case["outputs"].as_array().unwrap().len();
        for position in 0..inputs.len() {
            let replacements = odd
                .iter()
                .flat_map(|shape| numbers.iter().map(move |&number| (shape, number)));
            let replacements = replacements.map(|(shape, number)| {
                let dtype = inputs[position].as_ref().map_or(fisec_tensor::DType::F32, |x| x.dtype);
                Some(Tensor::typed(
                    dtype,
                    shape.clone(),
                    vec![number; shape.iter().product()],
                ))
            });
            for replacement in replacements.chain([None]) {
                let mut changed = inputs.clone();
                changed[position] = replacement;
                let source = source(case, &changed, outputs);
                let names: Vec<String> = (0..changed.len()).map(|number| format!("i{number}")).collect();
                let given = names.iter().map(String::as_str).zip(&changed);
                let given: Vec<(&str, &Tensor)> = given.filter_map(|(name, x)| Some((name, x.as_ref()?))).collect();
                let graph = graph(&source);
                let run = || try_run(&graph, &given, &[], &[]).is_err();
                match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                    Ok(refused) => failed += usize::from(refused),
                    Err(_) => panicked.push(source),
                }
            }
        }
    }
    assert!(
        panicked.is_empty(),
        "{} of them, first\n{}",
        panicked.len(),
        panicked[0]
    );
    assert!(failed > 1000, "most of it cannot be: {failed}");
}

#[test]
fn what_cannot_be_is_an_error() {
    let x = Tensor::new([2, 3], vec![1.0; 6]);
    for (line, message) in [
        ("onnx Fly %x, opset=17", "the oracle does not know `Fly` of domain ``"),
        (
            "onnx Reshape %x, %x, opset=17",
            "[2,3] does not reshape to [1,1,1,1,1,1]",
        ),
        ("onnx Transpose %x, opset=17 {perm=[0, 0]}", "axis 0 is named twice"),
        ("onnx Softmax %x, opset=17 {axis=2}", "axis 2 of 2"),
        ("onnx MatMul %x, %x, opset=17", "[2,3] times [2,3]"),
        ("onnx Conv %x, %x, opset=17", "a convolution of [2,3] with [2,3]"),
        ("onnx Gather %x, _, opset=17", "operand 1 is missing"),
        ("onnx Cast %x, opset=17 {to=99}", "element type 99"),
        (
            "onnx Split %x, opset=17 {axis=1 split=[2, 2]}",
            "parts of [2, 2] do not make 3",
        ),
        ("onnx ConstantOfShape %x, opset=17", "the result"),
    ] {
        let shown = line.replace(" %x,", " %0,");
        let source = format!("graph g\n%x = input \"x\" : f32[2,3]\n%y = {line} : f32[]\noutput %y, \"y\"\n");
        match try_run(&graph(&source), &[("x", &x)], &[], &[]) {
            Err(error) => assert!(error.to_string().contains(message), "{shown}: {error}"),
            Ok(_) => assert_eq!(message, "the result", "{shown}"),
        }
    }
}
