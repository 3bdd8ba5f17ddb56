//! The attributes of each operator: to text, and from a bag of parsed ones.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::print::onnx_attributes;
use super::quoted;
use crate::{
    Activation, Attribute, Concat, Control, Conv, Demand, GroupNorm, Linear, OnnxOp, Op, Padding, SlotId,
    TimestepEmbedding,
};

/// The attributes of `op` as they stand behind its operands.
pub(super) fn attributes(op: &Op) -> String {
    match op {
        Op::Input(name) | Op::Output(name) => quoted(name),
        Op::Onnx(onnx) => onnx_attributes(onnx),
        Op::Conv(conv) => conv_attributes(conv),
        Op::GroupNorm(norm) => words([
            format!("groups={}", norm.groups),
            format!("epsilon={:?}", norm.epsilon),
            activation(norm.activation),
        ]),
        Op::GroupNormStats { groups } | Op::GroupNormStatsUpdate { groups } => format!("groups={groups}"),
        Op::NormCoefficients { groups, epsilon } => format!("groups={groups} epsilon={epsilon:?}"),
        Op::Affine { activation: applied } => activation(*applied),
        Op::Activate(applied) => format!("function={}", activation_name(*applied)),
        Op::Upsample { height, width } | Op::Spatial { height, width } => format!("size={height}x{width}"),
        Op::LayerNorm { epsilon } => format!("epsilon={epsilon:?}"),
        Op::Linear(linear) => linear_attributes(linear),
        Op::Attention { heads, scale, control } => words([
            format!("heads={heads} scale={scale:?}"),
            flag("control", control.is_some()),
        ]),
        Op::CausalAttention { heads, scale } | Op::AttentionMaps { heads, scale } => {
            format!("heads={heads} scale={scale:?}")
        }
        Op::Repeat { images } => format!("images={images}"),
        Op::Concat(concat) => format!("axis={}", concat.axis),
        Op::TimestepEmbedding(embedding) => words([
            format!("rows={} width={}", embedding.rows, embedding.width),
            flag("flip", embedding.flip_sin_to_cos),
            format!("shift={:?} max_period={:?}", embedding.shift, embedding.max_period),
        ]),
        Op::CacheRead(slot) | Op::CacheWrite(slot) => slot.to_string(),
        Op::Scatter(Demand::Full) => "full".to_owned(),
        Op::Scatter(Demand::Halo(radius)) => format!("halo={radius}"),
        Op::Tokens | Op::Geglu | Op::Add | Op::AddVector | Op::Gather => String::new(),
    }
}

fn conv_attributes(conv: &Conv) -> String {
    let Padding {
        top,
        left,
        bottom,
        right,
    } = conv.padding;
    let pad = match top == left && left == bottom && bottom == right {
        true => format!("pad={top}"),
        false => format!("pad=[{top}, {left}, {bottom}, {right}]"),
    };
    let stride = match conv.stride {
        [rows, columns] if rows == columns => format!("stride={rows}"),
        [rows, columns] => format!("stride={rows}x{columns}"),
    };
    words([
        format!("kernel={}x{}", conv.kernel[0], conv.kernel[1]),
        stride,
        pad,
        conv.upsample
            .map_or(String::new(), |[height, width]| format!("upsample={height}x{width}")),
        flag("concat", conv.concat),
        flag("bias", conv.bias),
        flag("affine", conv.affine),
        activation(conv.activation),
        flag("vector", conv.vector),
        flag("residual", conv.residual),
    ])
}

fn linear_attributes(linear: &Linear) -> String {
    words([
        flag("bias", linear.bias),
        linear
            .layer_norm
            .map_or(String::new(), |epsilon| format!("layer_norm={epsilon:?}")),
        flag("geglu", linear.geglu),
        flag("residual", linear.residual),
    ])
}

fn words<const COUNT: usize>(words: [String; COUNT]) -> String {
    let given: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    given.join(" ")
}

fn flag(name: &str, set: bool) -> String {
    if set { name.to_owned() } else { String::new() }
}

fn activation(applied: Activation) -> String {
    match applied {
        Activation::None => String::new(),
        other => format!("activation={}", activation_name(other)),
    }
}

