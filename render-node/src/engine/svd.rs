//! Stable Video Diffusion: flowai-svd behind [`RenderEngine`]. One model is loaded at a time.

use std::path::Path;
use std::sync::Arc;

use flowai_actors::ids::{ModelId, Sha256};
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::{CacheUsage, FusedState, KeptAdapters};
use flowai_actors::spec::{AdapterUse, RenderSpec};
use flowai_model::adapter::{AdapterError, ModuleTable};
use flowai_model::gate::GateError;
use flowai_model::lru::LruUsage;
use flowai_model::safetensors::SafetensorsError;
use flowai_model::{ModelIdentity, Sha256Digest};
use flowai_svd::lora::{HostAdapters, NotRead};
use flowai_svd::{
    AdapterSet, DeviceClass, DeviceName, Dtype, Engine, EngineError as SvdError, LoadOptions,
    Picture, PreprocessError, PreviewMap, Run, Spec,
};

use super::{AdapterFile, EngineError, EngineRun, Holdings, RenderEngine};
use crate::encoder::RgbFrame;
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;
use crate::preview::PreviewMaps;

/// How the engine computes, the same for all models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SvdOptions {
    pub device: DeviceName,
    pub dtype: Dtype,
    /// Of CPU kernels.
    pub threads: usize,
}

impl SvdOptions {
    /// The dtype's name in manifests.
    pub const fn dtype_name(&self) -> &'static str {
        match self.dtype {
            Dtype::Fp32 => "float32",
            Dtype::Fp16 => "float16",
            Dtype::Bf16 => "bfloat16",
        }
    }

    /// What equal bits need on a device of this class; also the version of the kernels decides about them.
    pub fn device_class(&self, class: &DeviceClass) -> String {
        format!(
            "{} libtorch {}",
            class.text(self.threads),
            SvdEngine::LIBTORCH
        )
    }
}

/// Where the engine keeps adapters that are not fused.
#[derive(Debug, Clone)]
pub struct AdapterMemory {
    /// Shared with whoever reads and checks adapters ahead of the engine.
    pub host: HostAdapters,
    /// Of factors on a GPU.
    pub device_bytes_max: u64,
}

/// The engine that renders.
#[derive(Debug)]
pub struct SvdEngine {
    options: SvdOptions,
    memory: AdapterMemory,
    previews: Option<PreviewMaps>,
    loaded: Option<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    model: ModelId,
    identity: ModelIdentity,
    engine: Engine,
    /// `None` for an engine that shows no previews.
    preview_map: Option<PreviewMap>,
    /// What is fused now, as manifests say it; `None` when the last fusing failed.
    fused: Option<Vec<FusedAdapter>>,
}

impl SvdEngine {
    pub const NAME: &str = "svd";
    /// The only version that tch 0.24 builds against.
    pub const LIBTORCH: &str = "2.11.0";

    pub fn new(options: SvdOptions, memory: AdapterMemory) -> Self {
        Self {
            options,
            memory,
            previews: None,
            loaded: None,
        }
    }

    /// Lets it show previews.
    pub fn with_previews(self, maps: PreviewMaps) -> Self {
        Self {
            previews: Some(maps),
            ..self
        }
    }

    fn loaded(&mut self) -> Result<&mut Loaded, EngineError> {
        let not_loaded = || JobFailure::new(FailureCode::EngineFailed, "no model is loaded");
        Ok(self.loaded.as_mut().ok_or_else(not_loaded)?)
    }
}

