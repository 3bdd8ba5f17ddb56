//! Recorded tensors: numpy's `.npz`.

use std::io::{self, BufReader};
use std::path::Path;

use fisec_tensor::{DType, HostTensor};
use npyz::npz::NpzArchive;
use npyz::{NpyFile, Order, TypeStr};

use super::{Recorded, Tensors};
use crate::cli::failure::Failure;

/// Arrays named `in_…` and `out_…`.
pub fn read(path: &Path) -> Result<Recorded, Failure> {
    let file = fisec_files::open(path).map_err(Failure::file(path))?;
    let bytes = file.metadata().map_err(Failure::file(path))?.len();
    let mut archive = NpzArchive::new(BufReader::new(file)).map_err(Failure::file(path))?;
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let (mut inputs, mut outputs) = (Tensors::new(), Tensors::new());
    for name in names {
        let Some(array) = archive.by_name(&name).map_err(Failure::file(path))? else {
            continue;
        };
        let tensor = tensor(array, bytes.saturating_mul(DEFLATE)).map_err(|error| {
            Failure::new(format!("{}, array `{name}`: {error}", path.display()))
                .hint("save arrays in C order as f16, f32, f64, i64, i32 or bool")
        })?;
        if let Some(input) = name.strip_prefix("in_") {
            inputs.insert(input.to_owned(), tensor);
        } else if let Some(output) = name.strip_prefix("out_") {
            outputs.insert(output.to_owned(), tensor);
        }
    }
    if inputs.is_empty() || outputs.is_empty() {
        return Err(
            Failure::new(format!("{} has no arrays `in_…` and `out_…`", path.display()))
                .hint("save them with numpy.savez(path, in_sample=…, out_out_sample=…)"),
        );
    }
    Ok(Recorded { inputs, outputs })
}

/// Bytes that a compressed byte unpacks to at most.
const DEFLATE: u64 = 1032;

/// The tensor, when its header names no more than `most` bytes: no archive holds more than it can unpack to.
fn tensor<R: io::Read>(array: NpyFile<R>, most: u64) -> io::Result<HostTensor> {
    let elements = array
        .shape()
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size));
    if elements.is_none_or(|elements| elements > most) {
        return Err(io::Error::other("it names more elements than the file can hold"));
    }
    if array.header().order() != Order::C && array.shape().len() > 1 {
        return Err(io::Error::other("its order is not C"));
    }
    let shape: Vec<usize> = array.shape().iter().map(|&size| size as usize).collect();
    let kind = match array.dtype() {
        npyz::DType::Plain(kind) => kind,
        other => return Err(io::Error::other(format!("it has elements {}", other.descr()))),
    };
    let tensor = match plain(&kind) {
        Some(DType::F32) => HostTensor::from_f32(shape, array.into_vec()?),
        Some(DType::F16) => HostTensor::from_pod::<half::f16>(DType::F16, shape, array.into_vec()?),
        Some(DType::F64) => HostTensor::from_pod::<f64>(DType::F64, shape, array.into_vec()?),
        Some(DType::I64) => HostTensor::from_i64(shape, array.into_vec()?),
        Some(DType::I32) => HostTensor::from_pod::<i32>(DType::I32, shape, array.into_vec()?),
        Some(DType::Bool) => {
            let bits: Vec<bool> = array.into_vec()?;
            HostTensor::from_pod(DType::Bool, shape, bits.into_iter().map(u8::from).collect())
        }
        _ => return Err(io::Error::other(format!("it has elements {kind}"))),
    };
    Ok(tensor)
}

fn plain(kind: &TypeStr) -> Option<DType> {
    match kind.to_string().trim_start_matches(['<', '|', '=']) {
        "f2" => Some(DType::F16),
        "f4" => Some(DType::F32),
        "f8" => Some(DType::F64),
        "i8" => Some(DType::I64),
        "i4" => Some(DType::I32),
        "b1" => Some(DType::Bool),
        _ => None,
    }
}
