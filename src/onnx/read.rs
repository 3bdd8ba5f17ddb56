//! From bytes to protobuf messages, with the place of the first damage when they are none.

use std::path::Path;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::ImportError;
use crate::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};

const MODEL_GRAPH: u32 = 7;
const GRAPH_NODE: u32 = 1;
const GRAPH_INITIALIZER: u32 = 5;
const GRAPH_INPUT: u32 = 11;

/// Decodes the model; tensors' raw data stay slices of `bytes`.
pub(crate) fn model(path: &Path, bytes: Bytes) -> Result<ModelProto, ImportError> {
    if bytes.is_empty() {
        return Err(ImportError::new(path, "", "the file is empty").hint("export or copy it again"));
    }
    let model = ModelProto::decode(bytes.clone()).map_err(|error| {
        let place = damage(&bytes).unwrap_or_default();
        ImportError::new(path, place, format!("not a readable ONNX model: {error}"))
            .hint("the file is truncated, damaged or no ONNX model (a Git LFS pointer?); export or copy it again")
    })?;
    if model.graph.is_none() {
        return Err(ImportError::new(path, "", "the file holds no ONNX graph")
            .hint("give the .onnx file of the model, not of its weights"));
    }
    Ok(model)
}

/// One field of a message: its number, the offset of its payload in the file and, when length-delimited, the payload.
struct Field {
    number: u32,
    offset: usize,
    payload: Option<Bytes>,
}

/// Splits a message into fields; the error is the offset of the first byte that makes no sense.
fn fields(bytes: &Bytes, base: usize) -> Result<Vec<Field>, usize> {
    let mut rest = bytes.clone();
    let mut fields = Vec::new();
    while rest.has_remaining() {
        let start = base + bytes.len() - rest.remaining();
        let (number, wire) = decode_key(&mut rest).map_err(|_| start)?;
        let skipped = match wire {
            WireType::Varint => {
                decode_varint(&mut rest).map_err(|_| start)?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut rest).map_err(|_| start)?,
            WireType::StartGroup | WireType::EndGroup => return Err(start),
        };
        if skipped > rest.remaining() as u64 {
            return Err(start);
        }
        let offset = base + bytes.len() - rest.remaining();
        let payload = rest.split_to(skipped as usize);
        let payload = (wire == WireType::LengthDelimited).then_some(payload);
        fields.push(Field {
            number,
            offset,
            payload,
        });
    }
    Ok(fields)
}

/// Names the first node, tensor or byte that cannot be decoded.
fn damage(bytes: &Bytes) -> Option<String> {
    let byte = |offset: usize| format!("byte {offset}");
    let model = match fields(bytes, 0) {
        Ok(model) => model,
        Err(offset) => return Some(inside_graph(bytes).unwrap_or_else(|| byte(offset))),
    };
    let graph = model.iter().find(|field| field.number == MODEL_GRAPH)?;
    let parts = match fields(graph.payload.as_ref()?, graph.offset) {
        Ok(parts) => parts,
        Err(offset) => return Some(byte(offset)),
    };
    damaged_part(&parts)
}

/// The truncated file's last whole or broken part of the graph, when the graph is what was cut.
fn inside_graph(bytes: &Bytes) -> Option<String> {
    let mut rest = bytes.clone();
    while rest.has_remaining() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        let length = match wire {
            WireType::Varint => {
                decode_varint(&mut rest).ok()?;
                continue;
            }
            WireType::LengthDelimited => decode_varint(&mut rest).ok()?,
            _ => return None,
        };
        if number == MODEL_GRAPH {
            let base = bytes.len() - rest.remaining();
            let offset = fields(&rest, base).err()?;
            return Some(format!("byte {offset} of {}, inside the graph", bytes.len()));
        }
        if length > rest.remaining() as u64 {
            return None;
        }
        rest.advance(length as usize);
    }
    None
}

fn damaged_part(parts: &[Field]) -> Option<String> {
    let mut counts = [0usize; 3];
    for part in parts {
        let Some(payload) = part.payload.clone() else { continue };
        let (kind, slot, decodes) = match part.number {
            GRAPH_NODE => ("node", 0, NodeProto::decode(payload).is_ok()),
            GRAPH_INITIALIZER => ("initializer", 1, TensorProto::decode(payload).is_ok()),
            GRAPH_INPUT => ("input", 2, ValueInfoProto::decode(payload).is_ok()),
            _ => continue,
        };
        if !decodes {
            return Some(format!("{kind} {} at byte {}", counts[slot], part.offset));
        }
        counts[slot] += 1;
    }
    None
}
