//! Operators that the compiler does not know: their types are the file's, or asked for.

use std::ops::ControlFlow;

use fisec_ir::{Graph, OnnxOp, Op, Operand, Origin, ValueId, ValueType, WeightInfo};
use fisec_onnx::unknown_type;
use fisec_passes::canonical::{Answer, Refusal, Types, canonicalize, canonicalize_with};
use fisec_tensor::{DType, HostTensor};

fn onnx(domain: &str, op_type: &str) -> Op {
    Op::Onnx(OnnxOp {
        domain: domain.into(),
        op_type: op_type.into(),
        opset: 17,
        attributes: Default::default(),
    })
}

fn f32_type(shape: &[usize]) -> ValueType {
    ValueType::full(DType::F32, shape.to_vec())
}

fn input(graph: &mut Graph) -> ValueId {
    graph.add_value(Op::Input("x".into()), vec![], f32_type(&[2, 6]), Origin::default())
}

fn output(graph: &mut Graph, value: impl Into<Operand>) {
    graph.add(Op::Output("y".into()), vec![value.into()], vec![], Origin::default());
}

/// Answers as told, and counts.
struct Told {
    answers: Vec<Answer>,
    asked: usize,
}

impl Types for Told {
    fn of(&mut self, model: &[u8]) -> Result<Vec<Answer>, Refusal> {
        assert!(!model.is_empty());
        self.asked += 1;
        match self.answers.is_empty() {
            true => Err(Refusal {
                reason: "it is not known there either".into(),
                hint: None,
            }),
            false => Ok(self.answers.clone()),
        }
    }
}

fn told(answers: &[(ValueType, Option<HostTensor>)]) -> Told {
    let answers = answers.iter().cloned();
    Told {
        answers: answers
            .map(|(value_type, value)| Answer { value_type, value })
            .collect(),
        asked: 0,
    }
}

fn go_on(_: &str, _: &Graph) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// `Relu(Mystery(x))`, the mystery's type as the file declares it.
fn mystery(declared: ValueType) -> Graph {
    let mut graph = Graph::new("record");
    let x = input(&mut graph);
    let m = graph.add_value(
        onnx("custom", "Mystery"),
        vec![x.into()],
        declared,
        Origin::imported("m"),
    );
    let y = graph.add_value(onnx("", "Relu"), vec![m.into()], unknown_type(), Origin::imported("r"));
    output(&mut graph, y);
    graph
}

fn output_type(graph: &Graph) -> ValueType {
    let (id, _) = graph.outputs()[0];
    graph.operand_type(graph.operands(id)[0]).expect("a value")
}

#[test]
fn what_the_file_declares_comes_first() {
    let mut graph = mystery(f32_type(&[2, 3]));
    let mut types = told(&[(f32_type(&[9, 9]), None)]);
    canonicalize_with(&mut graph, &mut types, &mut go_on).expect("known from the file");
    assert_eq!(output_type(&graph), f32_type(&[2, 3]));
    assert_eq!(types.asked, 0);
}

#[test]
fn what_nothing_declares_is_asked_for() {
    let mut graph = mystery(unknown_type());
    let mut types = told(&[(f32_type(&[2, 12]), None)]);
    canonicalize_with(&mut graph, &mut types, &mut go_on).expect("told");
    assert_eq!(output_type(&graph), f32_type(&[2, 12]));
    assert_eq!(types.asked, 1);
}

#[test]
fn a_refusal_names_the_operator_and_the_reason() {
    let error = canonicalize_with(&mut mystery(unknown_type()), &mut told(&[]), &mut go_on).expect_err("refused");
    for part in [
        "`Mystery` of domain `custom`",
        "f32[2,6]",
        "it is not known there either",
    ] {
        assert!(error.message.contains(part), "{error}");
    }
    assert_eq!(error.node, "m");
    let alone = canonicalize(&mut mystery(unknown_type()), &mut go_on).expect_err("no runtime to ask");
    assert!(alone.message.ends_with("f32[2,6]"), "{alone}");
}

#[test]
fn what_it_computes_of_constants_is_a_shape_like_any_other() {
    let mut graph = Graph::new("record");
    let x = input(&mut graph);
    let weight = |graph: &mut Graph, name: &str, values: Vec<i64>| -> Operand {
        let data = HostTensor::from_i64([values.len()], values).into();
        graph
            .add_weight(WeightInfo {
                name: name.into(),
                data,
            })
            .into()
    };
    let sizes = weight(&mut graph, "sizes", vec![4, 3]);
    let target = graph.add_value(
        onnx("custom", "Turn"),
        vec![sizes],
        unknown_type(),
        Origin::imported("t"),
    );
    let y = graph.add_value(
        onnx("", "Reshape"),
        vec![x.into(), target.into()],
        unknown_type(),
        Origin::imported("r"),
    );
    output(&mut graph, y);
    let value = HostTensor::from_i64([2], vec![3, 4]);
    let mut types = told(&[(ValueType::full(DType::I64, [2]), Some(value))]);
    canonicalize_with(&mut graph, &mut types, &mut go_on).expect("a constant");
    assert_eq!(output_type(&graph), f32_type(&[3, 4]));
}

#[test]
fn what_is_drawn_anew_every_time_is_no_constant() {
    let mut graph = Graph::new("record");
    let noise = graph.add_value(
        onnx("custom", "RandomThing"),
        vec![],
        unknown_type(),
        Origin::imported("n"),
    );
    let x = input(&mut graph);
    let y = graph.add_value(
        onnx("", "Add"),
        vec![x.into(), noise.into()],
        unknown_type(),
        Origin::imported("a"),
    );
    output(&mut graph, y);
    let value = HostTensor::from_f32([2, 6], vec![0.5; 12]);
    canonicalize_with(&mut graph, &mut told(&[(f32_type(&[2, 6]), Some(value))]), &mut go_on).expect("told");
    let is_noise = |op: &Op| matches!(op, Op::Onnx(op) if op.op_type == "RandomThing");
    assert!(graph.ids().into_iter().any(|id| is_noise(graph.op(id))));
}

#[test]
fn sequences_are_refused_as_such() {
    let mut graph = Graph::new("record");
    let x = input(&mut graph);
    let list = graph.add_value(
        onnx("", "SequenceInsert"),
        vec![x.into()],
        unknown_type(),
        Origin::imported("s"),
    );
    output(&mut graph, list);
    let error = canonicalize_with(&mut graph, &mut told(&[]), &mut go_on).expect_err("no tensor");
    assert!(error.message.contains("sequences and optional values"), "{error}");
}
