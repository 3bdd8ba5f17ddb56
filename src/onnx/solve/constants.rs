//! Shapes of weights, and the values of small integer ones.

use std::collections::HashMap;

use crate::proto::tensor_proto::DataType;
use crate::proto::{GraphProto, NodeProto, TensorProto};

/// Integer constants with more elements are no shapes.
const LONGEST: usize = 64;

/// The weights of a model.
pub struct Constants<'a> {
    tensors: HashMap<&'a str, &'a TensorProto>,
    /// constants written as attributes of integers
    lists: HashMap<&'a str, (Vec<usize>, Vec<i64>)>,
}

impl<'a> Constants<'a> {
    /// Initializers and `Constant` nodes.
    pub fn of(graph: &'a GraphProto) -> Self {
        let initializers = graph.initializer.iter();
        let mut constants = Constants {
            tensors: initializers
                .map(|tensor| (tensor.name.as_deref().unwrap_or_default(), tensor))
                .collect(),
            lists: HashMap::new(),
        };
        let nodes = graph.node.iter();
        nodes
            .filter(|node| node.op_type.as_deref() == Some("Constant"))
            .for_each(|node| constants.node(node));
        constants
    }

    fn node(&mut self, node: &'a NodeProto) {
        let Some((name, attribute)) = node.output.first().zip(node.attribute.first()) else {
            return;
        };
        if let Some(tensor) = &attribute.t {
            self.tensors.insert(name, tensor);
        } else if let Some(value) = attribute.i {
            self.lists.insert(name, (vec![], vec![value]));
        } else if !attribute.ints.is_empty() {
            let values = attribute.ints.clone();
            self.lists.insert(name, (vec![values.len()], values));
        } else if !attribute.floats.is_empty() {
            self.lists.insert(name, (vec![attribute.floats.len()], vec![]));
        } else if attribute.f.is_some() {
            self.lists.insert(name, (vec![], vec![]));
        }
    }

    /// The dimensions of a constant.
    pub fn dims(&self, name: &str) -> Option<Vec<usize>> {
        if let Some(tensor) = self.tensors.get(name) {
            return tensor.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        }
        self.lists.get(name).map(|(dims, _)| dims.clone())
    }

    /// The values of a short constant of 64-bit integers that stands in the model itself.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        if let Some((dims, values)) = self.lists.get(name) {
            let elements: usize = dims.iter().product();
            return (values.len() == elements && elements <= LONGEST).then(|| values.clone());
        }
        let tensor = self.tensors.get(name)?;
        let elements = self
            .dims(name)?
            .iter()
            .try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
        if tensor.data_type != Some(DataType::Int64 as i32) || elements > LONGEST {
            return None;
        }
        let values: Vec<i64> = match &tensor.raw_data {
            Some(raw) => raw
                .chunks_exact(8)
                .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes")))
                .collect(),
            None => tensor.int64_data.clone(),
        };
        (values.len() == elements).then_some(values)
    }
}