fn activation_name(applied: Activation) -> &'static str {
    match applied {
        Activation::None => "none",
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    }
}

/// What was written behind an operator's operands.
#[derive(Debug, Default)]
pub(super) struct Bag {
    /// `bias`
    pub(super) words: Vec<String>,
    /// `"…"`
    pub(super) texts: Vec<String>,
    /// `groups=32`; lists keep their commas away
    pub(super) pairs: BTreeMap<String, Vec<String>>,
    /// the operator type behind `onnx`
    pub(super) onnx_type: Option<String>,
    /// `{…}`
    pub(super) onnx: BTreeMap<String, Attribute>,
}

impl Bag {
    fn flag(&mut self, name: &str) -> bool {
        let position = self.words.iter().position(|word| word == name);
        position.map(|position| self.words.remove(position)).is_some()
    }

    fn optional<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        match self.pairs.remove(key).as_deref() {
            None => Ok(None),
            Some([word]) => word
                .parse()
                .map(Some)
                .map_err(|_| format!("`{key}={word}` is not understood")),
            Some(_) => Err(format!("`{key}` is one number")),
        }
    }

    fn required<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        self.optional(key)?.ok_or_else(|| format!("`{key}=` is missing"))
    }

    fn size(&mut self, key: &str) -> Result<Option<[usize; 2]>, String> {
        let Some(word) = self.optional::<String>(key)? else {
            return Ok(None);
        };
        let wrong = || format!("`{key}={word}` is not a size such as 3x3");
        let (rows, columns) = word.split_once('x').unwrap_or((&word, &word));
        Ok(Some([
            rows.parse().map_err(|_| wrong())?,
            columns.parse().map_err(|_| wrong())?,
        ]))
    }

    fn required_size(&mut self, key: &str) -> Result<[usize; 2], String> {
        self.size(key)?.ok_or_else(|| format!("`{key}=` is missing"))
    }

    fn padding(&mut self) -> Result<Padding, String> {
        let words = self.pairs.remove("pad").unwrap_or_else(|| vec!["0".to_owned()]);
        let sides: Result<Vec<usize>, _> = words.iter().map(|word| word.parse()).collect();
        match sides.as_deref() {
            Ok(&[side]) => Ok(Padding {
                top: side,
                left: side,
                bottom: side,
                right: side,
            }),
            Ok(&[top, left, bottom, right]) => Ok(Padding {
                top,
                left,
                bottom,
                right,
            }),
            _ => Err("`pad` is one number, or `[top, left, bottom, right]`".to_owned()),
        }
    }

    fn activation(&mut self, key: &str) -> Result<Option<Activation>, String> {
        let Some(name) = self.optional::<String>(key)? else {
            return Ok(None);
        };
        let known = [
            Activation::None,
            Activation::Silu,
            Activation::Gelu,
            Activation::QuickGelu,
        ];
        let found = known.into_iter().find(|applied| activation_name(*applied) == name);
        found.map(Some).ok_or_else(|| format!("unknown activation `{name}`"))
    }

    fn name(&mut self) -> Result<String, String> {
        if self.texts.is_empty() {
            return Err("a name in quotes is missing".to_owned());
        }
        Ok(self.texts.remove(0))
    }

    fn slot(&mut self) -> Result<SlotId, String> {
        let slot = (!self.words.is_empty()).then(|| self.words.remove(0));
        slot.as_deref()
            .and_then(slot_number)
            .map(SlotId)
            .ok_or_else(|| "a slot such as `s0` is missing".to_owned())
    }

    fn finish(self) -> Result<(), String> {
        let left = self
            .words
            .into_iter()
            .chain(self.pairs.into_keys())
            .chain(self.onnx.into_keys())
            .next();
        match (left, self.texts.into_iter().next()) {
            (Some(name), _) => Err(format!("unknown attribute `{name}`")),
            (None, Some(text)) => Err(format!("{} says nothing here", quoted(&text))),
            (None, None) => Ok(()),
        }
    }
}

/// The number of `s12`.
pub(super) fn slot_number(word: &str) -> Option<u32> {
    word.strip_prefix('s')?.parse().ok()
}

