//! One layer in full: where it comes from, and every tile that it may use.

use fisec_passes::cost::paper_objective;
use fisec_plan::{Kernel, TileCandidate};
use fisec_tensor::{TileSize, active_tiles};
use serde_json::{Value, json};

use super::Explained;
use super::layer::Layer;
use crate::cli::failure::Failure;
use crate::cli::{output, units};

/// A tile candidate under the mask.
struct Priced {
    tile: TileSize,
    tiles: usize,
    macs: f64,
    predicted_ns: f64,
    /// the paper's objective for the input tile that gives this output tile
    paper: usize,
    chosen: bool,
}

impl Explained<'_> {
    /// Prints the one layer whose name is, or contains, `name`.
    pub fn one(&self, name: &str, layers: &[Layer], as_json: bool) -> Result<(), Failure> {
        let layer = find(name, layers)?;
        let priced: Vec<Priced> = layer
            .candidates()
            .iter()
            .map(|candidate| self.price(layer, candidate))
            .collect();
        if as_json {
            let mut value = layer.json();
            value["candidates"] = priced.iter().map(Priced::json).collect();
            return output::print_json(&value);
        }
        let provenance = &layer.node.provenance;
        let mut rows = vec![
            ("layer", layer.node.name.clone()),
            ("kernel", layer.node.kernel.name().to_owned()),
            ("computes", layer.row().swap_remove(2)),
            ("stands for", provenance.origin.join(", ")),
            ("made by", provenance.pass.clone()),
            ("because", provenance.reason.clone()),
            (
                "work",
                format!("{} of {}", units::macs(layer.macs), units::macs(layer.macs_dense)),
            ),
            ("predicted", units::seconds(layer.predicted_ns / 1e9)),
            ("reads", layer.slots.join(", ")),
        ];
        rows.retain(|(_, value)| !value.is_empty());
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.into(), value]).collect();
        output::print(&output::table(&rows, &[]))?;
        if priced.is_empty() {
            return Ok(());
        }
        let heading = ["", "tile", "tiles", "work", "predicted", "paper's f(h,w)"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(priced.iter().map(Priced::row));
        output::print(&format!("\n{}", output::table(&rows, &[2, 3, 4, 5])))
    }

    fn price(&self, layer: &Layer, candidate: &TileCandidate) -> Priced {
        let mask = self.binding.active(layer.level.unwrap_or(0)).mask();
        let tiles = active_tiles(mask, candidate.tile).len();
        let kernel = match &layer.node.kernel {
            Kernel::Conv(conv) => conv.kernel,
            _ => [1, 1],
        };
        let input = TileSize::new(
            candidate.tile.height + kernel[0] - 1,
            candidate.tile.width + kernel[1] - 1,
        );
        Priced {
            tile: candidate.tile,
            tiles,
            macs: candidate.macs * tiles as f64,
            predicted_ns: candidate.predict(tiles),
            paper: paper_objective(input, kernel, mask),
            chosen: layer.choice.is_some_and(|choice| choice.tile == candidate.tile),
        }
    }
}

fn find<'a, 'p>(name: &str, layers: &'a [Layer<'p>]) -> Result<&'a Layer<'p>, Failure> {
    if let Some(layer) = layers.iter().find(|layer| layer.node.name == name) {
        return Ok(layer);
    }
    let matching: Vec<&Layer> = layers.iter().filter(|layer| layer.node.name.contains(name)).collect();
    match matching[..] {
        [layer] => Ok(layer),
        [] => Err(Failure::new(format!("the edit program has no layer `{name}`"))
            .hint("`fisec explain PLAN` lists all layers")),
        _ => {
            let names: Vec<&str> = matching.iter().take(6).map(|layer| layer.node.name.as_str()).collect();
            Err(
                Failure::new(format!("`{name}` is part of {} layers' names", matching.len()))
                    .hint(format!("give one in full, e.g. {}", names.join(", "))),
            )
        }
    }
}

impl Priced {
    fn row(&self) -> Vec<String> {
        vec![
            if self.chosen { "→".into() } else { String::new() },
            self.tile.to_string(),
            self.tiles.to_string(),
            units::macs(self.macs as u64),
            units::seconds(self.predicted_ns / 1e9),
            self.paper.to_string(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "tile": self.tile.to_string(),
            "tiles": self.tiles,
            "macs": self.macs,
            "predicted_ns": self.predicted_ns,
            "paper_objective": self.paper,
            "chosen": self.chosen,
        })
    }
}
