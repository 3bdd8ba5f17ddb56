//! One kernel call under one mask.

use fisec_plan::{Extent, Kernel, Node, Stage, TileCandidate};
use fisec_runtime::LayerChoice;
use serde_json::{Value, json};

use super::Explained;
use crate::cli::units;

/// What a layer does and costs.
pub struct Layer<'a> {
    pub node: &'a Node,
    pub stage: Stage,
    /// level of the active pixels that it computes; none for a dense layer
    pub level: Option<u32>,
    pub choice: Option<&'a LayerChoice>,
    pub macs_dense: u64,
    pub macs: u64,
    pub predicted_ns: f64,
    pub slots: Vec<String>,
    pub slot_bytes: u64,
}

impl<'a> Explained<'a> {
    /// Every kernel call of the program, in order.
    pub fn layers(&self) -> Vec<Layer<'a>> {
        self.program.nodes.iter().map(|node| self.layer(node)).collect()
    }

    fn layer(&self, node: &'a Node) -> Layer<'a> {
        let outputs = node.kernel.outputs();
        let extents = outputs.iter().map(|id| self.program.values[id.index()].extent);
        let level = extents.into_iter().find_map(|extent| match extent {
            Extent::Active(level) => Some(level),
            Extent::Full => None,
        });
        let choice = self.binding.layers().iter().find(|choice| choice.node == node.name);
        let share = match (level, choice) {
            (Some(level), Some(choice)) => choice.computed as f64 / self.pixels(level),
            (Some(level), None) => self.binding.active(level).len() as f64 / self.pixels(level),
            (None, _) => 1.0,
        };
        let active = |level| self.binding.active(level).mask().share();
        let terms = self.program.share_of_terms(&node.kernel, active);
        let macs = (node.macs_dense as f64 * share * terms).round() as u64;
        let slots = node.kernel.slots_read();
        let slots = slots.iter().map(|slot| &self.plan.slots[slot.index()]);
        Layer {
            node,
            stage: node.stage,
            level,
            choice,
            macs_dense: node.macs_dense,
            macs,
            predicted_ns: self.predicted_ns(node, level, choice, macs),
            slot_bytes: slots.clone().map(|slot| slot.bytes).sum(),
            slots: slots.map(|slot| slot.name.clone()).collect(),
        }
    }

    fn pixels(&self, level: u32) -> f64 {
        self.binding.active(level).mask().bits().len() as f64
    }

    /// By the cost table that the compiler chose with.
    fn predicted_ns(&self, node: &Node, level: Option<u32>, choice: Option<&LayerChoice>, macs: u64) -> f64 {
        if let Some(predicted) = choice.and_then(|choice| choice.predicted_ns) {
            return predicted;
        }
        match (&node.kernel, level) {
            (Kernel::Island(_), _) => self.table.island + self.table.dense.predict(1, 0.0, macs as f64),
            (_, Some(level)) if macs > 0 => {
                let rows = self.binding.active(level).len() as f64;
                let outputs = node.kernel.outputs();
                let bytes: f64 = outputs
                    .iter()
                    .map(|id| &self.program.values[id.index()])
                    .map(|value| value.shape.elements() as f64 * value.dtype.size() as f64 * rows / self.pixels(level))
                    .sum();
                self.table.rows.predict(1, bytes, macs as f64)
            }
            // Reading slots, norms and additions count for nothing in the compiler's model.
            _ if macs == 0 => 0.0,
            _ => self.table.dense.predict(1, 0.0, macs as f64),
        }
    }
}

impl Layer<'_> {
    /// Tile sizes that the layer may use.
    pub fn candidates(&self) -> &[TileCandidate] {
        match &self.node.kernel {
            Kernel::Conv(conv) => &conv.candidates,
            _ => &[],
        }
    }

    fn is_by_parity(&self) -> bool {
        matches!(&self.node.kernel, Kernel::Conv(conv) if conv.by_parity.is_some())
    }

    fn computes(&self) -> String {
        match (self.level, self.choice) {
            (Some(level), Some(choice)) => {
                let how = if self.is_by_parity() { ", by parity" } else { "" };
                format!("level {level}, {} tiles of {}{how}", choice.tiles, choice.tile)
            }
            (Some(level), None) => format!("level {level}, active rows"),
            (None, _) => match self.stage {
                Stage::Step => "everything".into(),
                Stage::Prompt => "once per prompt".into(),
                Stage::Timestep => "once per timestep".into(),
            },
        }
    }

    pub fn row(&self) -> Vec<String> {
        let or_nothing = |is_shown: bool, text: String| if is_shown { text } else { String::new() };
        let share = self.macs as f64 / self.macs_dense.max(1) as f64;
        vec![
            self.node.name.clone(),
            self.node.kernel.name().to_owned(),
            self.computes(),
            or_nothing(self.macs > 0, units::macs(self.macs)),
            or_nothing(self.macs_dense > 0, units::percent(share)),
            or_nothing(self.predicted_ns > 0.0, units::seconds(self.predicted_ns / 1e9)),
            or_nothing(self.slot_bytes > 0, units::bytes(self.slot_bytes)),
            self.node.provenance.reason.clone(),
        ]
    }

    pub fn json(&self) -> Value {
        json!({
            "name": self.node.name,
            "kernel": self.node.kernel.name(),
            "stage": self.stage,
            "level": self.level,
            "tile": self.choice.map(|choice| choice.tile.to_string()),
            "tiles": self.choice.map(|choice| choice.tiles),
            "macs_dense": self.macs_dense,
            "macs": self.macs,
            "predicted_ns": self.predicted_ns,
            "slots": self.slots,
            "slot_bytes": self.slot_bytes,
            "origin": self.node.provenance.origin,
            "pass": self.node.provenance.pass,
            "reason": self.node.provenance.reason,
        })
    }
}
