//! A network beside the denoiser: computed by the plan's device, or by ONNX Runtime. Everything that it returns is finite.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fisec_plan::NetworkKind;
use fisec_runtime::ort::{OnnxRuntime, Outlet, Session};
use fisec_runtime::{Network as Native, RuntimeError, is_finite};
use fisec_tensor::{Area, DType, HostTensor};

use crate::{DiffusionError, Image, Notice};

/// One tensor in, one out. What leaves it is finite: half precision that overflows is computed again in f32, and values
/// that are not finite in f32 either are an error.
pub(crate) struct Network {
    kind: NetworkKind,
    /// gone once it has overflowed
    native: Option<Native>,
    runtime: OnnxRuntime,
    files: NetworkFiles,
    /// opened when it is first needed
    session: Option<Model>,
    /// what to say of an overflow
    notice: Option<Notice>,
}

/// Where a network's ONNX files are.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFiles {
    pub(crate) model: PathBuf,
    /// the same network in f32, where `model` computes in half precision
    pub(crate) widened: Option<PathBuf>,
}

/// The ONNX model.
struct Model {
    session: Session,
    input: Outlet,
    output: String,
    /// whether its output is in half precision
    is_half: bool,
}

impl Network {
    /// The ONNX file `model`, checked. There is no other file for when it overflows.
    pub(crate) fn open(runtime: &OnnxRuntime, model: &Path, kind: NetworkKind) -> Result<Self, DiffusionError> {
        let files = NetworkFiles {
            model: model.to_owned(),
            widened: None,
        };
        Network::of(runtime, files, kind, None)
    }

    /// What the device has, else the ONNX file, checked; the files also take over when the device overflows.
    pub(crate) fn of(
        runtime: &OnnxRuntime,
        files: NetworkFiles,
        kind: NetworkKind,
        native: Option<Native>,
    ) -> Result<Self, DiffusionError> {
        let mut network = Network {
            kind,
            native,
            runtime: runtime.clone(),
            files,
            session: None,
            notice: None,
        };
        if network.native.is_none() {
            network.model()?;
        }
        Ok(network)
    }

    /// Runs it on a map, f32, or on token ids `[1, L]`, i64; the result is f32, finite.
    pub(crate) fn run(&mut self, input: &HostTensor) -> Result<HostTensor, DiffusionError> {
        if let Some(output) = self.on_device(|native| native.run(input))? {
            return Ok(output);
        }
        let output = self.model()?.run(input)?;
        if is_finite(&output) {
            return Ok(output);
        }
        let mut in_half = self.model()?.is_half;
        if self.widen(false) {
            // an operator that has no form in f32 leaves the answer of half precision
            if let Ok(model) = self.model() {
                in_half = false;
                let output = model.run(input)?;
                if is_finite(&output) {
                    return Ok(output);
                }
            }
        }
        Err(DiffusionError::NetworkNotFinite {
            network: self.kind.title(),
            in_half,
        })
    }

    /// Computes in f32 from now on; `false` where the file in use does so already.
    fn widen(&mut self, on_device: bool) -> bool {
        let widened = self.files.widened.take();
        if on_device || widened.is_some() {
            let network = self.kind.title();
            self.notice.get_or_insert(Notice::Overflow { network, on_device });
        }
        let Some(widened) = widened else { return false };
        self.files.model = widened;
        self.session = None;
        true
    }

    /// The image of latents.
    pub(crate) fn image(&mut self, latents: &HostTensor) -> Result<Image, DiffusionError> {
        match self.on_device(|native| native.run_rows(latents))? {
            Some(rows) => Image::from_rows(&rows),
            None => Image::from_tensor(&self.run(latents)?),
        }
    }

