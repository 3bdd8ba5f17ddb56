//! The weights of a model that is written.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use fisec_onnx::{Location, SinkError, WeightSink};
use fisec_tensor::Constant;

use crate::cli::failure::Failure;
use crate::cli::output::NewFile;

/// Weights in one file beside the model.
pub struct BesideModel {
    name: String,
    file: NewFile,
    length: u64,
}

impl BesideModel {
    /// Where the weights of a model go.
    pub fn place(model: &Path) -> PathBuf {
        let mut name = OsString::from(model.file_name().unwrap_or_default());
        name.push(".data");
        model.with_file_name(name)
    }

    /// Begins the weights of a model, which names them as text.
    pub fn create(model: &Path) -> Result<Self, Failure> {
        let path = Self::place(model);
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(Failure::new(format!("{}: the name is no text", path.display()))
                .hint("give a name in UTF-8: an ONNX model names its weights' file"));
        };
        Ok(BesideModel {
            name: name.to_owned(),
            file: NewFile::create(&path)?,
            length: 0,
        })
    }

    /// The weights under their name, complete.
    pub fn publish(self) -> Result<(), Failure> {
        self.file.publish()
    }
}

impl WeightSink for BesideModel {
    fn place(&mut self, _name: &str, data: &Constant) -> Result<Location, SinkError> {
        let tensor = data.materialize();
        let written = self.file.write_all(tensor.data());
        written.map_err(|error| SinkError::new(error.to_string()))?;
        let location = Location {
            file: self.name.clone(),
            offset: self.length,
            length: tensor.data().len() as u64,
        };
        self.length += location.length;
        Ok(location)
    }
}
