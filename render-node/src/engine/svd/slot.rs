//! A place for one model of flowai-svd at a time, with adapters fused into it: the same for clips and for keyframes.

use std::path::Path;
use std::sync::Arc;

use flowai_actors::ids::{ModelId, Sha256};
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::FusedState;
use flowai_actors::spec::AdapterUse;
use flowai_model::adapter::ModuleTable;
use flowai_model::{ModelIdentity, Sha256Digest};
use flowai_svd::lora::HostAdapters;
use flowai_svd::{AdapterSet, Engine, EngineError as SvdError, Keyframer, LoadOptions, StateId};

use super::failure::not_checked;
use super::{SvdOptions, as_written};
use crate::engine::{AdapterFile, EngineError, StageEngine};
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;

/// A model on its device, as far as its adapters are concerned.
pub(super) trait FusedModel: Sized {
    fn load(model_dir: &Path, options: LoadOptions) -> Result<Self, SvdError>;
    fn limit_device_tier(&mut self, bytes_max: u64);
    fn module_table(&self) -> ModuleTable;
    fn set_adapters(&mut self, set: &AdapterSet) -> Result<(), SvdError>;
    fn state_id(&self) -> Result<StateId, SvdError>;
}

#[derive(Debug)]
pub(super) struct Slot<M> {
    options: SvdOptions,
    host: HostAdapters,
    /// Of factors on a GPU.
    device_bytes_max: u64,
    loaded: Option<Loaded<M>>,
}

#[derive(Debug)]
struct Loaded<M> {
    id: ModelId,
    identity: ModelIdentity,
    model: M,
    /// What is fused now, as manifests say it; `None` when the last fusing failed.
    fused: Option<Vec<FusedAdapter>>,
}

impl<M> Slot<M> {
    pub(super) fn new(options: SvdOptions, host: HostAdapters, device_bytes_max: u64) -> Self {
        Self {
            options,
            host,
            device_bytes_max,
            loaded: None,
        }
    }

    /// `None` before the first load, and after one that failed.
    pub(super) fn get(&self) -> Option<&M> {
        self.loaded.as_ref().map(|loaded| &loaded.model)
    }

    pub(super) fn model(&self) -> Result<&M, EngineError> {
        self.get().ok_or_else(not_loaded)
    }

    /// Whether there was one.
    pub(super) fn unload(&mut self) -> bool {
        self.loaded.take().is_some()
    }
}

impl<M: FusedModel> Slot<M> {
    pub(super) fn fused_state(&self) -> Option<FusedState> {
        let loaded = self.loaded.as_ref()?;
        let fused = loaded.fused.as_ref()?;
        // The identity was given when the model was loaded, so nothing is hashed.
        let state = loaded.model.state_id().ok()?.digest();
        let uses = fused.iter().map(|adapter| AdapterUse {
            sha256: adapter.sha256,
            weight: adapter.weight,
        });
        Some(FusedState {
            model: loaded.id.clone(),
            state: Sha256::from_bytes(*state.as_bytes()),
            adapters: uses.collect(),
        })
    }
}

