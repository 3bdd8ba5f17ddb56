//! Weights and islands of a plan under construction.

use std::collections::HashMap;

use fisec_ir::{Graph, WeightId as IrWeight};
use fisec_onnx::{ExportOptions, Location, SinkError, WeightSink, export};
use fisec_plan::{BundleWriter, Island, IslandId, WeightId};
use fisec_tensor::{Constant, DType, Transform};

use super::LowerError;

/// How a kernel wants its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// as the graph has it
    AsIs,
    /// `[Cout, Cin, kh, kw]` to `[kh, kw, Cin, Cout]`
    ConvRows,
}

/// Collects what all programs of a plan share.
pub struct PlanBuilder<'a> {
    writer: &'a mut BundleWriter,
    dtype: DType,
    weights: HashMap<(String, WeightLayout), WeightId>,
    islands: Vec<Island>,
    island_models: HashMap<Vec<u8>, IslandId>,
}

impl<'a> PlanBuilder<'a> {
    /// Writes into `writer`, weights in element type `dtype`.
    pub fn new(writer: &'a mut BundleWriter, dtype: DType) -> Self {
        PlanBuilder {
            writer,
            dtype,
            weights: HashMap::new(),
            islands: Vec::new(),
            island_models: HashMap::new(),
        }
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
        let data = info.data.transformed(Transform::Cast(self.dtype));
        let data = match layout {
            WeightLayout::AsIs => data,
            WeightLayout::ConvRows => data.transformed(Transform::Permute(vec![2, 3, 1, 0])),
        };
        let weight = self.writer.add_weight(&info.name, &data.materialize())?;
        self.weights.insert(key, weight);
        Ok(weight)
    }

    /// Writes a dense subgraph as an ONNX island; an island that is already there is used again.
    pub fn island(&mut self, graph: &Graph, describe: Island) -> Result<IslandId, LowerError> {
        let options = ExportOptions {
            maps_nhwc_at_ports: true,
        };
        let model = export(graph, &options, &mut External(self.writer))?;
        if let Some(known) = self.island_models.get(&model) {
            return Ok(*known);
        }
        let id = IslandId(self.islands.len() as u32);
        self.writer.add_file(&describe.file, &model)?;
        self.island_models.insert(model, id);
        self.islands.push(describe);
        Ok(id)
    }
}

/// Initializers of islands stand beside the kernels' weights.
struct External<'a>(&'a mut BundleWriter);

impl WeightSink for External<'_> {
    fn place(&mut self, name: &str, data: &Constant) -> Result<Location, SinkError> {
        let placement = self
            .0
            .place_external(name, &data.materialize())
            .map_err(|error| SinkError::new(error.to_string()))?;
        Ok(Location {
            file: placement.file.to_owned(),
            offset: placement.offset,
            length: placement.length,
        })
    }
}
