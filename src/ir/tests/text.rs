//! Print and parse are inverse, and wrong text is refused in place.

use fisec_ir::text::{parse, print};
use fisec_ir::*;
use fisec_tensor::{Constant, DType, HostTensor};
use proptest::prelude::*;

/// Choices drawn from random numbers; when they run out, the first choice.
struct Draw {
    numbers: Vec<u32>,
    at: usize,
}

impl Draw {
    fn number(&mut self, below: usize) -> usize {
        let number = self.numbers.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        number as usize % below
    }

    fn flag(&mut self) -> bool {
        self.number(2) == 1
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.number(from.len())].clone()
    }

    fn name(&mut self) -> String {
        let names = [
            "x",
            "",
            "a b",
            "q\"uote",
            "back\\slash",
            "line\nbreak",
            "päth/ü∂",
            "_",
            "conv",
            "graph",
            "1x1",
        ];
        self.pick(&names).to_owned()
    }

    fn real(&mut self) -> f64 {
        self.pick(&[
            0.0,
            -0.0,
            1.0,
            1e-5,
            1e-6,
            0.1,
            -3.4e38,
            1e300,
            f64::INFINITY,
            16777217.0,
            0.35355339059327373,
        ])
    }

    fn dtype(&mut self) -> DType {
        self.pick(&DType::ALL)
    }

    fn shape(&mut self) -> Vec<usize> {
        (0..self.number(5)).map(|_| self.number(4)).collect()
    }

    fn value_type(&mut self) -> ValueType {
        let extent = match self.number(3) {
            0 => self.pick(&[
                Extent::Active(LevelId(1)),
                Extent::Around(LevelId(2)),
                Extent::Active(LevelId(0)),
            ]),
            _ => Extent::Full,
        };
        ValueType::full(self.dtype(), self.shape()).with_extent(extent)
    }

    fn origin(&mut self) -> Origin {
        let names = (0..self.number(3)).map(|_| self.name()).collect();
        Origin {
            names,
            pass: self.name(),
            reason: self.name(),
        }
    }

    fn activation(&mut self) -> Activation {
        self.pick(&[
            Activation::None,
            Activation::Silu,
            Activation::Gelu,
            Activation::QuickGelu,
        ])
    }

    fn tensor(&mut self) -> HostTensor {
        let (dtype, shape) = (self.dtype(), self.shape());
        let count = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|_| self.real()).collect();
        HostTensor::from_f64(dtype, shape, &values).unwrap()
    }

    fn attribute(&mut self) -> Attribute {
        let count = self.number(3);
        match self.number(7) {
            0 => Attribute::Int(self.pick(&[0, -1, i64::MAX, i64::MIN])),
            1 => Attribute::Float(self.real() as f32),
            2 => Attribute::String(self.name()),
            3 => Attribute::Ints((0..count).map(|_| self.number(9) as i64 - 4).collect()),
            4 => Attribute::Floats((0..count).map(|_| self.real() as f32).collect()),
            5 => Attribute::Strings((0..count).map(|_| self.name()).collect()),
            _ => Attribute::Tensor(self.tensor()),
        }
    }

    fn op(&mut self) -> Op {
        let groups = self.number(40);
        let [height, width] = [self.number(100), self.number(100)];
        let slot = SlotId(self.number(5) as u32);
        match self.number(27) {
            0 => Op::Input(self.name()),
            1 | 2 => Op::Onnx(OnnxOp {
                domain: self.pick(&["", "com.microsoft", "a \"b\""]).to_owned(),
                op_type: self.pick(&["Conv", "Odd Type", "_", "x::y"]).to_owned(),
                opset: self.number(24) as i64,
                attributes: (0..self.number(4)).map(|_| (self.name(), self.attribute())).collect(),
            }),
            3 => Op::Conv(Conv {
                kernel: [self.number(4), self.number(4)],
                stride: [self.number(3), self.number(3)],
                padding: Padding {
                    top: self.number(2),
                    left: self.number(2),
                    bottom: self.number(2),
                    right: self.number(2),
                },
                upsample: self.flag().then_some([height, width]),
                concat: self.flag(),
                bias: self.flag(),
                affine: self.flag(),
                activation: self.activation(),
                vector: self.flag(),
                residual: self.flag(),
            }),
            4 => Op::GroupNorm(GroupNorm {
                groups,
                epsilon: self.real(),
                activation: self.activation(),
            }),
            5 => Op::GroupNormStats { groups },
            6 => Op::GroupNormStatsUpdate { groups },
            7 => Op::NormCoefficients {
                groups,
                epsilon: self.real(),
            },
            8 => Op::Affine {
                activation: self.activation(),
            },
            9 => Op::Upsample { height, width },
            10 => Op::Tokens,
            11 => Op::Spatial { height, width },
            12 => Op::LayerNorm { epsilon: self.real() },
            13 => Op::Linear(Linear {
                bias: self.flag(),
                layer_norm: self.flag().then(|| self.real()),
                geglu: self.flag(),
                residual: self.flag(),
            }),
            14 => Op::Attention {
                heads: groups,
                scale: self.real(),
                control: self.flag().then_some(Control),
            },
            15 => Op::AttentionMaps {
                heads: groups,
                scale: self.real(),
            },
            16 => Op::Geglu,
            17 => Op::Activate(self.activation()),
            18 => Op::Add,
            19 => Op::AddVector,
            20 => Op::Concat(Concat { axis: self.number(4) }),
            21 => Op::TimestepEmbedding(TimestepEmbedding {
                rows: self.number(4),
                width,
                flip_sin_to_cos: self.flag(),
                shift: self.real(),
                max_period: self.real(),
            }),
            22 => self.pick(&[Op::CacheRead(slot), Op::CacheWrite(slot)]),
            23 => Op::Gather,
            24 => Op::Scatter(self.pick(&[Demand::Full, Demand::Halo(groups)])),
            25 => Op::Repeat { images: groups },
            _ => Op::Output(self.name()),
        }
    }

    fn graph(&mut self, nodes: usize) -> Graph {
        let mut graph = Graph::new(self.name());
        for _ in 0..self.number(4) {
            let level = self.flag().then(|| LevelId(self.number(3) as u32));
            graph.add_slot(SlotInfo {
                name: self.name(),
                value_type: self.value_type(),
                level,
            });
        }
        for index in 0..self.number(6) {
            let data = match self.number(3) {
                0 => Constant::filled(self.dtype(), self.shape(), self.real()),
                1 => HostTensor::from_f32([20], vec![0.5; 20]).into(),
                _ => self.tensor().into(),
            };
            graph.add_weight(WeightInfo {
                name: format!("{}{index}", self.name()),
                data,
            });
        }
        let mut values: Vec<ValueId> = Vec::new();
        for _ in 0..nodes {
            let operands = (0..self.number(5)).map(|_| self.operand(&graph, &values)).collect();
            let outputs: Vec<ValueType> = (0..self.number(3)).map(|_| self.value_type()).collect();
            let count = outputs.len() as u32;
            let op = self.op();
            let node = graph.add(op, operands, outputs, self.origin());
            values.extend((0..count).map(|output| ValueId { node, output }));
        }
        graph
    }

    fn operand(&mut self, graph: &Graph, values: &[ValueId]) -> Operand {
        match self.number(4) {
            0 => Operand::Absent,
            1 if !graph.weights().is_empty() => WeightId(self.number(graph.weights().len()) as u32).into(),
            _ if !values.is_empty() => self.pick(values).into(),
            _ => Operand::Absent,
        }
    }
}

