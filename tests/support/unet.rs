//! Random small U-Nets of the Stable Diffusion family, in semantic operators.

use fisec_ir::{
    Activation, Concat, Conv, Graph, GroupNorm, Linear, Op, Operand, Origin, TimestepEmbedding, ValueId, ValueType,
    WeightId, WeightInfo,
};
use fisec_plan::Samples;
use fisec_tensor::{DType, HostTensor};

/// What a random U-Net looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// rows and columns of the latent
    pub size: [usize; 2],
    /// channels per level, finest first; multiples of `groups` and of `head`
    pub channels: Vec<usize>,
    /// channel groups of group norms
    pub groups: usize,
    /// channels per attention head
    pub head: usize,
    /// residual blocks per level
    pub depth: usize,
    /// text tokens and width
    pub context: [usize; 2],
    /// seed of the weights
    pub seed: u64,
    /// largest relative error that every weight is given
    pub error: f32,
    /// latents of a step
    pub samples: Samples,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            size: [12, 12],
            channels: vec![8, 16, 16],
            groups: 4,
            head: 8,
            depth: 1,
            context: [5, 12],
            seed: 0,
            error: 0.0,
            samples: Samples::Shared,
        }
    }
}

/// Images of a step: guidance needs two.
pub const BATCH: usize = 2;

/// Width of the timestep embedding before its two linears.
const TIME: usize = 16;

/// A stream of pseudo-random numbers (SplitMix64), so that every weight has its own value.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1 to 1.
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// A tensor of values uniform in `centre ± spread`.
    pub fn tensor(&mut self, shape: &[usize], centre: f32, spread: f32) -> HostTensor {
        let values = (0..shape.iter().product())
            .map(|_| centre + spread * self.signed())
            .collect();
        HostTensor::from_f32(shape.to_vec(), values)
    }
}

/// The same values, each off by its own share of at most `error`.
pub fn disturbed(tensor: &HostTensor, error: f32, random: &mut Random) -> HostTensor {
    let values = tensor.to_f32_vec().into_iter();
    let values = values.map(|value| value * (1.0 + error * random.signed()));
    HostTensor::from_f32(tensor.shape().clone(), values.collect())
}

/// Builds the U-Net. Inputs `sample`, `timestep`, `context`; output `prediction`.
pub fn random_unet(shape: &Shape) -> Graph {
    let mut builder = Builder {
        graph: Graph::new("unet"),
        random: Random(shape.seed),
        errors: Random(!shape.seed),
        count: 0,
        shape: shape.clone(),
    };
    builder.unet();
    builder.graph
}

struct Builder {
    graph: Graph,
    random: Random,
    errors: Random,
    count: usize,
    shape: Shape,
}

impl Builder {
    fn unet(&mut self) {
        let Shape {
            size: [height, width],
            channels,
            context: [tokens, text],
            depth,
            ..
        } = self.shape.clone();
        let sample = self.input("sample", &[BATCH, 4, height, width]);
        let timestep = self.input("timestep", &[BATCH]);
        let context = self.input("context", &[BATCH, tokens, text]);
        let time = self.time(timestep);
        let mut x = self.conv(sample, channels[0], 3, 1, None);
        let mut skips = vec![x];
        for (level, &width) in channels.iter().enumerate() {
            for _ in 0..depth {
                x = self.resnet(x, time, width);
                x = if level + 1 < channels.len() {
                    self.transformer(x, context)
                } else {
                    x
                };
                skips.push(x);
            }
            if level + 1 < channels.len() {
                x = self.conv(x, width, 3, 2, None);
                skips.push(x);
            }
        }
        x = self.resnet(x, time, *channels.last().expect("a level"));
        x = self.transformer(x, context);
        for (level, &width) in channels.iter().enumerate().rev() {
            for _ in 0..=depth {
                let skip = skips.pop().expect("one skip per block");
                x = self.concat(x, skip);
                x = self.resnet(x, time, width);
                x = if level + 1 < channels.len() {
                    self.transformer(x, context)
                } else {
                    x
                };
            }
            if level > 0 {
                let rows = height.div_ceil(1 << (level - 1));
                let columns = self.shape.size[1].div_ceil(1 << (level - 1));
                x = self.conv(x, width, 3, 1, Some([rows, columns]));
            }
        }
        let x = self.group_norm(x, Activation::Silu, 1e-5);
        let x = self.conv(x, 4, 3, 1, None);
        let origin = self.origin("output");
        self.graph
            .add(Op::Output("prediction".into()), vec![x.into()], vec![], origin);
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.graph
            .add_value(Op::Input(name.into()), vec![], f32_type(shape), Origin::imported(name))
    }

