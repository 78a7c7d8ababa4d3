//! The engine of a process: owns the model on its device, prepares jobs and starts runs.

use std::cell::OnceCell;
use std::path::Path;
use std::time::{Duration, Instant};

use flowai_model::config::{ModelConfig, PreprocessorConfig};
use flowai_model::{ModelFolder, ModelIdentity, Sha256Digest};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointHeader};
use crate::clip::ClipVision;
use crate::device::{DeviceClass, DeviceName, Dtype, elapsed, keep_freed_memory};
use crate::error::Result;
use crate::lora::Fuser;
use crate::params::{Params, Precision};
use crate::preprocess::Picture;
use crate::random;
use crate::refusal::refusals;
use crate::run::Run;
use crate::sampler::Sampler;
use crate::shim::Inference;
use crate::spec::Spec;
use crate::unet::Unet;
use crate::vae::{VaeDecoder, VaeEncoder};

/// Of factors of adapters that stay on a GPU until [`Engine::limit_device_tier`] says otherwise: some 75 of rank 16.
pub(crate) const DEVICE_TIER_BYTES_MAX: u64 = 1 << 30;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub dtype: Dtype,
    pub device: DeviceName,
    /// Threads of the CPU kernels, for the whole process; `None` leaves libtorch's choice.
    pub threads: Option<usize>,
    /// The model's identity where the caller has hashed it already; else it is hashed when a checkpoint needs it.
    pub identity: Option<ModelIdentity>,
}

impl LoadOptions {
    /// Prepares the process for a model, and gives the device.
    pub(crate) fn open_device(&self) -> Result<Device> {
        let device = self.device.open()?;
        if device == Device::Cpu {
            keep_freed_memory();
        }
        if let Some(threads) = self.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        Ok(device)
    }
}

/// An adapter that is fused into the weights, and how strongly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterUse {
    pub sha256: Sha256Digest,
    pub weight: f64,
}

/// A model on a device. One thread owns it and everything made by it.
#[derive(Debug)]
pub struct Engine {
    folder: ModelFolder,
    identity: OnceCell<ModelIdentity>,
    options: LoadOptions,
    device: Device,
    /// Looked up when a checkpoint needs it: on a GPU a program must run to name it.
    device_class: OnceCell<DeviceClass>,
    clip: ClipVision,
    vae_encoder: VaeEncoder,
    vae_encoder_kind: Kind,
    pub(crate) vae_decoder: VaeDecoder,
    pub(crate) unet: Unet,
    pub(crate) unet_params: Params,
    pub(crate) fuser: Fuser,
}

/// A job ready to start: what was computed from the picture, and the noise.
#[derive(Debug)]
pub struct Conditioning {
    pub(crate) spec: Spec,
    /// (1, D), what CLIP sees in the picture.
    pub image_embeds: Tensor,
    /// (1, L, h, w), the picture with its noise as latents, not scaled.
    pub image_latents: Tensor,
    /// (1, F, L, h, w), of unit variance. May be replaced to compare precisions.
    pub noise: Tensor,
    pub timings: PrepareTimings,
}

/// Wall time of the stages of [`Engine::prepare`].
#[derive(Debug, Clone, Copy)]
pub struct PrepareTimings {
    pub clip: Duration,
    pub vae_encode: Duration,
}

impl Engine {
    /// Checks a model folder and brings its weights to the device.
    ///
    /// Errors: a folder that is not complete or not supported (every fault is named), a device that is not there, too little
    /// memory.
    pub fn load(model_dir: &Path, options: LoadOptions) -> Result<Self> {
        refusals(|| Self::load_here(model_dir, options))
    }