impl RenderEngine for SvdEngine {
    fn load(&mut self, model: &LocalModel) -> Result<(), EngineError> {
        let is_loaded = |loaded: &Loaded| loaded.identity == model.identity;
        if self.loaded.as_ref().is_some_and(is_loaded) {
            return Ok(());
        }
        require_unchanged(model)?;
        // Before the other is loaded: two may not fit.
        self.loaded = None;
        let options = LoadOptions {
            dtype: self.options.dtype,
            device: self.options.device,
            threads: Some(self.options.threads),
            identity: Some(model.identity.clone()),
        };
        let mut engine = Engine::load(&model.dir, options)?;
        engine.limit_device_tier(self.memory.device_bytes_max);
        let maps = self.previews.as_ref();
        let preview_map = maps.and_then(|maps| maps.of(&model.identity, &engine));
        self.loaded = Some(Loaded {
            model: model.id.clone(),
            identity: model.identity.clone(),
            engine,
            preview_map,
            fused: Some(Vec::new()),
        });
        Ok(())
    }

    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        let host = self.memory.host.clone();
        let loaded = self.loaded()?;
        if let Some(fused) = loaded.fused.as_ref().filter(|fused| are(fused, adapters)) {
            return Ok(fused.clone());
        }
        loaded.fused = None;
        let mut set = Vec::new();
        let mut held = Vec::new();
        let mut fused = Vec::new();
        let model = loaded.identity.sha256;
        let table = || ModuleTable::of(&loaded.engine.config().unet);
        for file in adapters {
            let sha256 = Sha256Digest::from_bytes(*file.sha256.as_bytes());
            let read = host.hold(model, sha256, file.path, table);
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
        loaded.engine.set_adapters(&set)?;
        loaded.fused = Some(fused.clone());
        Ok(fused)
    }

    fn holdings(&self) -> Holdings {
        let Some(loaded) = &self.loaded else {
            return Holdings::default();
        };
        let tier = loaded.engine.device_tier();
        Holdings {
            fused: loaded.fused_state(),
            device: tier.map(|tier| kept(tier.adapters(), tier.usage())),
        }
    }

    fn release_memory(&mut self) {
        if let Err(error) = self.options.device.release_memory() {
            tracing::warn!(%error, "memory of the device was not given back");
        }
    }

    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        image: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        let loaded = self.loaded()?;
        let engine = &loaded.engine;
        let picture = Picture::open(image).map_err(SvdError::from)?;
        let conditioning = engine.prepare(&svd_spec(spec), &picture)?;
        Ok(Box::new(SvdRun {
            run: engine.start(&conditioning)?,
            preview_map: loaded.preview_map.as_ref(),
            width: spec.width,
            height: spec.height,
        }))
    }
}

impl Loaded {
    fn fused_state(&self) -> Option<FusedState> {
        let fused = self.fused.as_ref()?;
        // The identity was given when the model was loaded, so nothing is hashed.
        let state = self.engine.state_id().ok()?.digest();
        let uses = fused.iter().map(|adapter| AdapterUse {
            sha256: adapter.sha256,
            weight: adapter.weight,
        });
        Some(FusedState {
            model: self.model.clone(),
            state: Sha256::from_bytes(*state.as_bytes()),
            adapters: uses.collect(),
        })
    }
}

/// A tier in the words of the link.
pub(crate) fn kept(adapters: Vec<Sha256Digest>, usage: LruUsage) -> KeptAdapters {
    let adapters = adapters.into_iter();
    KeptAdapters {
        adapters: adapters
            .map(|a| Sha256::from_bytes(*a.as_bytes()))
            .collect(),
        usage: cache_usage(usage),
    }
}

pub(crate) fn cache_usage(usage: LruUsage) -> CacheUsage {
    let LruUsage {
        bytes,
        bytes_max,
        hits,
        misses,
        evictions,
    } = usage;
    CacheUsage {
        bytes,
        bytes_max,
        hits,
        misses,
        evictions,
    }
}

struct SvdRun<'a> {
    run: Run<'a>,
    preview_map: Option<&'a PreviewMap>,
    width: u32,
    height: u32,
}

