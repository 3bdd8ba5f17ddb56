//! Recorded tensors.

use std::collections::BTreeMap;
use std::path::Path;

use fisec_tensor::HostTensor;

/// All arrays of an `.npz` file: floats as `f32`, integers as `i64`.
pub fn read_npz(path: &Path) -> BTreeMap<String, HostTensor> {
    let mut archive = npyz::npz::NpzArchive::open(path).expect("recorded tensors open");
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let mut read = |name: String| {
        let array = archive.by_name(&name).expect("readable").expect("listed");
        let shape: Vec<usize> = array.shape().iter().map(|&dim| dim as usize).collect();
        let is_float = array.dtype().descr().contains('f');
        let tensor = if is_float {
            HostTensor::from_f32(shape, array.into_vec::<f32>().expect("f32"))
        } else {
            HostTensor::from_i64(shape, array.into_vec::<i64>().expect("i64"))
        };
        (name, tensor)
    };
    names.into_iter().map(&mut read).collect()
}
