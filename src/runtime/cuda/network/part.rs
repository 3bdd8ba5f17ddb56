//! Parts of a decoder's image, computed over boxes: see [`Boxed`].

use std::collections::HashMap;
use std::sync::Arc;

use fisec_kernels::cuda::Address;
use fisec_plan::{Program, ValueId};
use fisec_tensor::{Area, DType, HostTensor};

use super::{NetworkProgram, input_rows, launch, output, sample_of};
use crate::RuntimeError;
use crate::cuda::assemble::Boxes;
use crate::cuda::boxed::{Boxed, frozen_norms};
use crate::cuda::captured::Captured;
use crate::cuda::driver::{Buffer, Device};

/// Sizes of parts whose graphs are kept.
const MOST_SIZES: usize = 8;

/// Graphs over boxes, and the norms that they are given.
pub(super) struct Parts {
    /// by size, the one that was used last at the end
    sizes: Vec<Sized>,
    /// coefficients by their first byte in the blocks
    places: Vec<(ValueId, usize)>,
    /// what whole runs leave
    left: Buffer,
    /// what boxes are given, and its contents
    given: (Buffer, Option<HostTensor>),
}

struct Sized {
    boxed: Boxed,
    captured: Captured,
    /// the part whose boxes its lists name
    area: Option<Area>,
}

impl Parts {
    pub(super) fn new(device: &Arc<Device>, program: &Program) -> Result<Self, RuntimeError> {
        let mut bytes = 0;
        let mut places = Vec::new();
        for id in frozen_norms(program) {
            places.push((id, bytes));
            bytes += program.values[id.index()].shape.elements() * size_of::<f32>();
        }
        Ok(Parts {
            sizes: Vec::new(),
            places,
            left: device.upload(&vec![0; bytes])?,
            given: (device.allocate(bytes)?, None),
        })
    }

    /// Where a whole run leaves coefficients.
    pub(super) fn kept(&self) -> Boxes {
        Boxes {
            kept: self.addresses(&self.left),
            ..Boxes::default()
        }
    }

    fn addresses(&self, block: &Buffer) -> HashMap<ValueId, Address> {
        let address = |offset: usize| Address::at(block.address() + offset as u64);
        self.places.iter().map(|&(id, offset)| (id, address(offset))).collect()
    }

    /// Bytes of all coefficients.
    fn bytes(&self, program: &Program) -> usize {
        let last = self.places.last();
        last.map_or(0, |(id, offset)| {
            offset + program.values[id.index()].shape.elements() * size_of::<f32>()
        })
    }

    fn give(&mut self, norms: &HostTensor) -> Result<(), RuntimeError> {
        if self.given.1.as_ref() != Some(norms) {
            self.given.0.write(0, norms.data())?;
            self.given.1 = Some(norms.clone());
        }
        Ok(())
    }
}

impl NetworkProgram {
    /// Scale and shift of the norms that parts are computed with, as the last whole run left them: f32 `[values]`. `None`
    /// where this network has no parts.
    pub(crate) fn norms(&self) -> Result<Option<HostTensor>, RuntimeError> {
        let bytes = self.parts.bytes(self.program());
        if bytes == 0 {
            return Ok(None);
        }
        self.shared.device.enter()?;
        // SAFETY: all of the block that whole runs leave coefficients in.
        let data = unsafe { self.shared.device.read(self.parts.left.address(), bytes)? };
        Ok(Some(HostTensor::new(
            DType::F32,
            [bytes / size_of::<f32>()],
            data.into(),
        )?))
    }

    /// Captures what a part takes. `false` where it is better to run the whole.
    pub(crate) fn prepare_part(&mut self, area: &Area) -> Result<bool, RuntimeError> {
        let sizes = &mut self.parts.sizes;
        if let Some(known) = sizes.iter().position(|size| size.boxed.fits(area)) {
            let last = sizes.len() - 1;
            sizes[known..=last].rotate_left(1);
        } else {
            let Some(sized) = self.capture_part(area)? else {
                return Ok(false);
            };
            let sizes = &mut self.parts.sizes;
            if sizes.len() == MOST_SIZES {
                sizes.remove(0);
            }
            sizes.push(sized);
        }
        let sized = self.parts.sizes.last_mut().expect("just put there");
        if sized.area.as_ref() != Some(area) {
            self.shared.device.enter()?;
            sized.captured.fill(&sized.boxed.levels(area))?;
            sized.area = Some(*area);
        }
        Ok(true)
    }

    fn capture_part(&self, area: &Area) -> Result<Option<Sized>, RuntimeError> {
        let Some(boxed) = Boxed::new(self.program(), area) else {
            return Ok(None);
        };
        self.shared.device.enter()?;
        let boxes = Boxes {
            windows: boxed.windows.clone(),
            given: self.parts.addresses(&self.parts.given.0),
            ..Boxes::default()
        };
        let levels = boxed.levels(area);
        let captured = self.dense.capture_too(&self.shared, &boxed.program, &boxes, &levels)?;
        Ok(captured.map(|captured| Sized {
            boxed,
            captured,
            area: None,
        }))
    }

    /// The rows of a part of the output, `area` counting pixels of the input, with the area that is computed: as large or
    /// larger, exact in `area` only. Norms are those of `norms`. `None` where it is better to run the whole.
    pub(crate) fn run_part(
        &mut self,
        input: &HostTensor,
        area: &Area,
        norms: &HostTensor,
    ) -> Result<Option<(HostTensor, Area)>, RuntimeError> {
        let bytes = self.parts.bytes(self.program());
        if norms.dtype() != DType::F32 || norms.data().len() != bytes || !self.prepare_part(area)? {
            return Ok(None);
        }
        self.shared.device.enter()?;
        let rows = input_rows(self.kind, sample_of(self.program()), input)?;
        self.dense.write_input(&rows)?;
        self.parts.give(norms)?;
        let Sized { boxed, captured, .. } = self.parts.sizes.last().expect("prepared above");
        self.device_time = launch(&self.shared, &self.around, &mut self.islands, captured)?;
        let id = boxed.program.outputs["prediction"];
        let shape = &boxed.program.values[id.index()].shape;
        let rows = output(&self.shared, self.kind, captured.prediction, shape, &mut self.staging)?;
        Ok(Some((rows, boxed.computed(area))))
    }
}
