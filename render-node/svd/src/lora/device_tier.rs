use flowai_model::Sha256Digest;
use flowai_model::adapter::Adapter;
use flowai_model::lru::{Lru, LruUsage};
use tch::{Cuda, Device};

use super::factors::Factors;
use crate::error::Result;

/// Factors that lie on the device (T1), so that a switch back to them moves nothing between host and device.
#[derive(Debug)]
pub struct DeviceTier {
    device: Device,
    lru: Lru<Sha256Digest, Vec<Factors>>,
}

impl DeviceTier {
    /// `bytes_max`: of all factors that no switch is reading.
    pub fn new(device: Device, bytes_max: u64) -> Self {
        Self {
            device,
            lru: Lru::new(bytes_max),
        }
    }

    /// Brings the adapter to the device if it is not there, and keeps it until [`DeviceTier::release`].
    pub(super) fn hold(&mut self, adapter: &Adapter) -> Result<()> {
        if self.lru.hold(&adapter.sha256).is_some() {
            return Ok(());
        }
        let factors = adapter.modules.iter();
        let factors = factors.map(|delta| Factors::copied(delta, self.device));
        let factors = factors.collect::<Result<_>>()?;
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
        let bytes = adapter.modules.iter().map(Factors::bytes).sum();
        self.lru.insert_held(adapter.sha256, factors, bytes);
        Ok(())
    }

    pub(super) fn release(&mut self, adapter: Sha256Digest) {
        self.lru.release(&adapter);
        self.lru.evict();
    }

    /// Of an adapter that is held: the factors of its changes, in their order.
    pub(super) fn factors(&self, adapter: Sha256Digest) -> Option<&[Factors]> {
        self.lru.peek(&adapter).map(Vec::as_slice)
    }

    pub(super) fn limit(&mut self, bytes_max: u64) {
        self.lru.limit(bytes_max);
        self.lru.evict();
    }

    /// Newest first.
    pub fn adapters(&self) -> Vec<Sha256Digest> {
        self.lru.newest()
    }

    pub fn usage(&self) -> LruUsage {
        self.lru.usage()
    }
}
