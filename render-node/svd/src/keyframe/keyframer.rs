//! The keyframe engine of a process: owns a Stable Diffusion model on its device, reads prompts and starts runs.

use std::cell::OnceCell;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use flowai_model::adapter::{Adapter, ModuleTable, TEXT_ENCODER_PREFIX};
use flowai_model::config::stable_diffusion::StableDiffusionConfig;
use flowai_model::{ModelIdentity, StableDiffusionFolder};
use tch::{Device, Kind, Tensor};

use super::sampler::KeyframeSampler;
use super::{KeyframeDecoder, KeyframeRun, KeyframeSpec, TextEncoder, Tokenizer, Unet2d};
use crate::device::{Dtype, elapsed};
use crate::engine::{AdapterUse, DEVICE_TIER_BYTES_MAX, LoadOptions};
use crate::error::Result;
use crate::lora::{AdapterSet, Fuser, StateId};
use crate::params::{Params, Precision};
use crate::random;
use crate::refusal::refusals;
use crate::shim::Inference;
use crate::spec::SpecError;

/// Far over what any model reads: 77 tokens are some 300 letters.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What the picture shall show, and what it shall not.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    /// Empty for nothing in particular. Needs guidance.
    pub negative: String,
}

/// Hides what was asked for: prompts are never logged.
impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prompt(..)")
    }
}

/// A Stable Diffusion model on a device. One thread owns it and everything made by it.
#[derive(Debug)]
pub struct Keyframer {
    folder: StableDiffusionFolder,
    identity: OnceCell<ModelIdentity>,
    options: LoadOptions,
    device: Device,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    pub(super) decoder: KeyframeDecoder,
    pub(super) unet: Unet2d,
    /// Of UNet and text encoder, the latter's behind [`TEXT_ENCODER_PREFIX`].
    params: Params,
    fuser: Fuser,
}

/// A job ready to start: its texts as the model reads them, and the noise.
#[derive(Debug)]
pub struct KeyframeConditioning {
    pub(super) spec: KeyframeSpec,
    /// (1, L, D)
    pub text_embeds: Tensor,
    /// (1, L, D) of the negative prompt; `None` without guidance.
    pub negative_embeds: Option<Tensor>,
    /// (1, C, h, w), of unit variance. May be replaced to compare precisions.
    pub noise: Tensor,
    /// Tokens that did not fit and were cut off the ends of the prompt and the negative one.
    pub tokens_cut: [usize; 2],
    /// Wall time of reading the texts.
    pub text: Duration,
}

