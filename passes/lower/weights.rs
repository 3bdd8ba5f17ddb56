//! Weights and islands of a plan under construction.

use std::collections::HashMap;

use fisec_ir::{Graph, WeightId as IrWeight};
use fisec_onnx::{Location, Ports, SinkError, WeightSink, export};
use fisec_plan::cuda::{CHANNELS, TILE_CHANNELS};
use fisec_plan::{BundleWriter, Island, IslandId, Placement, WeightId};
use fisec_tensor::{Constant, DType, HostTensor, PARITIES, Shape, Transform};

use super::LowerError;
use super::pack::{beside, pack};
use crate::Budget;

/// Whose kernels read the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightTarget {
    /// f32, plain rows
    Cpu,
    /// f16, products in tiles of 64 channels: `pack.rs`
    Cuda,
}

impl WeightTarget {
    /// The kernels of a target, `cpu` or `cuda:<arch>`.
    pub fn of(target: &str) -> Self {
        match target.starts_with("cuda:") {
            true => WeightTarget::Cuda,
            false => WeightTarget::Cpu,
        }
    }
}

/// How a kernel wants its weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// one number per channel
    Vector,
    /// rows as they are
    Rows,
    /// one number per column of a product `[a | g]` that is gated
    GatedVector,
    /// a product's `[Cin, Cout]`
    LinearRows {
        /// the columns are `[a | g]`
        geglu: bool,
    },
    /// `[Cout, Cin, kh, kw]` to `[kh, kw, Cin, Cout]`; the channels of each source
    ConvRows(Vec<usize>),
    /// `[Cout, Cin, 3, 3]` to `[4, 2, 2, Cin, Cout]`: summed by the parity of the output; the channels of each source
    ByParity(Vec<usize>),
}

impl WeightLayout {
    /// The dimensions of the graph's weight in the order in which the CPU's kernels read them; none when it is the same.
    fn axes(&self) -> &'static [usize] {
        match self {
            WeightLayout::ConvRows(_) => &[2, 3, 1, 0],
            _ => &[],
        }
    }
}

/// Collects what all programs of a plan share.
pub struct PlanBuilder<'a> {
    writer: &'a mut BundleWriter,
    target: WeightTarget,
    budget: Budget,
    weights: HashMap<(String, WeightLayout), WeightId>,
    placed: Placed,
    islands: Vec<Island>,
    island_models: HashMap<Vec<u8>, IslandId>,
    /// the first island of the prompt's stage
    prompt: Option<(IslandId, Graph)>,
}

impl<'a> PlanBuilder<'a> {
    /// Writes into `writer`, weights as the target's kernels read them: for the CPU f32, or the half precision that they
    /// were widened from. What is made of the constants of all models together stays within `budget`.
    pub fn new(writer: &'a mut BundleWriter, target: WeightTarget, budget: Budget) -> Self {
        PlanBuilder {
            writer,
            target,
            budget,
            weights: HashMap::new(),
            placed: Placed::default(),
            islands: Vec::new(),
            island_models: HashMap::new(),
            prompt: None,
        }
    }

    /// Begins with another model, whose weights may have the names of others.
    pub fn begin_model(&mut self) {
        self.weights.clear();
    }

    /// Remembers an island of the prompt's stage, for a device to compute it.
    pub(super) fn prompt_island(&mut self, island: IslandId, graph: Graph) {
        if self.target == WeightTarget::Cuda {
            self.prompt.get_or_insert((island, graph));
        }
    }

    /// That island.
    pub(super) fn take_prompt(&mut self) -> Option<(IslandId, Graph)> {
        self.prompt.take()
    }

    /// Islands so far.
    pub fn into_islands(self) -> Vec<Island> {
        self.islands
    }

    /// The plan's weight for a weight of the graph, written when it is new.
    pub fn weight(&mut self, graph: &Graph, id: IrWeight, layout: WeightLayout) -> Result<WeightId, LowerError> {
        let info = graph.weight(id);
        let key = (info.name.clone(), layout);
        if let Some(known) = self.weights.get(&key) {
            return Ok(*known);
        }
        let weight = match self.target {
            WeightTarget::Cpu => self.rows(&info.name, &info.data, key.1.axes())?,
            WeightTarget::Cuda => {
                let packed = self.packed(&info.name, &info.data, &key.1)?;
                self.writer.add_weight(&info.name, &packed)?
            }
        };
        self.weights.insert(key, weight);
        Ok(weight)
    }