    fn origin(&mut self, kind: &str) -> Origin {
        self.count += 1;
        Origin::imported(format!("{kind}.{}", self.count))
    }

    fn weight(&mut self, shape: &[usize], centre: f32, spread: f32) -> WeightId {
        let data = self.random.tensor(shape, centre, spread);
        let data = disturbed(&data, self.shape.error, &mut self.errors).into();
        self.count += 1;
        let name = format!("w{}", self.count);
        self.graph.add_weight(WeightInfo { name, data })
    }

    fn op(&mut self, op: Op, operands: Vec<Operand>, shape: &[usize]) -> ValueId {
        let origin = self.origin(op.name());
        self.graph.add_value(op, operands, f32_type(shape), origin)
    }

    fn dims(&self, value: ValueId) -> Vec<usize> {
        self.graph.value_type(value).shape.to_vec()
    }

    fn time(&mut self, timestep: ValueId) -> ValueId {
        let embedding = TimestepEmbedding {
            rows: BATCH,
            width: TIME,
            flip_sin_to_cos: true,
            shift: 0.0,
            max_period: 10_000.0,
        };
        let x = self.op(Op::TimestepEmbedding(embedding), vec![timestep.into()], &[BATCH, TIME]);
        let x = self.linear(x, 2 * TIME, true);
        let x = self.op(Op::Activate(Activation::Silu), vec![x.into()], &[BATCH, 2 * TIME]);
        let x = self.linear(x, 2 * TIME, true);
        self.op(Op::Activate(Activation::Silu), vec![x.into()], &[BATCH, 2 * TIME])
    }

    fn linear(&mut self, x: ValueId, columns: usize, bias: bool) -> ValueId {
        let mut shape = self.dims(x);
        let depth = shape.pop().expect("rows");
        shape.push(columns);
        let weight = self.weight(&[depth, columns], 0.0, (3.0 / depth as f32).sqrt());
        let mut operands = vec![x.into(), weight.into()];
        if bias {
            operands.push(self.weight(&[columns], 0.0, 0.1).into());
        }
        self.op(Op::Linear(Linear::plain(bias)), operands, &shape)
    }

    fn conv(&mut self, x: ValueId, channels: usize, kernel: usize, stride: usize, up: Option<[usize; 2]>) -> ValueId {
        let [batch, depth, height, width] = self.dims(x)[..] else {
            unreachable!("a map")
        };
        let (x, height, width) = match up {
            Some([rows, columns]) => {
                let up = Op::Upsample {
                    height: rows,
                    width: columns,
                };
                (
                    self.op(up, vec![x.into()], &[batch, depth, rows, columns]),
                    rows,
                    columns,
                )
            }
            None => (x, height, width),
        };
        let conv = Conv::same(kernel, stride);
        let [rows, columns] = conv.output_size(height, width).expect("a map larger than the kernel");
        let spread = (3.0 / (depth * kernel * kernel) as f32).sqrt();
        let weight = self.weight(&[channels, depth, kernel, kernel], 0.0, spread);
        let bias = self.weight(&[channels], 0.0, 0.1);
        self.op(
            Op::Conv(conv),
            vec![x.into(), weight.into(), bias.into()],
            &[batch, channels, rows, columns],
        )
    }

