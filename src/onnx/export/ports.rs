//! Inputs and outputs of a model: from the layout that they have outside to the graph's, and back.

use fisec_ir::{Attribute, NodeId, ValueType};
use fisec_tensor::{DType, Shape};

use super::Ports;
use super::builder::Builder;
use crate::element::onnx_number;
use crate::unknown_type;

pub const NCHW_TO_NHWC: [i64; 4] = [0, 2, 3, 1];
pub const NHWC_TO_NCHW: [i64; 4] = [0, 3, 1, 2];

/// Declares an input and returns the value that the graph means.
pub fn input(builder: &mut Builder<'_>, ports: Ports, id: NodeId, name: &str) -> String {
    let value = builder.graph.node(id).outputs()[0].clone();
    let outside = ports.outside(&value);
    builder.input(name, &outside);
    let mut x = name.to_owned();
    let (own, padded) = (channels(&value.shape.channels_last()), channels(&outside.shape));
    if ports != Ports::Plain && own != padded {
        let [start, end, axis] = [0, own as i64, -1].map(|at| builder.ints(&[at]));
        x = builder.op("Slice", &[&x, &start, &end, &axis], &[]);
    }
    if outside.dtype != value.dtype {
        x = cast(builder, &x, value.dtype);
    }
    match ports.moves_channels(&value) {
        true => builder.transpose(&x, &NHWC_TO_NCHW),
        false => x,
    }
}

/// Makes operand 0 of a node an output of the model.
pub fn output(builder: &mut Builder<'_>, ports: Ports, id: NodeId, name: &str) {
    let (mut x, value) = (builder.operand(id, 0), builder.operand_type(id, 0));
    if value == unknown_type() {
        builder.untyped_output(name, &x);
        return;
    }
    let outside = ports.outside(&value);
    if ports.moves_channels(&value) {
        x = builder.transpose(&x, &NCHW_TO_NHWC);
    }
    if outside.dtype != value.dtype {
        x = cast(builder, &x, outside.dtype);
    }
    let (own, padded) = (channels(&value.shape.channels_last()), channels(&outside.shape));
    if ports != Ports::Plain && own != padded {
        let rank = outside.shape.len();
        let mut pads = vec![0; 2 * rank];
        pads[2 * rank - 1] = (padded - own) as i64;
        let pads = builder.ints(&pads);
        x = builder.op("Pad", &[&x, &pads], &[]);
    }
    builder.output(name, &x, &outside);
}

impl Ports {
    /// The type that a value of the graph has outside of the model.
    pub fn outside(self, value: &ValueType) -> ValueType {
        let mut outside = value.clone();
        if self != Ports::Plain {
            outside.shape = value.shape.channels_last();
        }
        if let Ports::DeviceRows { vector } = self
            && value.dtype.is_float()
        {
            outside.dtype = DType::F16;
            let mut dims = outside.shape.to_vec();
            if let Some(channels) = dims.last_mut() {
                *channels = channels.next_multiple_of(vector);
            }
            outside.shape = dims.into();
        }
        outside
    }

    fn moves_channels(self, value: &ValueType) -> bool {
        self != Ports::Plain && value.shape.len() == 4
    }
}

fn cast(builder: &mut Builder<'_>, x: &str, dtype: DType) -> String {
    builder.op("Cast", &[x], &[("to", Attribute::Int(onnx_number(dtype).into()))])
}

fn channels(shape: &Shape) -> usize {
    shape.last().copied().unwrap_or(1)
}
