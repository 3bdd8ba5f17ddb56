//! Weights in text: name, type, and data where they are short or made by rule.

use fisec_tensor::{Constant, DType, HostTensor, Shape};

use super::INLINE_ELEMENTS;
use super::print::weight_name;
use crate::WeightInfo;

/// `@name : f16[8] = …`
pub(super) fn declaration(weight: &WeightInfo) -> String {
    let data = &weight.data;
    let head = format!("{} : {}[{}]", weight_name(&weight.name), data.dtype(), data.shape());
    match data_text(data) {
        Some(values) => format!("{head} = {values}"),
        None => head,
    }
}

fn data_text(data: &Constant) -> Option<String> {
    match data.fill_value() {
        Some(value) if value.is_nan() => None,
        Some(value) => Some(format!("fill({value:?})")),
        None if data.shape().elements() <= INLINE_ELEMENTS => Some(elements(&data.materialize())),
        None => None,
    }
}

/// All elements: `[1, 2, 3]`.
pub(super) fn elements(tensor: &HostTensor) -> String {
    let words: Vec<String> = match tensor.dtype() {
        DType::F32 => tensor.to_f32_vec().iter().map(|value| format!("{value:?}")).collect(),
        DType::F64 | DType::F16 | DType::BF16 => tensor.to_f64_vec().iter().map(|value| format!("{value:?}")).collect(),
        DType::U64 => tensor
            .to_i64_vec()
            .iter()
            .map(|&value| (value as u64).to_string())
            .collect(),
        _ => tensor.to_i64_vec().iter().map(ToString::to_string).collect(),
    };
    format!("[{}]", words.join(", "))
}

/// A tensor from written elements.
pub(super) fn from_words(dtype: DType, shape: &Shape, words: &[String]) -> Result<HostTensor, String> {
    if Some(words.len()) != shape.checked_elements() {
        return Err(format!(
            "{dtype}[{shape}] has {} elements, {} are given",
            shape.elements(),
            words.len()
        ));
    }
    let integer = |word: &String| word.parse::<i128>().map_err(|_| format!("`{word}` is not an integer"));
    let float = |word: &String| word.parse::<f64>().map_err(|_| format!("`{word}` is not a number"));
    if dtype == DType::F32 {
        let values: Result<Vec<f32>, String> = words
            .iter()
            .map(|word| word.parse().map_err(|_| format!("`{word}` is not a number")))
            .collect();
        return Ok(HostTensor::from_f32(shape.clone(), values?));
    }
    if dtype.is_float() {
        let values = words.iter().map(float).collect::<Result<Vec<_>, _>>()?;
        return HostTensor::from_f64(dtype, shape.clone(), &values).map_err(|error| error.to_string());
    }
    let mut bytes = Vec::with_capacity(words.len() * dtype.size());
    for word in words {
        let value = integer(word)?;
        if !integer_range(dtype).contains(&value) {
            return Err(format!("{value} is not a {dtype}"));
        }
        bytes.extend_from_slice(&value.to_le_bytes()[..dtype.size()]);
    }
    HostTensor::new(dtype, shape.clone(), bytes.into()).map_err(|error| error.to_string())
}

fn integer_range(dtype: DType) -> std::ops::RangeInclusive<i128> {
    let bits = 8 * dtype.size() as u32;
    match dtype {
        DType::Bool => 0..=1,
        DType::I64 | DType::I32 | DType::I16 | DType::I8 => -(1 << (bits - 1))..=(1 << (bits - 1)) - 1,
        _ => 0..=(1 << bits) - 1,
    }
}

/// Numbers in `-scale..scale` that depend only on the seed (SplitMix64), the same on every machine.
pub(super) fn random(dtype: DType, shape: &Shape, seed: u64, scale: f64) -> HostTensor {
    let mut state = seed;
    let values: Vec<f64> = (0..shape.elements())
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            ((bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * scale
        })
        .collect();
    HostTensor::from_f64(dtype, shape.clone(), &values).expect("one value per element")
}