    fn load_here(model_dir: &Path, options: LoadOptions) -> Result<Self> {
        let _inference = Inference::enter();
        let device = options.open_device()?;
        let folder = ModelFolder::check(model_dir)?;
        let config = &folder.config;
        let kind = options.dtype.kind();
        let precision = Precision {
            device,
            kind,
            rounded_to: None,
        };
        // The reference encodes in fp32 with the weights of its fp16 VAE.
        let encoder_precision = if kind == Kind::Half && config.vae.force_upcast {
            Precision {
                kind: Kind::Float,
                rounded_to: Some(Kind::Half),
                ..precision
            }
        } else {
            precision
        };
        let is_decoder = |name: &str| name.starts_with("decoder.");

        let unet_params = Params::load(&folder.unet, precision, Unet::needs)?;
        let clip_params = Params::load(&folder.image_encoder, precision, |_| true)?;
        let encoder_params =
            Params::load(&folder.vae, encoder_precision, |name| !is_decoder(name))?;
        let decoder_params = Params::load(&folder.vae, precision, is_decoder)?;
        Ok(Self {
            identity: options
                .identity
                .clone()
                .map_or_else(OnceCell::new, OnceCell::from),
            device,
            clip: ClipVision::load(&clip_params, &config.image_encoder)?,
            vae_encoder: VaeEncoder::load(&encoder_params, &config.vae)?,
            vae_encoder_kind: encoder_precision.kind,
            vae_decoder: VaeDecoder::load(&decoder_params, &config.vae)?,
            unet: Unet::load(&unet_params, &config.unet)?,
            unet_params,
            fuser: Fuser::on(device, DEVICE_TIER_BYTES_MAX),
            device_class: OnceCell::new(),
            folder,
            options,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.folder.config
    }

    /// The model's hash. The first call may read the whole folder.
    pub fn identity(&self) -> Result<&ModelIdentity> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let identity = self.folder.identify()?;
        Ok(self.identity.get_or_init(|| identity))
    }

    /// Where bits are equal: runs of one class can be resumed in another process of it.
    ///
    /// Errors: nobody can say which GPU it is.
    fn device_class(&self) -> Result<String> {
        if let Some(class) = self.device_class.get() {
            return Ok(class.text_here());
        }
        let class = self.options.device.class()?;
        Ok(self.device_class.get_or_init(|| class).text_here())
    }

    /// The adapters that are fused now.
    pub fn adapters(&self) -> &[AdapterUse] {
        self.fuser.adapters()
    }

    /// The UNet's parameters by their names in diffusers.
    pub fn unet_params(&self) -> &Params {
        &self.unet_params
    }

    pub fn dtype(&self) -> Dtype {
        self.options.dtype
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    pub(crate) fn kind(&self) -> Kind {
        self.options.dtype.kind()
    }

    /// Looks at the picture, encodes it, and draws the noise of the job's seed.
    ///
    /// Errors: a spec out of range, a picture that cannot be scaled.
    pub fn prepare(&self, spec: &Spec, picture: &Picture) -> Result<Conditioning> {
        refusals(|| self.prepare_picture(spec, picture))
    }

    fn prepare_picture(&self, spec: &Spec, picture: &Picture) -> Result<Conditioning> {
        let _inference = Inference::enter();
        spec.check(self.config())?;
        let started = Instant::now();
        let PreprocessorConfig {
            image_mean,
            image_std,
        } = self.config().preprocessor;
        let side = self.config().image_encoder.image_size as i64;
        let clip_pixels = picture.clip_pixels(side, image_mean, image_std)?;
        let preprocess = started.elapsed();
        let vae_pixels = picture.conditioning(spec.width, spec.height)?;
        let mut conditioning = self.prepare_pixels(spec, &clip_pixels, &vae_pixels)?;
        conditioning.timings.clip += preprocess;
        Ok(conditioning)
    }

    /// [`Engine::prepare`] for a picture that was scaled and normalised already.
    ///
    /// `clip_pixels`: (1, 3, side, side) of CLIP's `image_size`, less CLIP's mean, by its deviation. `vae_pixels`:
    /// (1, 3, H, W) in -1..1. Both f32 on the CPU.
    pub fn prepare_pixels(
        &self,
        spec: &Spec,
        clip_pixels: &Tensor,
        vae_pixels: &Tensor,
    ) -> Result<Conditioning> {
        let _inference = Inference::enter();
        spec.check(self.config())?;
        let noise = self.draw(spec)?;
        let started = Instant::now();
        let image_embeds = self.clip.forward(&self.place(clip_pixels, self.kind())?)?;
        let clip = self.elapsed(started);
        let started = Instant::now();
        let noisy = noise
            .picture
            .f_mul_scalar(spec.noise_aug_strength)?
            .f_add_(vae_pixels)?;
        let image_latents = self.encode(&noisy)?;
        let vae_encode = self.elapsed(started);
        Ok(Conditioning {
            spec: spec.clone(),
            image_embeds,
            image_latents,
            noise: noise.latents,
            timings: PrepareTimings { clip, vae_encode },
        })
    }

    /// Starts denoising.
    ///
    /// Errors: adapters that were neither applied nor taken out whole ([`Engine::set_adapters`]), too little memory.
    pub fn start(&self, conditioning: &Conditioning) -> Result<Run<'_>> {
        refusals(|| self.start_run(conditioning))
    }

    fn start_run(&self, conditioning: &Conditioning) -> Result<Run<'_>> {
        let _inference = Inference::enter();
        self.fuser.require_known()?;
        let sampler = self.sampler(&conditioning.spec);
        let noise = self.place(&conditioning.noise, self.kind())?;
        let latents = noise.f_mul_scalar(f64::from(sampler.init_noise_sigma()))?;
        let image = (&conditioning.image_latents, &conditioning.image_embeds);
        Run::new(self, conditioning.spec.clone(), sampler, latents, image, 0)
    }