    /// A part of the image of latents, `area` counting latents, with the area that it shows: at least that one. `None` where
    /// only the whole can be made; see [`Native::run_part`].
    pub(crate) fn part(
        &mut self,
        latents: &HostTensor,
        area: &Area,
        norms: &HostTensor,
    ) -> Result<Option<(Image, Area)>, DiffusionError> {
        let found = self.on_device(|native| native.run_part(latents, area, norms))?;
        let shown = found.flatten().map(|(rows, area)| Ok((Image::from_rows(&rows)?, area)));
        shown.transpose()
    }

    /// What the device worked on the last run; zero where it did not.
    pub(crate) fn device_time(&self) -> Duration {
        self.native.as_ref().map(Native::device_time).unwrap_or_default()
    }

    /// Makes ready what [`Network::part`] takes.
    pub(crate) fn prepare_part(&mut self, area: &Area) -> Result<(), DiffusionError> {
        self.on_device(|native| native.prepare_part(area)).map(drop)
    }

    /// The norms that [`Network::part`] takes, as the last whole image left them.
    pub(crate) fn norms(&self) -> Result<Option<HostTensor>, DiffusionError> {
        let norms = self.native.as_ref().map(Native::norms).transpose()?.flatten();
        Ok(norms.filter(is_finite))
    }

    /// What the device computes; `None` where there is none, or when it overflows: from then on there is none.
    fn on_device<T>(
        &mut self,
        run: impl FnOnce(&mut Native) -> Result<T, RuntimeError>,
    ) -> Result<Option<T>, DiffusionError> {
        let Some(native) = &mut self.native else {
            return Ok(None);
        };
        match run(native) {
            Err(RuntimeError::Overflow(_)) => {
                self.native = None;
                self.widen(true);
                Ok(None)
            }
            other => Ok(Some(other?)),
        }
    }

    /// What to say when half precision has overflowed since this was last asked.
    pub(crate) fn take_overflow(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    fn model(&mut self) -> Result<&mut Model, DiffusionError> {
        if self.session.is_none() {
            let session = self.runtime.session(&self.files.model, 0)?;
            self.session = Some(Model::checked(session, self.kind)?);
        }
        Ok(self.session.as_mut().expect("opened above"))
    }
}

impl Model {
    fn run(&mut self, input: &HostTensor) -> Result<HostTensor, RuntimeError> {
        let value = batched(input, &self.input).cast(self.input.dtype);
        let mut outputs = self.session.run(&[(&self.input.name, &value)], &[&self.output])?;
        Ok(outputs.swap_remove(0).cast(DType::F32))
    }

    fn checked(session: Session, kind: NetworkKind) -> Result<Self, DiffusionError> {
        let refuse = |reason: &str| DiffusionError::Network {
            network: kind.title(),
            reason: reason.into(),
        };
        let is_text = kind == NetworkKind::TextEncoder;
        let what = if is_text { "token ids" } else { "floats" };
        let [input] = session.inputs() else {
            return Err(refuse(&format!("it should have one input, {what}")));
        };
        let fits = match is_text {
            true => matches!(input.dtype, DType::I32 | DType::I64),
            false => input.dtype.is_float(),
        };
        if !fits {
            return Err(refuse(&format!("its one input should be {what}")));
        }
        let outputs: Vec<_> = session
            .outputs()
            .iter()
            .map(|output| (&output.name[..], &output.dims[..]))
            .collect();
        let output = kind.output(&outputs).map_err(|reason| refuse(&reason))?;
        let output = &session.outputs()[output];
        Ok(Model {
            input: input.clone(),
            output: output.name.clone(),
            is_half: matches!(output.dtype, DType::F16 | DType::BF16),
            session,
        })
    }
}

/// Ids repeated for the images of a model whose batch is fixed.
fn batched(input: &HostTensor, outlet: &Outlet) -> HostTensor {
    let batch = outlet.dims.first().copied().flatten().unwrap_or(1).max(1);
    match **input.shape() {
        [1, tokens] if batch > 1 => HostTensor::from_i64([batch, tokens], input.to_i64_vec().repeat(batch)),
        _ => input.clone(),
    }
}