impl<M: FusedModel> StageEngine for Slot<M> {
    fn load(&mut self, model: &LocalModel) -> Result<(), EngineError> {
        let is_loaded = |loaded: &Loaded<M>| loaded.identity == model.identity;
        if self.loaded.as_ref().is_some_and(is_loaded) {
            return Ok(());
        }
        require_unchanged(model)?;
        // Before the other is loaded: two may not fit.
        self.unload();
        let options = LoadOptions {
            dtype: self.options.dtype,
            device: self.options.device,
            threads: Some(self.options.threads),
            identity: Some(model.identity.clone()),
        };
        let mut loaded = M::load(&model.dir, options)?;
        loaded.limit_device_tier(self.device_bytes_max);
        self.loaded = Some(Loaded {
            id: model.id.clone(),
            identity: model.identity.clone(),
            model: loaded,
            fused: Some(Vec::new()),
        });
        Ok(())
    }

    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        let loaded = self.loaded.as_mut().ok_or_else(not_loaded)?;
        if let Some(fused) = loaded.fused.as_ref().filter(|fused| are(fused, adapters)) {
            return Ok(fused.clone());
        }
        loaded.fused = None;
        let mut set = Vec::new();
        let mut held = Vec::new();
        let mut fused = Vec::new();
        let model = loaded.identity.sha256;
        for file in adapters {
            let sha256 = Sha256Digest::from_bytes(*file.sha256.as_bytes());
            let table = || loaded.model.module_table();
            let read = self.host.hold(model, sha256, file.path, table);
            let read = read.map_err(|error| not_checked(file.sha256, error))?;
            let adapter = Arc::clone(read.adapter());
            held.push(read);
            fused.push(FusedAdapter {
                sha256: file.sha256,
                weight: file.weight,
                modules: count(adapter.report.modules),
                noop_modules: count(adapter.report.noop_modules),
            });
            set.push((adapter, as_written(file.weight)));
        }
        // The order of fusing.
        fused.sort_by_key(|adapter| adapter.sha256);
        let set = AdapterSet::new(set).map_err(SvdError::from)?;
        loaded.model.set_adapters(&set)?;
        loaded.fused = Some(fused.clone());
        Ok(fused)
    }
}

impl FusedModel for Engine {
    fn load(model_dir: &Path, options: LoadOptions) -> Result<Self, SvdError> {
        Self::load(model_dir, options)
    }

    fn limit_device_tier(&mut self, bytes_max: u64) {
        self.limit_device_tier(bytes_max);
    }

    fn module_table(&self) -> ModuleTable {
        ModuleTable::of(&self.config().unet)
    }

    fn set_adapters(&mut self, set: &AdapterSet) -> Result<(), SvdError> {
        self.set_adapters(set)
    }

    fn state_id(&self) -> Result<StateId, SvdError> {
        self.state_id()
    }
}

impl FusedModel for Keyframer {
    fn load(model_dir: &Path, options: LoadOptions) -> Result<Self, SvdError> {
        Self::load(model_dir, options)
    }

    fn limit_device_tier(&mut self, bytes_max: u64) {
        self.limit_device_tier(bytes_max);
    }

    fn module_table(&self) -> ModuleTable {
        self.module_table()
    }

    fn set_adapters(&mut self, set: &AdapterSet) -> Result<(), SvdError> {
        self.set_adapters(set)
    }

    fn state_id(&self) -> Result<StateId, SvdError> {
        self.state_id()
    }
}

/// The hash names files as they were; a clip of other files would have a false manifest.
fn require_unchanged(model: &LocalModel) -> Result<(), EngineError> {
    let unusable = |detail: String| {
        JobFailure::new(
            FailureCode::ModelUnusable,
            format!("model {}: {detail}", model.id),
        )
    };
    match model.is_unchanged() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let detail = "files have changed since the node started; start it again";
            Err(unusable(detail.to_owned()).into())
        }
        Err(error) => Err(unusable(error.to_string()).into()),
    }
}

fn not_loaded() -> EngineError {
    JobFailure::new(FailureCode::EngineFailed, "no model is loaded").into()
}

/// Whether these are fused, with these weights, in whatever order the job names them.
fn are(fused: &[FusedAdapter], adapters: &[AdapterFile<'_>]) -> bool {
    let is_there = |file: &AdapterFile<'_>| {
        let same = |f: &FusedAdapter| {
            f.sha256 == file.sha256 && f.weight.to_bits() == file.weight.to_bits()
        };
        fused.iter().any(same)
    };
    fused.len() == adapters.len() && adapters.iter().all(is_there)
}

fn count(modules: usize) -> u32 {
    u32::try_from(modules).unwrap_or(u32::MAX)
}