/// The operator called `name` with the attributes of `bag`.
pub(super) fn build(name: &str, mut bag: Bag) -> Result<Op, String> {
    let op = operator(name, &mut bag)?;
    bag.finish()?;
    Ok(op)
}

fn operator(name: &str, bag: &mut Bag) -> Result<Op, String> {
    Ok(match name {
        "input" => Op::Input(bag.name()?),
        "output" => Op::Output(bag.name()?),
        "onnx" => Op::Onnx(OnnxOp {
            domain: bag.optional("domain")?.unwrap_or_default(),
            op_type: bag.onnx_type.take().ok_or("the operator type is missing")?,
            opset: bag.required("opset")?,
            attributes: std::mem::take(&mut bag.onnx),
        }),
        "conv" => Op::Conv(Conv {
            kernel: bag.required_size("kernel")?,
            stride: bag.size("stride")?.unwrap_or([1, 1]),
            padding: bag.padding()?,
            upsample: bag.size("upsample")?,
            concat: bag.flag("concat"),
            bias: bag.flag("bias"),
            affine: bag.flag("affine"),
            activation: bag.activation("activation")?.unwrap_or_default(),
            vector: bag.flag("vector"),
            residual: bag.flag("residual"),
        }),
        "group_norm" => Op::GroupNorm(GroupNorm {
            groups: bag.required("groups")?,
            epsilon: bag.required("epsilon")?,
            activation: bag.activation("activation")?.unwrap_or_default(),
        }),
        "group_norm_stats" => Op::GroupNormStats {
            groups: bag.required("groups")?,
        },
        "group_norm_stats_update" => Op::GroupNormStatsUpdate {
            groups: bag.required("groups")?,
        },
        "norm_coefficients" => Op::NormCoefficients {
            groups: bag.required("groups")?,
            epsilon: bag.required("epsilon")?,
        },
        "affine" => Op::Affine {
            activation: bag.activation("activation")?.unwrap_or_default(),
        },
        "activate" => Op::Activate(bag.activation("function")?.ok_or("`function=` is missing")?),
        "upsample" => {
            let [height, width] = bag.required_size("size")?;
            Op::Upsample { height, width }
        }
        "spatial" => {
            let [height, width] = bag.required_size("size")?;
            Op::Spatial { height, width }
        }
        "tokens" => Op::Tokens,
        "layer_norm" => Op::LayerNorm {
            epsilon: bag.required("epsilon")?,
        },
        "linear" => Op::Linear(Linear {
            bias: bag.flag("bias"),
            layer_norm: bag.optional("layer_norm")?,
            geglu: bag.flag("geglu"),
            residual: bag.flag("residual"),
        }),
        "attention" => Op::Attention {
            heads: bag.required("heads")?,
            scale: bag.required("scale")?,
            control: bag.flag("control").then_some(Control),
        },
        "causal_attention" => Op::CausalAttention {
            heads: bag.required("heads")?,
            scale: bag.required("scale")?,
        },
        "attention_maps" => Op::AttentionMaps {
            heads: bag.required("heads")?,
            scale: bag.required("scale")?,
        },
        "geglu" => Op::Geglu,
        "add" => Op::Add,
        "add_vector" => Op::AddVector,
        "repeat" => Op::Repeat {
            images: bag.required("images")?,
        },
        "concat" => Op::Concat(Concat {
            axis: bag.required("axis")?,
        }),
        "timestep_embedding" => Op::TimestepEmbedding(TimestepEmbedding {
            rows: bag.required("rows")?,
            width: bag.required("width")?,
            flip_sin_to_cos: bag.flag("flip"),
            shift: bag.required("shift")?,
            max_period: bag.required("max_period")?,
        }),
        "cache.read" => Op::CacheRead(bag.slot()?),
        "cache.write" => Op::CacheWrite(bag.slot()?),
        "gather" => Op::Gather,
        "scatter" => Op::Scatter(match bag.flag("full") {
            true => Demand::Full,
            false => Demand::Halo(bag.required("halo").map_err(|_| "`full` or `halo=` is missing")?),
        }),
        _ => return Err(format!("unknown operator `{name}`")),
    })
}
