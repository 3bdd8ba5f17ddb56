//! Writing small plans by hand.

use std::collections::BTreeMap;

use fisec_plan::*;
use fisec_tensor::{DType, HostTensor, Shape};

/// Reproducible numbers in [-1, 1).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn vector(&mut self, length: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }
}

/// Collects values, slots and nodes of one program.
pub struct Maker {
    pub writer: BundleWriter,
    pub numbers: Numbers,
    pub values: Vec<Value>,
    pub slots: Vec<Slot>,
    pub nodes: Vec<Node>,
    pub inputs: BTreeMap<String, ValueId>,
    pub cache_dtype: DType,
}

impl Maker {
    pub fn new(writer: BundleWriter, cache_dtype: DType) -> Self {
        Maker {
            writer,
            numbers: Numbers::new(11),
            values: Vec::new(),
            slots: Vec::new(),
            nodes: Vec::new(),
            inputs: BTreeMap::new(),
            cache_dtype,
        }
    }

    pub fn value(&mut self, shape: &[usize], extent: Extent, stage: Stage) -> ValueId {
        self.values.push(Value {
            dtype: DType::F32,
            shape: shape.into(),
            extent,
            stage,
        });
        ValueId(self.values.len() as u32 - 1)
    }

    pub fn input(&mut self, name: &str, shape: &[usize], stage: Stage) -> ValueId {
        let value = self.value(shape, Extent::Full, stage);
        self.inputs.insert(name.into(), value);
        value
    }

    pub fn shape(&self, id: ValueId) -> Shape {
        self.values[id.index()].shape.clone()
    }

    /// A weight whose products keep their magnitude.
    pub fn weight(&mut self, shape: &[usize]) -> WeightId {
        let count: usize = shape.iter().product();
        let fan_in = (count / shape.last().unwrap()).max(1) as f32;
        let values = self
            .numbers
            .vector(count)
            .iter()
            .map(|x| x * (3.0 / fan_in).sqrt())
            .collect();
        let name = format!("weight{}", self.writer.weights().len());
        self.writer
            .add_weight(&name, &HostTensor::from_f32(shape, values))
            .unwrap()
    }

    /// A slot for a value of active extent.
    pub fn slot(&mut self, of: ValueId) -> SlotId {
        let Extent::Active(level) = self.values[of.index()].extent else {
            panic!("slots of active values")
        };
        let shape = self.shape(of);
        self.slot_of(SlotKind::Full { level }, shape, self.cache_dtype)
    }

    pub fn stats_slot(&mut self, groups: usize, batch: usize) -> SlotId {
        self.slot_of(SlotKind::Stats, [batch, groups, 2].into(), DType::F32)
    }

    fn slot_of(&mut self, kind: SlotKind, shape: Shape, dtype: DType) -> SlotId {
        self.slots.push(Slot {
            name: format!("slot{}", self.slots.len()),
            kind,
            dtype,
            bytes: (shape.elements() * dtype.size()) as u64,
            shape,
        });
        SlotId(self.slots.len() as u32 - 1)
    }

    pub fn node(&mut self, kernel: Kernel) {
        let stage = kernel
            .outputs()
            .first()
            .map_or(Stage::Step, |value| self.values[value.index()].stage);
        self.nodes.push(Node {
            name: format!("{}{}", kernel.name(), self.nodes.len()),
            kernel,
            stage,
            provenance: Provenance::default(),
            macs_dense: 0,
            macs_predicted: [0; 3],
        });
    }

    pub fn program(&self, prediction: ValueId) -> Program {
        Program {
            values: self.values.clone(),
            inputs: self.inputs.clone(),
            outputs: BTreeMap::from([("prediction".into(), prediction)]),
            nodes: self.nodes.clone(),
        }
    }
}