impl Keyframer {
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
        let folder = StableDiffusionFolder::check(model_dir)?;
        let config = &folder.config;
        let precision = Precision {
            device,
            kind: options.dtype.kind(),
            rounded_to: None,
        };
        let mut params = Params::load(&folder.unet, precision, |_| true)?;
        let text_params = Params::load(&folder.text_encoder, precision, |_| true)?;
        let decoder_params = Params::load(&folder.vae, precision, KeyframeDecoder::needs)?;
        let text_encoder = TextEncoder::load(&text_params, &config.text_encoder)?;
        let unet = Unet2d::load(&params, &config.unet)?;
        params.adopt(TEXT_ENCODER_PREFIX, text_params);
        Ok(Self {
            identity: options
                .identity
                .clone()
                .map_or_else(OnceCell::new, OnceCell::from),
            device,
            tokenizer: Tokenizer::new(&config.tokenizer)?,
            text_encoder,
            decoder: KeyframeDecoder::load(&decoder_params, &config.vae)?,
            unet,
            params,
            fuser: Fuser::on(device, DEVICE_TIER_BYTES_MAX),
            folder,
            options,
        })
    }

    pub fn config(&self) -> &StableDiffusionConfig {
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

    pub fn dtype(&self) -> Dtype {
        self.options.dtype
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    fn kind(&self) -> Kind {
        self.options.dtype.kind()
    }

    /// Reads an adapter file and resolves its keys in this model; see [`Adapter::open`].
    pub fn read_adapter(&self, path: &Path) -> Result<Adapter> {
        Ok(Adapter::open(path, &self.module_table())?)
    }

    /// The modules that an adapter may change.
    pub fn module_table(&self) -> ModuleTable {
        let config = self.config();
        ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder)
    }

    /// Parameters of UNet and text encoder, the latter's behind [`TEXT_ENCODER_PREFIX`].
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Lets every job prepared and started from now on compute with exactly the adapters of `set`, as
    /// [`crate::Engine::set_adapters`]. Texts that were read before stay as they are: prepare them again.
    pub fn set_adapters(&mut self, set: &AdapterSet) -> Result<()> {
        let _inference = Inference::enter();
        self.fuser.apply(&mut self.params, set)
    }

    /// As [`crate::Engine::limit_device_tier`].
    pub fn limit_device_tier(&mut self, bytes_max: u64) {
        self.fuser.limit_device_tier(bytes_max);
    }

    /// The adapters that are fused now.
    pub fn adapters(&self) -> &[AdapterUse] {
        self.fuser.adapters()
    }

    /// What the engine computes with now. The first call may hash the model.
    pub fn state_id(&self) -> Result<StateId> {
        Ok(StateId::of(self.identity()?.sha256, self.adapters()))
    }

    /// Reads the texts and draws the noise of the job's seed.
    ///
    /// Errors: a spec out of range; a text of over 16 KiB; a negative prompt without guidance, where it would change
    /// nothing.
    pub fn prepare(&self, spec: &KeyframeSpec, prompt: &Prompt) -> Result<KeyframeConditioning> {
        spec.check(self.config())?;
        check_texts(spec, prompt)?;
        refusals(|| self.read(spec, prompt))
    }

    fn read(&self, spec: &KeyframeSpec, prompt: &Prompt) -> Result<KeyframeConditioning> {
        let _inference = Inference::enter();
        let noise = random::draw_latents(spec.seed, &self.latents_shape(spec), self.kind())?;
        let started = Instant::now();
        let tokens = self.tokenizer.encode(&prompt.text)?;
        let negative = self.tokenizer.encode(&prompt.negative)?;
        let text_embeds = self.text_encoder.forward(&tokens)?;
        let negative_embeds = spec
            .has_guidance()
            .then(|| self.text_encoder.forward(&negative))
            .transpose()?;
        Ok(KeyframeConditioning {
            spec: spec.clone(),
            text_embeds,
            negative_embeds,
            noise,
            tokens_cut: [tokens.cut, negative.cut],
            text: self.elapsed(started),
        })
    }

    /// Starts denoising.
    ///
    /// Errors: adapters that were neither applied nor taken out whole ([`Keyframer::set_adapters`]), too little memory.
    pub fn start(&self, conditioning: &KeyframeConditioning) -> Result<KeyframeRun<'_>> {
        self.fuser.require_known()?;
        refusals(|| self.start_run(conditioning))
    }

    fn start_run(&self, conditioning: &KeyframeConditioning) -> Result<KeyframeRun<'_>> {
        let _inference = Inference::enter();
        let spec = &conditioning.spec;
        let sampler = KeyframeSampler::new(
            &self.config().noise_schedule,
            spec.sampler,
            spec.timestep_spacing,
            spec.steps as usize,
        )?;
        let noise = conditioning
            .noise
            .f_to_device(self.device)?
            .f_to_kind(self.kind())?;
        let latents = noise.f_mul_scalar(f64::from(sampler.init_noise_sigma()))?;
        KeyframeRun::new(self, sampler, latents, conditioning)
    }

    /// Time since `started`, when the device has done what it was told by then.
    pub(super) fn elapsed(&self, started: Instant) -> Duration {
        elapsed(self.device, started)
    }

    /// (1, C, h, w)
    fn latents_shape(&self, spec: &KeyframeSpec) -> [i64; 4] {
        let factor = self.config().vae_scale_factor() as i64;
        let channels = self.config().vae.latent_channels as i64;
        let (height, width) = (i64::from(spec.height), i64::from(spec.width));
        [1, channels, height / factor, width / factor]
    }
}

fn check_texts(spec: &KeyframeSpec, prompt: &Prompt) -> std::result::Result<(), SpecError> {
    let texts = [
        ("prompt", &prompt.text),
        ("negative_prompt", &prompt.negative),
    ];
    for (field, text) in texts {
        let bytes = text.len();
        if bytes > TEXT_BYTES_MAX {
            let reason = format!("must be at most {TEXT_BYTES_MAX} bytes long (got {bytes})");
            return Err(SpecError::new(field, reason));
        }
    }
    if !spec.has_guidance() && !prompt.negative.is_empty() {
        let reason = "changes nothing without guidance: set guidance_scale over 1 or leave it out";
        return Err(SpecError::new("negative_prompt", reason));
    }
    Ok(())
}