    /// Goes on from a checkpoint, to the same bits as the run it was made of.
    ///
    /// Errors: another model, set of adapters, dtype, device class or engine version, by name.
    pub fn resume(&self, checkpoint: &Checkpoint) -> Result<Run<'_>> {
        self.fuser.require_known()?;
        refusals(|| self.resume_run(checkpoint))
    }

    fn resume_run(&self, checkpoint: &Checkpoint) -> Result<Run<'_>> {
        let _inference = Inference::enter();
        let header = &checkpoint.header;
        header.spec.check(self.config())?;
        let sampler = self.sampler(&header.spec);
        let here = self.checkpoint_header(&header.spec, header.step, &sampler)?;
        header.require_same(&here)?;
        self.check_shapes(checkpoint)?;
        let place = |x: &Tensor| self.place(x, self.kind());
        let latents = place(&checkpoint.latents)?;
        let image_latents = place(&checkpoint.image_latents)?;
        let image_embeds = place(&checkpoint.image_embeds)?;
        let image = (&image_latents, &image_embeds);
        Run::new(
            self,
            header.spec.clone(),
            sampler,
            latents,
            image,
            header.step,
        )
    }

    pub(crate) fn checkpoint_header(
        &self,
        spec: &Spec,
        step: usize,
        sampler: &Sampler,
    ) -> Result<CheckpointHeader> {
        Ok(CheckpointHeader::new(
            self.identity()?.sha256,
            self.adapters().to_vec(),
            spec.clone(),
            self.dtype(),
            self.device_class()?,
            step,
            sampler.sigmas(),
        ))
    }

    /// Time since `started`, when the device has done what it was told by then.
    pub(crate) fn elapsed(&self, started: Instant) -> Duration {
        elapsed(self.device, started)
    }

    fn sampler(&self, spec: &Spec) -> Sampler {
        Sampler::new(&self.config().scheduler, spec.steps as usize)
    }

    /// (1, F, L, h, w)
    fn latents_shape(&self, spec: &Spec) -> [i64; 5] {
        let factor = self.config().vae_scale_factor() as i64;
        let channels = self.config().vae.latent_channels as i64;
        let (height, width) = (i64::from(spec.height), i64::from(spec.width));
        [
            1,
            i64::from(spec.frames),
            channels,
            height / factor,
            width / factor,
        ]
    }

    fn draw(&self, spec: &Spec) -> Result<random::Noise> {
        let picture_shape = [1, 3, i64::from(spec.height), i64::from(spec.width)];
        random::draw(
            spec.seed,
            &picture_shape,
            &self.latents_shape(spec),
            self.kind(),
        )
    }

    /// Pixels (1, 3, H, W) on the CPU to latents (1, L, h, w) on the device, not scaled.
    pub(crate) fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        let pixels = self.place(pixels, self.vae_encoder_kind)?;
        Ok(self.vae_encoder.forward(&pixels)?.f_to_kind(self.kind())?)
    }

    fn place(&self, x: &Tensor, kind: Kind) -> Result<Tensor> {
        Ok(x.f_to_device(self.device)?.f_to_kind(kind)?)
    }

    fn check_shapes(&self, checkpoint: &Checkpoint) -> Result<()> {
        let latents = self.latents_shape(&checkpoint.header.spec);
        let [batch, _, channels, height, width] = latents;
        let embedding = self.config().image_encoder.projection_dim as i64;
        let check = |name: &str, tensor: &Tensor, shape: &[i64]| {
            let fits = tensor.size() == shape && tensor.f_kind()? == self.kind();
            match fits {
                true => Ok(()),
                false => Err(CheckpointError::Content(format!(
                    "{name} is not of the shape and dtype of its spec"
                ))
                .into()),
            }
        };
        check("latents", &checkpoint.latents, &latents)?;
        let image = [batch, channels, height, width];
        check("image_latents", &checkpoint.image_latents, &image)?;
        check(
            "image_embeds",
            &checkpoint.image_embeds,
            &[batch, embedding],
        )
    }
}