    fn group_norm(&mut self, x: ValueId, activation: Activation, epsilon: f64) -> ValueId {
        let shape = self.dims(x);
        let (gamma, beta) = (self.weight(&[shape[1]], 1.0, 0.3), self.weight(&[shape[1]], 0.0, 0.2));
        let op = Op::GroupNorm(GroupNorm {
            groups: self.shape.groups,
            epsilon,
            activation,
        });
        self.op(op, vec![x.into(), gamma.into(), beta.into()], &shape)
    }

    fn layer_norm(&mut self, x: ValueId) -> ValueId {
        let shape = self.dims(x);
        let channels = *shape.last().expect("tokens");
        let (gamma, beta) = (self.weight(&[channels], 1.0, 0.3), self.weight(&[channels], 0.0, 0.2));
        self.op(
            Op::LayerNorm { epsilon: 1e-5 },
            vec![x.into(), gamma.into(), beta.into()],
            &shape,
        )
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let shape = self.dims(a);
        self.op(Op::Add, vec![a.into(), b.into()], &shape)
    }

    fn concat(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let (mut shape, other) = (self.dims(a), self.dims(b));
        shape[1] += other[1];
        self.op(Op::Concat(Concat { axis: 1 }), vec![a.into(), b.into()], &shape)
    }

    fn resnet(&mut self, x: ValueId, time: ValueId, channels: usize) -> ValueId {
        let shortcut = if self.dims(x)[1] == channels {
            x
        } else {
            self.conv(x, channels, 1, 1, None)
        };
        let h = self.group_norm(x, Activation::Silu, 1e-5);
        let h = self.conv(h, channels, 3, 1, None);
        let vector = self.linear(time, channels, true);
        let shape = self.dims(h);
        let h = self.op(Op::AddVector, vec![h.into(), vector.into()], &shape);
        let h = self.group_norm(h, Activation::Silu, 1e-5);
        let h = self.conv(h, channels, 3, 1, None);
        self.add(shortcut, h)
    }

    fn transformer(&mut self, x: ValueId, context: ValueId) -> ValueId {
        let [batch, channels, height, width] = self.dims(x)[..] else {
            unreachable!("a map")
        };
        let h = self.group_norm(x, Activation::None, 1e-6);
        let h = self.op(Op::Tokens, vec![h.into()], &[batch, height * width, channels]);
        let h = self.linear(h, channels, true);
        let n = self.layer_norm(h);
        let attended = self.attention(n, n);
        let h = self.add(attended, h);
        let n = self.layer_norm(h);
        let attended = self.attention(n, context);
        let h = self.add(attended, h);
        let n = self.layer_norm(h);
        let gated = self.linear(n, 8 * channels, true);
        let gated = self.op(Op::Geglu, vec![gated.into()], &[batch, height * width, 4 * channels]);
        let fed = self.linear(gated, channels, true);
        let h = self.add(fed, h);
        let h = self.linear(h, channels, true);
        let h = self.op(
            Op::Spatial { height, width },
            vec![h.into()],
            &[batch, channels, height, width],
        );
        self.add(h, x)
    }

    fn attention(&mut self, x: ValueId, keys: ValueId) -> ValueId {
        let shape = self.dims(x);
        let (q, k, v) = (
            self.linear(x, shape[2], false),
            self.linear(keys, shape[2], false),
            self.linear(keys, shape[2], false),
        );
        let (heads, scale) = (shape[2] / self.shape.head, (self.shape.head as f64).powf(-0.5));
        let op = Op::Attention {
            heads,
            scale,
            control: None,
        };
        let attended = self.op(op, vec![q.into(), k.into(), v.into()], &shape);
        self.linear(attended, shape[2], true)
    }
}

fn f32_type(shape: &[usize]) -> ValueType {
    ValueType::full(DType::F32, shape.to_vec())
}
