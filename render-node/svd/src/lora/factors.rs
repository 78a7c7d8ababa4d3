use flowai_model::adapter::{MagnitudeAxis, ModuleDelta};
use flowai_model::safetensors::TensorView;
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::params;

/// The numbers of one module's change as matrices on a device, in the precision of their file.
#[derive(Debug)]
pub(super) struct Factors {
    /// (rank, in * kernel): a kernel's axes are columns.
    down: Tensor,
    /// (out, rank)
    up: Tensor,
    /// As long as its axis.
    magnitude: Option<(Tensor, MagnitudeAxis)>,
}

impl Factors {
    /// Where the adapter's bytes lie, which must outlive them.
    pub(super) fn borrowed(delta: &ModuleDelta) -> Result<Self> {
        Self::made(delta, params::borrow)
    }

    /// A copy of its own on the device. Returns when the bytes are under way: from pinned memory nobody waits for them, so
    /// the adapter must be kept until the device is done.
    pub(super) fn copied(delta: &ModuleDelta, device: Device) -> Result<Self> {
        Self::made(delta, |view| {
            let host = params::borrow(view)?;
            Ok(host.f_internal_to_copy((host.f_kind()?, device), true)?)
        })
    }

    fn made(delta: &ModuleDelta, place: impl Fn(&TensorView) -> Result<Tensor>) -> Result<Self> {
        let magnitude = delta.magnitude.as_ref();
        let magnitude = match magnitude {
            Some(m) => Some((place(&m.values)?.f_flatten(0, -1)?, m.axis)),
            None => None,
        };
        Ok(Self {
            down: place(&delta.down)?.f_flatten(1, -1)?,
            up: place(&delta.up)?.f_flatten(1, -1)?,
            magnitude,
        })
    }

    /// What they take on the device.
    pub(super) fn bytes(delta: &ModuleDelta) -> u64 {
        let magnitude = delta.magnitude.as_ref().map_or(0, |m| m.values.data.len());
        (delta.down.data.len() + delta.up.data.len() + magnitude) as u64
    }

    pub(super) fn down(&self) -> Result<Tensor> {
        Ok(self.down.f_to_kind(Kind::Float)?)
    }

    /// Multiplied by `factor`: of the two halves the smaller one, mostly.
    pub(super) fn up(&self, factor: f64) -> Result<Tensor> {
        Ok(self.up.f_to_kind(Kind::Float)?.f_mul_scalar(factor)?)
    }

    pub(super) fn magnitude(&self) -> Result<Option<(Tensor, MagnitudeAxis)>> {
        let magnitude = self.magnitude.as_ref();
        let in_f32 = |(m, axis): &(Tensor, MagnitudeAxis)| Ok((m.f_to_kind(Kind::Float)?, *axis));
        magnitude.map(in_f32).transpose()
    }
}