/// Everything that the text carries, node by node in order.
fn contents(graph: &Graph) -> Vec<(Op, Vec<ValueType>, Origin, Vec<String>)> {
    let printer = fisec_ir::text::Printer::new(graph);
    let node = |&id: &NodeId| {
        let node = graph.node(id);
        let operands = node
            .operands()
            .iter()
            .map(|&operand| printer.operand(operand))
            .collect();
        (
            node.op().clone(),
            node.outputs().to_vec(),
            node.origin().clone(),
            operands,
        )
    };
    printer.order().iter().map(node).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn parsing_a_print_gives_the_same_graph(numbers in prop::collection::vec(any::<u32>(), 0..600), nodes in 0usize..24) {
        let graph = Draw { numbers, at: 0 }.graph(nodes);
        let text = print(&graph);
        let parsed = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(print(&parsed), text);
        prop_assert_eq!(contents(&parsed), contents(&graph));
        prop_assert_eq!(parsed.slots(), graph.slots());
        prop_assert_eq!(parsed.name(), graph.name());
        for (a, b) in parsed.weights().iter().zip(graph.weights()) {
            prop_assert_eq!(&a.name, &b.name);
            if b.data.fill_value().is_some() || b.data.shape().elements() <= text::INLINE_ELEMENTS {
                prop_assert_eq!(a.data.materialize(), b.data.materialize());
            }
        }
    }

    #[test]
    fn damaged_text_is_refused_without_panic(numbers in prop::collection::vec(any::<u32>(), 0..200), cut in any::<u32>(), letter in any::<char>()) {
        let graph = Draw { numbers, at: 0 }.graph(6);
        let mut letters: Vec<char> = print(&graph).chars().collect();
        let at = cut as usize % letters.len();
        letters[at] = letter;
        let damaged: String = letters.iter().collect();
        if let Ok(graph) = parse(&damaged) {
            prop_assert!(parse(&print(&graph)).is_ok());
        }
        let truncated: String = letters[..at].iter().collect();
        let _ = parse(&truncated);
    }
}