impl EngineRun for SvdRun<'_> {
    fn step(&mut self) -> Result<(), EngineError> {
        self.run.step()?;
        Ok(())
    }

    fn preview(&self) -> Result<Option<Vec<RgbFrame>>, EngineError> {
        let Some(map) = self.preview_map else {
            return Ok(None);
        };
        Ok(self.run.preview(map)?.map(|preview| {
            let (width, height) = (preview.width, preview.height);
            let frames = preview.frames.into_iter();
            frames
                .filter_map(|pixels| RgbFrame::from_raw(width, height, pixels))
                .collect()
        }))
    }

    fn decode(
        &mut self,
        sink: &mut dyn FnMut(RgbFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let (width, height) = (self.width, self.height);
        let frame_bytes = width as usize * height as usize * 3;
        self.run.decode(|chunk| {
            let bytes = chunk.to_rgb8()?;
            for pixels in bytes.chunks(frame_bytes) {
                let frame = RgbFrame::from_raw(width, height, pixels.to_vec());
                let cut = || JobFailure::new(FailureCode::EngineFailed, "engine gave half a frame");
                sink(frame.ok_or_else(cut)?)?;
            }
            Ok(())
        })
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

/// Says which adapter it is about: a job may have eight.
pub(crate) fn not_checked(sha256: Sha256, error: NotRead) -> EngineError {
    let error = match error {
        NotRead::Rotten(reason) => return EngineError::AdapterRotten { sha256, reason },
        NotRead::Unfit(error) => SvdError::from(error),
        NotRead::Engine(error) => error,
    };
    match error.into() {
        EngineError::Failed(JobFailure { code, detail }) => {
            JobFailure::new(code, format!("adapter {sha256}: {detail}")).into()
        }
        other => other,
    }
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

fn svd_spec(spec: &RenderSpec) -> Spec {
    Spec {
        height: spec.height,
        width: spec.width,
        frames: spec.frames,
        steps: spec.steps,
        fps: spec.fps,
        motion_bucket_id: spec.motion_bucket_id,
        noise_aug_strength: as_written(spec.noise_aug_strength),
        min_guidance_scale: as_written(spec.min_guidance_scale),
        max_guidance_scale: as_written(spec.max_guidance_scale),
        decode_chunk_size: spec.decode_chunk_size,
        seed: spec.seed,
    }
}

/// The number that the user wrote: 0.02 as an f32 is 0.0199999995…, but it is written 0.02, and the reference computes with
/// the f64 of that.
fn as_written(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn count(modules: usize) -> u32 {
    u32::try_from(modules).unwrap_or(u32::MAX)
}

impl From<SvdError> for EngineError {
    fn from(error: SvdError) -> Self {
        let code = match &error {
            SvdError::DeviceLost(reason) => return Self::Lost(reason.clone()),
            SvdError::Spec(_) => FailureCode::InvalidSpec,
            SvdError::Image(PreprocessError::Read { .. }) => FailureCode::DiskFailed,
            SvdError::Image(_) => FailureCode::InvalidImage,
            SvdError::Adapter(AdapterError::Gate(GateError::File(SafetensorsError::Read(_)))) => {
                FailureCode::DiskFailed
            }
            SvdError::Adapter(_) | SvdError::Lora(_) => FailureCode::AdapterIncompatible,
            SvdError::NotFinite { .. } => FailureCode::NotFinite,
            SvdError::OutOfMemory(_) => FailureCode::OutOfMemory,
            SvdError::Model(_)
            | SvdError::Weights(_)
            | SvdError::Device(_)
            | SvdError::Tokenizer(_) => FailureCode::ModelUnusable,
            SvdError::Torch(_) => FailureCode::LibtorchFailed,
            SvdError::Checkpoint(_) | SvdError::Finished { .. } | SvdError::Unfinished { .. } => {
                FailureCode::EngineFailed
            }
        };
        JobFailure::new(code, error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowai_model::picture::PictureError;

    #[test]
    fn numbers_are_taken_as_they_are_written() {
        for (number, expected) in [(0.02_f32, 0.02), (3.0, 3.0), (-0.7, -0.7), (1e-7, 1e-7)] {
            assert_eq!(as_written(number), expected);
        }
    }

    #[test]
    fn a_device_class_names_all_that_bits_hang_on() {
        let options = SvdOptions {
            device: DeviceName::Cpu,
            dtype: Dtype::Fp32,
            threads: 3,
        };
        let class = options.device_class(&DeviceClass::Cpu);
        assert!(
            class.starts_with("cpu ") && class.ends_with("threads 3 kernels 2 libtorch 2.11.0")
        );
    }

    #[test]
    fn causes_keep_their_kind() {
        let check = |error: SvdError, expected: FailureCode| match EngineError::from(error) {
            EngineError::Failed(failure) => assert_eq!(failure.code, expected),
            other => panic!("{other:?}"),
        };
        check(
            SvdError::OutOfMemory("CUDA out of memory".into()),
            FailureCode::OutOfMemory,
        );
        check(SvdError::NotFinite { step: 3 }, FailureCode::NotFinite);
        check(
            SvdError::Image(PictureError::NotAPicture.into()),
            FailureCode::InvalidImage,
        );
        let lost = EngineError::from(SvdError::DeviceLost("CUDA error".into()));
        assert!(matches!(lost, EngineError::Lost(_)));
    }
}
