//! Measured coefficients of a device.

use fisec_plan::TileCost;
use serde::{Deserialize, Serialize};

/// What work costs on one device, as `fisec bench --calibrate` measures it. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostTable {
    /// device that it was measured on
    pub device: String,
    /// convolution over a pixel list
    pub pixels: TileCost,
    /// convolution over tiles of more than one pixel
    pub tiles: TileCost,
    /// products over packed rows: linears and attention
    pub rows: TileCost,
    /// dense operators
    pub dense: TileCost,
    /// a call of an island: entering and leaving ONNX Runtime
    pub island: f64,
}

impl CostTable {
    /// The shipped table of a target.
    ///
    /// # Errors
    /// Names the targets that have one.
    pub fn shipped(target: &str) -> Result<Self, String> {
        let text = match target.split(':').next() {
            Some("cpu") => include_str!("cpu.json"),
            Some("cuda") => include_str!("cuda.json"),
            _ => {
                return Err(format!(
                    "no cost table for target `{target}`; there are some for cpu and cuda"
                ));
            }
        };
        Self::parse(text)
    }

    /// Reads a table as `fisec bench --calibrate` writes it.
    ///
    /// # Errors
    /// Says what is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("malformed cost table: {error}"))
    }
}