    /// A weight as a device reads it: cast, and written once or, by parity, four times with fewer taps.
    fn packed(&self, name: &str, data: &Constant, layout: &WeightLayout) -> Result<HostTensor, LowerError> {
        let cast = data.transformed(Transform::Cast(DType::F16));
        let written = padded(data.shape(), layout);
        spend(&self.budget, name, cast.work().saturating_add(written))?;
        Ok(pack(data, layout))
    }

    /// A weight as the graph has it, read with its dimensions in another order.
    fn rows(&mut self, name: &str, data: &Constant, axes: &'static [usize]) -> Result<WeightId, LowerError> {
        let data = data.transformed(Transform::Cast(DType::F32));
        let stored = data.unwidened().unwrap_or(data);
        let placement = self.placed.place(self.writer, &self.budget, name, &stored)?;
        let shape = match axes {
            [] => stored.shape().clone(),
            axes => axes.iter().map(|&axis| stored.shape()[axis]).collect(),
        };
        Ok(self.writer.add_placed(name, stored.dtype(), &shape, axes, &placement))
    }

    /// Weight and bias of products of the same rows, their columns one behind the other.
    pub fn product(
        &mut self,
        graph: &Graph,
        parts: &[(IrWeight, Option<IrWeight>)],
        geglu: bool,
    ) -> Result<(WeightId, Option<WeightId>), LowerError> {
        let bias_layout = match geglu {
            true => WeightLayout::GatedVector,
            false => WeightLayout::Vector,
        };
        if let [(weight, bias)] = *parts {
            let weight = self.weight(graph, weight, WeightLayout::LinearRows { geglu })?;
            let bias = bias.map(|bias| self.weight(graph, bias, bias_layout)).transpose()?;
            return Ok((weight, bias));
        }
        let columns = |weight: IrWeight| graph.weight(weight).data.shape()[1];
        let names: Vec<&str> = parts
            .iter()
            .map(|(weight, _)| graph.weight(*weight).name.as_str())
            .collect();
        let name = names.join("+");
        let key = (name.clone(), WeightLayout::LinearRows { geglu: false });
        let weight = match self.weights.get(&key) {
            Some(known) => *known,
            None => {
                let packed = parts
                    .iter()
                    .map(|(weight, _)| self.packed(&name, &graph.weight(*weight).data, &key.1));
                let packed = packed.collect::<Result<Vec<_>, _>>()?;
                let weight = self.writer.add_weight(&name, &beside(&packed))?;
                self.weights.insert(key, weight);
                weight
            }
        };
        if parts.iter().all(|(_, bias)| bias.is_none()) {
            return Ok((weight, None));
        }
        let biases = parts.iter().map(|(weight, bias)| match bias {
            Some(bias) => self.packed(&name, &graph.weight(*bias).data, &WeightLayout::Vector),
            None => Ok(Constant::filled(DType::F16, [columns(*weight)], 0.0).materialize()),
        });
        let biases = biases.collect::<Result<Vec<HostTensor>, _>>()?;
        let bytes: Vec<u8> = biases.iter().flat_map(|bias| bias.data().to_vec()).collect();
        let length = bytes.len() / DType::F16.size();
        let bias = HostTensor::new(DType::F16, [length], bytes.into()).expect("whole elements");
        Ok((weight, Some(self.writer.add_weight(&format!("{name}.bias"), &bias)?)))
    }

