//! Stable Video Diffusion and Stable Diffusion: flowai-svd behind [`RenderEngine`]. One model of each is loaded at a time.

mod failure;
mod keyframe;
mod slot;

use std::path::Path;

use flowai_actors::ids::Sha256;
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::{CacheUsage, KeptAdapters};
use flowai_actors::spec::RenderSpec;
use flowai_model::lru::LruUsage;
use flowai_model::{ModelIdentity, Sha256Digest};
use flowai_svd::lora::HostAdapters;
use flowai_svd::{
    Checkpoint, DeviceClass, DeviceName, Dtype, Engine, EngineError as SvdError, Keyframer,
    Picture, PreviewMap, Run, Spec,
};

use self::slot::Slot;
use super::{
    AdapterFile, EngineError, EngineRun, Holdings, KeyframeEngine, RenderEngine, StageEngine,
};
use crate::encoder::RgbFrame;
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;
use crate::preview::PreviewMaps;

pub(crate) use self::failure::not_checked;

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
            "{} libtorch {} {}",
            class.text(self.threads),
            SvdEngine::LIBTORCH,
            self.dtype_name()
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
    clips: Slot<Engine>,
    /// Stays loaded beside the other between jobs, as long as the memory is not needed.
    keyframes: Slot<Keyframer>,
    device: DeviceName,
    previews: Option<PreviewMaps>,
    /// Of the video model, as far as it could be fitted; `None` before one is loaded.
    preview_map: Option<(ModelIdentity, Option<PreviewMap>)>,
}

impl SvdEngine {
    pub const NAME: &str = "svd";
    /// The only version that tch 0.24 builds against.
    pub const LIBTORCH: &str = "2.11.0";

    pub fn new(options: SvdOptions, memory: AdapterMemory) -> Self {
        let AdapterMemory {
            host,
            device_bytes_max,
        } = memory;
        Self {
            clips: Slot::new(options, host.clone(), device_bytes_max),
            // The whole bound is the video model's. A switch of the keyframe model's adapters takes their factors from host
            // memory, which is little beside the keyframe that follows.
            keyframes: Slot::new(options, host, 0),
            device: options.device,
            previews: None,
            preview_map: None,
        }
    }

    /// Lets it show previews.
    pub fn with_previews(self, maps: PreviewMaps) -> Self {
        Self {
            previews: Some(maps),
            ..self
        }
    }
}

impl StageEngine for SvdEngine {
    fn load(&mut self, model: &LocalModel) -> Result<(), EngineError> {
        self.clips.load(model)?;
        let is_mapped = |(mapped, _): &(ModelIdentity, _)| *mapped == model.identity;
        if let Some(maps) = &self.previews
            && !self.preview_map.as_ref().is_some_and(is_mapped)
        {
            self.preview_map = match maps.of(&model.identity, self.clips.model()?) {
                Ok(map) => Some((model.identity.clone(), Some(map))),
                Err(error @ SvdError::DeviceLost(_)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "no previews: their map cannot be fitted");
                    // Memory may be there for the next job; what else is wrong stays wrong.
                    let may_pass = matches!(error, SvdError::OutOfMemory(_));
                    (!may_pass).then(|| (model.identity.clone(), None))
                }
            };
        }
        Ok(())
    }

    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        self.clips.fuse(adapters)
    }
}

impl RenderEngine for SvdEngine {
    fn keyframes(&mut self) -> Option<&mut dyn KeyframeEngine> {
        Some(&mut self.keyframes)
    }

    fn holdings(&self) -> Holdings {
        let tier = self.clips.get().and_then(Engine::device_tier);
        Holdings {
            fused: self.clips.fused_state(),
            keyframe_fused: self.keyframes.fused_state(),
            device: tier.map(|tier| kept(tier.adapters(), tier.usage())),
        }
    }

    fn release_memory(&mut self) -> bool {
        let was_loaded = self.keyframes.unload();
        if let Err(error) = self.device.release_memory() {
            tracing::warn!(%error, "memory of the device was not given back");
        }
        was_loaded
    }

    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        image: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        let engine = self.clips.model()?;
        let picture = Picture::open(image).map_err(SvdError::from)?;
        let conditioning = engine.prepare(&svd_spec(spec), &picture)?;
        Ok(Box::new(SvdRun {
            run: engine.start(&conditioning)?,
            preview_map: self.preview_map.as_ref().and_then(|(_, map)| map.as_ref()),
            width: spec.width,
            height: spec.height,
        }))
    }

    fn resume<'a>(
        &'a mut self,
        spec: &RenderSpec,
        checkpoint: &Path,
    ) -> Result<(Box<dyn EngineRun + 'a>, u32), EngineError> {
        let bytes = std::fs::read(checkpoint)
            .map_err(|error| JobFailure::new(FailureCode::DiskFailed, error))?;
        let checkpoint = Checkpoint::from_bytes(bytes)?;
        let same_spec = checkpoint.header.require_same_spec(&svd_spec(spec));
        same_spec.map_err(SvdError::Checkpoint)?;
        let run = self.clips.model()?.resume(&checkpoint)?;
        let done = u32::try_from(run.steps_done()).unwrap_or(u32::MAX);
        let run = SvdRun {
            run,
            preview_map: self.preview_map.as_ref().and_then(|(_, map)| map.as_ref()),
            width: spec.width,
            height: spec.height,
        };
        Ok((Box::new(run), done))
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

    fn checkpoint(&self) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(Some(self.run.checkpoint()?.to_bytes()?))
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let processor = flowai_svd::processor_name();
        let expected =
            format!(" threads 3 kernels 2 mkl AUTO on {processor} libtorch 2.11.0 float32");
        assert!(
            class.starts_with("cpu ") && class.ends_with(&expected),
            "{class}"
        );
    }
}
