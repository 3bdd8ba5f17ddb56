//! Norms in ONNX operators.

use fisec_ir::{Activation, Attribute, GroupNorm, NodeId};
use fisec_tensor::HostTensor;

use super::builder::Builder;

/// `activation(x)`.
pub fn activate(builder: &mut Builder<'_>, x: String, activation: Activation) -> String {
    let microsoft = "com.microsoft";
    match activation {
        Activation::None => x,
        Activation::Silu => builder.op_of(microsoft, "QuickGelu", &[&x], &[("alpha", Attribute::Float(1.0))]),
        Activation::QuickGelu => builder.op_of(microsoft, "QuickGelu", &[&x], &[("alpha", Attribute::Float(1.702))]),
        Activation::Gelu => builder.op_of(microsoft, "Gelu", &[&x], &[]),
    }
}

/// Group norm as an instance norm over groups, then gamma and beta per channel.
pub fn group_norm(builder: &mut Builder<'_>, id: NodeId, norm: GroupNorm) -> String {
    let value = builder.operand_type(id, 0);
    let (batch, channels) = (value.shape[0], value.shape[1]);
    let rest: usize = value.shape[2..].iter().product();
    let x = builder.operand(id, 0);
    let grouped = builder.reshape(x, &[batch, norm.groups, channels / norm.groups * rest]);
    let filled = |number: f64| {
        let values = vec![number; norm.groups];
        HostTensor::from_f64(value.dtype, [norm.groups], &values).expect("one value per group")
    };
    let (ones, zeros) = (builder.constant(filled(1.0)), builder.constant(filled(0.0)));
    let epsilon = Attribute::Float(norm.epsilon as f32);
    let normal = builder.op(
        "InstanceNormalization",
        &[&grouped, &ones, &zeros],
        &[("epsilon", epsilon)],
    );
    let normal = builder.reshape(normal, &value.shape);
    let mut per_channel = vec![channels];
    per_channel.resize(value.shape.len() - 1, 1);
    let gamma = builder.weight_shaped(builder.graph.operands(id)[1], &per_channel);
    let beta = builder.weight_shaped(builder.graph.operands(id)[2], &per_channel);
    let scaled = builder.op("Mul", &[&normal, &gamma], &[]);
    let shifted = builder.op("Add", &[&scaled, &beta], &[]);
    activate(builder, shifted, norm.activation)
}

/// Mean and biased variance per group: `[N, groups, 2]`.
pub fn group_norm_stats(builder: &mut Builder<'_>, id: NodeId, groups: usize) -> String {
    let value = builder.operand_type(id, 0);
    let batch = value.shape[0];
    let x = builder.operand(id, 0);
    let grouped = builder.reshape(x, &[batch, groups, value.shape.elements() / batch / groups]);
    let mean = builder.mean(&grouped, 2);
    let centred = builder.op("Sub", &[&grouped, &mean], &[]);
    let squared = builder.op("Mul", &[&centred, &centred], &[]);
    let variance = builder.mean(&squared, 2);
    builder.op("Concat", &[&mean, &variance], &[("axis", Attribute::Int(2))])
}

/// Scale and shift per image and channel: `[N, 2, C]`.
pub fn norm_coefficients(builder: &mut Builder<'_>, id: NodeId, groups: usize, epsilon: f64) -> String {
    let (stats, output) = (builder.operand_type(id, 0), builder.graph.node(id).outputs()[0].clone());
    let (batch, channels) = (output.shape[0], output.shape[2]);
    let source = builder.operand(id, 0);
    let mean = per_channel(builder, &source, 0, [batch, groups, channels]);
    let variance = per_channel(builder, &source, 1, [batch, groups, channels]);
    let epsilon = builder.scalar(stats.dtype, epsilon);
    let variance = builder.op("Add", &[&variance, &epsilon], &[]);
    let deviation = builder.op("Sqrt", &[&variance], &[]);
    let (gamma, beta) = (builder.operand(id, 1), builder.operand(id, 2));
    let scale = builder.op("Div", &[&gamma, &deviation], &[]);
    let moved = builder.op("Mul", &[&mean, &scale], &[]);
    let shift = builder.op("Sub", &[&beta, &moved], &[]);
    let scale = builder.reshape(scale, &[batch, 1, channels]);
    let shift = builder.reshape(shift, &[batch, 1, channels]);
    builder.op("Concat", &[&scale, &shift], &[("axis", Attribute::Int(1))])
}

/// One of the statistics, repeated for every channel of its group: `[N, C]`.
fn per_channel(builder: &mut Builder<'_>, stats: &str, which: i64, shape: [usize; 3]) -> String {
    let [batch, groups, channels] = shape;
    let index = builder.ints(&[which]);
    let one = builder.op("Gather", &[stats, &index], &[("axis", Attribute::Int(2))]);
    let dims = builder.ints(&[batch as i64, groups as i64, (channels / groups) as i64]);
    let spread = builder.op("Expand", &[&one, &dims], &[]);
    builder.reshape(spread, &[batch, channels])
}

/// `activation(x * scale + shift)` with coefficients `[N, 2, C]`.
pub fn affine(builder: &mut Builder<'_>, x: String, rank: usize, coefficients: &str, activation: Activation) -> String {
    let part = |builder: &mut Builder<'_>, which: i64| {
        let index = builder.ints(&[which]);
        let row = builder.op("Gather", &[coefficients, &index], &[("axis", Attribute::Int(1))]);
        if rank != 4 {
            return row;
        }
        // [N, 1, C] to [N, C, 1, 1]
        let channels = builder.transpose(&row, &[0, 2, 1]);
        let axes = builder.ints(&[3]);
        builder.op("Unsqueeze", &[&channels, &axes], &[])
    };
    let scale = part(builder, 0);
    let shift = part(builder, 1);
    let scaled = builder.op("Mul", &[&x, &scale], &[]);
    let shifted = builder.op("Add", &[&scaled, &shift], &[]);
    activate(builder, shifted, activation)
}