const SMALL: &str = r#"graph edit

slots {
  s0 "down.0/conv1" : f16[2,8,4,4] level 0
}

weights {
  @conv.w : f16[8,4,3,3]
  @"onnx::Add_5" : f16[8] = fill(0.25)
}

%0 = input "sample" : f16[2,4,4,4]
%1 = conv %0, @conv.w, @"onnx::Add_5", kernel=3x3 stride=1 pad=1 bias : f16[2,8,4,4]@a0 ; names "/conv1/Conv", pass "mark_sparse", reason "5 % active"
%2 = cache.read s0 : f16[2,8,4,4] ; pass "mark_sparse"
%3 = scatter %1, %2, halo=1 : f16[2,8,4,4]
output %3, "out_sample"
"#;

#[test]
fn a_printed_text_is_a_fixed_point() {
    assert_eq!(print(&parse(SMALL).unwrap()), SMALL);
}

#[test]
fn weights_without_data_are_nan() {
    let graph = parse(SMALL).unwrap();
    let weight = graph.weight(graph.weight_named("conv.w").unwrap());
    assert!(weight.data.fill_value().unwrap().is_nan());
}

#[test]
fn random_weights_depend_on_the_seed_alone() {
    let values = |rule: &str| {
        let source = format!("graph g\nweights {{\n@w : f32[4,5] = random({rule})\n}}\n");
        parse(&source).unwrap().weights()[0].data.materialize().to_f32_vec()
    };
    assert_eq!(values("7, 0.5"), values("7, 0.5"));
    assert_ne!(values("7, 0.5"), values("8, 0.5"));
    assert!(values("7, 0.5").iter().all(|value| value.abs() <= 0.5));
    assert!(values("7, 0.5").iter().any(|value| value.abs() > 0.1));
}

#[test]
fn errors_name_line_column_and_cause() {
    let cases = [
        (
            "graph g\n%0 = add %1, %1 : f32[]\n",
            2,
            10,
            "value `%1` is not defined above",
        ),
        ("graph g\n%0 = fly : f32[]\n", 2, 6, "`fly`: unknown operator `fly`"),
        (
            "graph g\n%0 = geglu _, halve : f32[]\n",
            2,
            6,
            "`geglu`: unknown attribute `halve`",
        ),
        (
            "graph g\n%0 = input \"x\" : f31[]\n",
            2,
            18,
            "unknown element type `f31`",
        ),
        (
            "graph g\n%0 = input \"x\" : f32[-1]\n",
            2,
            21,
            "`-1` is not a number that fits here",
        ),
        (
            "graph g\n%0 = input \"x : f32[]\n",
            2,
            12,
            "a string without its closing quote",
        ),
        (
            "graph g\nweights {\n@w : f32[2] = [1.0]\n}\n",
            3,
            15,
            "f32[2] has 2 elements, 1 are given",
        ),
        ("graph g\nweights {\n@w : i8[1] = [200]\n}\n", 3, 14, "200 is not a i8"),
        (
            "graph g\nweights {\n@w : f32[65536,65536] = random(1, 1)\n}\n",
            3,
            25,
            "too many random elements",
        ),
        (
            "graph g\n%0 = input \"x\" : f32[]\n%0 = input \"y\" : f32[]\n",
            3,
            1,
            "value `%0` is defined twice",
        ),
        (
            "graph g\n%0, %1 = geglu _ : f32[]\n",
            2,
            18,
            "2 values are defined with 1 types",
        ),
        ("chart g\n", 1, 1, "expected `graph`, found `chart`"),
    ];
    for (source, line, column, message) in cases {
        let error = parse(source).unwrap_err();
        assert_eq!(
            (error.line, error.column, error.message.as_str()),
            (line, column, message),
            "{source}"
        );
        assert_eq!(error.text, source.lines().nth(line - 1).unwrap());
    }
    let shown = parse("graph g\n%0 = fly : f32[]\n").unwrap_err().to_string();
    assert_eq!(
        shown,
        "2:6: `fly`: unknown operator `fly`\n  | %0 = fly : f32[]\n  |      ^"
    );
}