    /// Writes a dense subgraph as an ONNX island; an island that is already there is used again. Programs name their
    /// islands alike, so a name that stands for another model gets a number.
    pub fn island(&mut self, graph: &Graph, ports: Ports, mut describe: Island) -> Result<IslandId, LowerError> {
        let mut weights = External {
            writer: &mut *self.writer,
            budget: &self.budget,
            placed: &mut self.placed,
            failure: None,
        };
        let exported = export(graph, ports, &mut weights);
        if let Some(failure) = weights.failure {
            return Err(failure);
        }
        let model = exported?;
        if let Some(known) = self.island_models.get(&model) {
            return Ok(*known);
        }
        let id = IslandId(self.islands.len() as u32);
        if self.writer.has_file(&describe.file) {
            describe.name = self.free_name(&describe.name);
            describe.file = island_file(&describe.name);
        }
        self.writer.add_file(&describe.file, &model)?;
        self.island_models.insert(model, id);
        self.islands.push(describe);
        Ok(id)
    }

    fn free_name(&self, name: &str) -> String {
        let is_free = |name: &String| !self.writer.has_file(&island_file(name));
        let mut numbered = (2..).map(|copy| format!("{name}-{copy}"));
        numbered.find(is_free).expect("numbers do not end")
    }
}

/// The file of an island of this name, relative to the bundle.
pub(super) fn island_file(name: &str) -> String {
    format!("{name}.onnx")
}

/// Initializers of islands stand beside the kernels' weights.
struct External<'a> {
    writer: &'a mut BundleWriter,
    budget: &'a Budget,
    placed: &'a mut Placed,
    /// why a weight could not be placed
    failure: Option<LowerError>,
}

impl WeightSink for External<'_> {
    fn place(&mut self, name: &str, data: &Constant) -> Result<Location, SinkError> {
        let placement = self.placed.place(self.writer, self.budget, name, data);
        let placement = placement.map_err(|error| {
            let message = error.to_string();
            self.failure = Some(error);
            SinkError::new(message)
        })?;
        Ok(Location {
            file: placement.file.to_owned(),
            offset: placement.offset,
            length: placement.length,
        })
    }
}

/// Constants that stand in the bundle, so that the next program need not read them: all have the same weights, and a
/// convolution is stored once, in the order that islands want.
///
/// Holding the constants keeps their bytes in memory, or mapped: no other can come to stand at the same address.
#[derive(Default)]
struct Placed(HashMap<u64, Vec<(Constant, Placement)>>);

impl Placed {
    fn place(
        &mut self,
        writer: &mut BundleWriter,
        budget: &Budget,
        name: &str,
        data: &Constant,
    ) -> Result<Placement, LowerError> {
        let alike = self.0.entry(data.fingerprint()).or_default();
        if let Some((_, placement)) = alike.iter().find(|(known, _)| known.is_same(data)) {
            return Ok(placement.clone());
        }
        spend(budget, name, data.work())?;
        let placement = writer.place_external(name, &data.materialize())?;
        alike.push((data.clone(), placement.clone()));
        Ok(placement)
    }
}

fn spend(budget: &Budget, name: &str, bytes: usize) -> Result<(), LowerError> {
    match budget.spend(bytes) {
        true => Ok(()),
        false => Err(LowerError::TooMuch {
            weight: name.to_owned(),
            bytes,
            budget: budget.total(),
        }),
    }
}

/// Bytes that a packed weight takes at most: its channels are padded to whole tiles.
fn padded(shape: &Shape, layout: &WeightLayout) -> usize {
    let dims = match (layout, &shape[..]) {
        (WeightLayout::LinearRows { .. }, &[depth, columns]) => [depth, columns, 1],
        (WeightLayout::ConvRows(_) | WeightLayout::ByParity(_), &[columns, depth, height, width]) => {
            [depth, columns, height.saturating_mul(width)]
        }
        _ => [TILE_CHANNELS, shape.elements(), 1],
    };
    let sources = match layout {
        WeightLayout::ConvRows(sources) | WeightLayout::ByParity(sources) => sources.len(),
        _ => 1,
    };
    let [depth, columns, taps] = dims;
    let parities = if matches!(layout, WeightLayout::ByParity(_)) {
        PARITIES
    } else {
        1
    };
    [
        depth.saturating_add(sources * TILE_CHANNELS),
        columns.saturating_add(CHANNELS),
        taps,
        parities,
        DType::F16.size(),
    ]
    .into_iter()
    .fold(1, usize::saturating_mul)
}
