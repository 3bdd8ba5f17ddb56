//! Rewriting ONNX files field by field: weights into files of external data.

use std::fs;
use std::path::Path;

const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_RAW_DATA: u64 = 9;

/// Moves the weights of at least 64 bytes out of a model, into the file `location` beside it.
pub fn externalize(model: &Path, location: &str) {
    let mut data = Vec::new();
    let bytes = fs::read(model).unwrap();
    let rewritten = rewrite(&bytes, MODEL_GRAPH, &mut |graph| {
        rewrite(graph, GRAPH_INITIALIZER, &mut |tensor| {
            moved(tensor, location, &mut data)
        })
    });
    let file = model.parent().unwrap().join(location);
    assert!(!data.is_empty());
    fs::write(model, rewritten).unwrap();
    if !location.contains("..") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, data).unwrap();
    }
}

/// A tensor whose raw data stand at the end of `data`.
fn moved(tensor: &[u8], location: &str, data: &mut Vec<u8>) -> Vec<u8> {
    let mut raw: Option<Vec<u8>> = None;
    rewrite(tensor, TENSOR_RAW_DATA, &mut |bytes| {
        raw = Some(bytes.to_vec());
        Vec::new()
    });
    let Some(raw) = raw.filter(|raw| raw.len() >= 64) else {
        return tensor.to_vec();
    };
    let mut out = without(tensor, TENSOR_RAW_DATA);
    let entries = [
        ("location", location.to_owned()),
        ("offset", data.len().to_string()),
        ("length", raw.len().to_string()),
    ];
    for (key, value) in entries {
        let mut entry = Vec::new();
        put(&mut entry, 1, key.as_bytes());
        put(&mut entry, 2, value.as_bytes());
        put(&mut out, 13, &entry);
    }
    out.extend([14 << 3, 1]); // data_location: external
    data.extend(raw);
    out
}

/// A message with the length-delimited fields of a number replaced.
fn rewrite(message: &[u8], number: u64, replace: &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, start, payload, end) in fields(message) {
        match payload.filter(|_| field == number) {
            Some(payload) => put(&mut out, number, &replace(payload)),
            None => out.extend(&message[start..end]),
        }
    }
    out
}

fn without(message: &[u8], number: u64) -> Vec<u8> {
    let kept = fields(message).into_iter().filter(|(field, ..)| *field != number);
    kept.flat_map(|(_, start, _, end)| message[start..end].to_vec())
        .collect()
}

/// Number, start, length-delimited payload and end of every field.
fn fields(message: &[u8]) -> Vec<(u64, usize, Option<&[u8]>, usize)> {
    let (mut at, mut found) = (0, Vec::new());
    while at < message.len() {
        let start = at;
        let key = varint(message, &mut at);
        let mut payload = None;
        match key & 7 {
            0 => drop(varint(message, &mut at)),
            1 => at += 8,
            5 => at += 4,
            2 => {
                let length = varint(message, &mut at) as usize;
                payload = Some(&message[at..at + length]);
                at += length;
            }
            other => panic!("wire type {other}"),
        }
        found.push((key >> 3, start, payload, at));
    }
    found
}

fn varint(message: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = message[*at];
        *at += 1;
        value |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return value;
        }
    }
}

fn put(out: &mut Vec<u8>, number: u64, payload: &[u8]) {
    for mut value in [number << 3 | 2, payload.len() as u64] {
        while value >= 128 {
            out.push(value as u8 | 128);
            value >>= 7;
        }
        out.push(value as u8);
    }
    out.extend(payload);
}
