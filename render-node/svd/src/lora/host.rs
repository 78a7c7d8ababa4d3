use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flowai_model::Sha256Digest;
use flowai_model::adapter::{Adapter, AdapterError, ModuleTable};
use flowai_model::lru::{Lru, LruUsage};
use flowai_model::safetensors::Limits;
use tch::{Device, Kind, Tensor};

use crate::device::DeviceName;
use crate::error::Result;

/// Adapters that were read and checked, in host memory (T2). Cheap to clone; all clones are the same cache, and any thread
/// may fill it: the engine's then finds there what its next job needs.
#[derive(Debug, Clone)]
pub struct HostAdapters {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Page-locked memory goes to a GPU at full speed, without a copy of the driver's.
    is_pinned: bool,
    lru: Mutex<Lru<Key, Arc<Adapter>>>,
    /// Held while a file is read, so that two that want it do not both read it. Whoever finds its adapter does not wait.
    reading: Mutex<()>,
}

/// An adapter is checked against one model. Another one may have other modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    model: Sha256Digest,
    adapter: Sha256Digest,
}

/// An adapter that stays in host memory for as long as this lives.
#[derive(Debug)]
pub struct HostAdapter {
    inner: Arc<Inner>,
    key: Key,
    adapter: Arc<Adapter>,
}

impl HostAdapter {
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }
}

impl Drop for HostAdapter {
    fn drop(&mut self) {
        let mut lru = self.inner.lru();
        lru.release(&self.key);
        lru.evict();
    }
}

/// Why an adapter is not in host memory.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// The file cannot be read, or has other bytes than its hash says: fetch it anew.
    #[error("{0}")]
    Rotten(String),
    /// The bytes are those that were asked for, and no adapter for this model.
    #[error(transparent)]
    Unfit(#[from] AdapterError),
    #[error(transparent)]
    Engine(#[from] crate::error::EngineError),
}

impl HostAdapters {
    /// `bytes_max`: of all adapters that nobody holds. `device`: where the engine computes; for a GPU the memory is pinned.
    pub fn new(bytes_max: u64, device: DeviceName) -> Self {
        Self {
            inner: Arc::new(Inner {
                is_pinned: matches!(device, DeviceName::Cuda(_)),
                lru: Mutex::new(Lru::new(bytes_max)),
                reading: Mutex::new(()),
            }),
        }
    }

    /// The adapter, read from its file if it is not here: hashed, checked by the gate and resolved in the table of the model
    /// that `model` is the hash of. Blocks for as long as that takes.
    ///
    /// Errors: [`NotRead`].
    pub fn hold(
        &self,
        model: Sha256Digest,
        sha256: Sha256Digest,
        path: &Path,
        table: impl FnOnce() -> ModuleTable,
    ) -> std::result::Result<HostAdapter, NotRead> {
        let key = Key {
            model,
            adapter: sha256,
        };
        if let Some(held) = self.present(key) {
            return Ok(held);
        }
        let _reading = self
            .inner
            .reading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = self.present(key) {
            return Ok(held);
        }
        let bytes = read(path, self.inner.is_pinned)?;
        let found = Sha256Digest::of(&bytes);
        if found != sha256 {
            return Err(NotRead::Rotten(format!("its bytes are {found}")));
        }
        let adapter = Arc::new(Adapter::read_hashed(bytes, found, None, &table())?);
        let mut lru = self.inner.lru();
        lru.insert_held(key, Arc::clone(&adapter), adapter.report.bytes as u64);
        lru.evict();
        drop(lru);
        Ok(self.held(key, adapter))
    }

    /// The hashes of all adapters, newest first. One that was checked against two models is named twice.
    pub fn adapters(&self) -> Vec<Sha256Digest> {
        let keys = self.inner.lru().newest();
        keys.into_iter().map(|key| key.adapter).collect()
    }

    pub fn usage(&self) -> LruUsage {
        self.inner.lru().usage()
    }

    fn present(&self, key: Key) -> Option<HostAdapter> {
        let adapter = self.inner.lru().hold(&key).cloned()?;
        Some(self.held(key, adapter))
    }

    /// Only for an adapter whose holder was counted.
    fn held(&self, key: Key, adapter: Arc<Adapter>) -> HostAdapter {
        HostAdapter {
            inner: Arc::clone(&self.inner),
            key,
            adapter,
        }
    }
}

impl Inner {
    /// The index is whole between two calls of its methods, so a panic elsewhere does not make it unusable.
    fn lru(&self) -> MutexGuard<'_, Lru<Key, Arc<Adapter>>> {
        self.lru.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Read and not mapped: pages of a map may be dropped again, and the file may be.
fn read(path: &Path, is_pinned: bool) -> std::result::Result<Bytes, NotRead> {
    let rotten = |error: io::Error| NotRead::Rotten(error.to_string());
    let (mut file, length) = open(path).map_err(rotten)?;
    if is_pinned {
        let mut pinned = Pinned::new(length)?;
        file.read_exact(pinned.as_mut()).map_err(rotten)?;
        return Ok(Bytes::from_owner(pinned));
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).map_err(rotten)?;
    Ok(bytes.into())
}

fn open(path: &Path) -> io::Result<(File, usize)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > Limits::ADAPTER.file_bytes_max {
        let reason = format!("it has {length} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    usize::try_from(length)
        .map(|length| (file, length))
        .map_err(io::Error::other)
}

/// Page-locked bytes, which only libtorch can make.
struct Pinned {
    memory: Tensor,
    length: usize,
}

impl Pinned {
    fn new(length: usize) -> Result<Self> {
        let memory = Tensor::f_zeros([length as i64], (Kind::Uint8, Device::Cpu))?;
        // Which GPU does not matter: page-locked is page-locked for all.
        let memory = memory.f_pin_memory(Device::Cuda(0))?;
        Ok(Self { memory, length })
    }
}

#[allow(unsafe_code, reason = "a tensor's memory as bytes")]
impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: a contiguous tensor of `length` bytes on the CPU, which this owns and nobody else has a share of.
        unsafe {
            std::slice::from_raw_parts(self.memory.data_ptr().cast_const().cast(), self.length)
        }
    }
}

#[allow(unsafe_code, reason = "a tensor's memory as bytes")]
impl AsMut<[u8]> for Pinned {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.data_ptr().cast(), self.length) }
    }
}
