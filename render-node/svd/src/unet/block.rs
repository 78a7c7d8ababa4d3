use flowai_model::config::UnetConfig;
use tch::Tensor;

use super::{Downsample, TransformerContext, TransformerSpatioTemporal, Upsample};
use crate::error::Result;
use crate::nn::{SpatioTemporalResBlock, TimeBiases};
use crate::params::Scope;

/// In a block of either direction, transformers follow their resnets one by one, or there are none.
type Transformers = Vec<TransformerSpatioTemporal>;

fn load_transformers(
    scope: &Scope<'_>,
    config: &UnetConfig,
    level: usize,
    count: usize,
) -> Result<Transformers> {
    let level = &config.levels[level];
    (0..count)
        .map(|j| {
            TransformerSpatioTemporal::load(
                &scope.at(format_args!("attentions.{j}")),
                level.channels,
                level.heads,
                level.transformer_layers,
            )
        })
        .collect()
}

fn contexts(
    transformers: &Transformers,
    image_embeds: &Tensor,
    frames: i64,
) -> Result<Vec<TransformerContext>> {
    transformers
        .iter()
        .map(|transformer| transformer.context(image_embeds, frames))
        .collect()
}

fn biases(resnets: &[SpatioTemporalResBlock], times: &Tensor) -> Result<Vec<TimeBiases>> {
    resnets.iter().map(|resnet| resnet.biases(times)).collect()
}

/// `down_blocks.I`: resnets, with transformers or without, then half the size unless it is the coarsest level.
#[derive(Debug)]
pub struct DownBlock {
    resnets: Vec<SpatioTemporalResBlock>,
    attentions: Transformers,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    /// Block `i` of `config`, whose parameters lie at `scope`.
    pub fn load(scope: &Scope<'_>, config: &UnetConfig, i: usize) -> Result<Self> {
        let level = &config.levels[i];
        let has_attention = config.down_attention[i];
        let eps = if has_attention { 1e-6 } else { 1e-5 };
        let resnets = (0..level.layers).map(|j| {
            let input = if j > 0 { i } else { i.saturating_sub(1) };
            let input = config.levels[input].channels;
            let scope = scope.at(format_args!("resnets.{j}"));
            SpatioTemporalResBlock::load_unet(&scope, input, level.channels, eps)
        });
        let downsampler = || Downsample::load(&scope.at("downsamplers.0"));
        let transformers = if has_attention { level.layers } else { 0 };
        Ok(Self {
            resnets: resnets.collect::<Result<_>>()?,
            attentions: load_transformers(scope, config, i, transformers)?,
            downsampler: (i + 1 < config.levels.len())
                .then(downsampler)
                .transpose()?,
        })
    }

    /// The constants of its transformers.
    pub fn context(&self, image_embeds: &Tensor, frames: i64) -> Result<Vec<TransformerContext>> {
        contexts(&self.attentions, image_embeds, frames)
    }

    /// What the time adds in its resnets: `times` of (N, T).
    pub fn biases(&self, times: &Tensor) -> Result<Vec<TimeBiases>> {
        biases(&self.resnets, times)
    }

    /// (B, F, H, W, in) to the next level's input; every intermediate result is pushed onto `skips`.
    pub fn forward(
        &self,
        mut x: Tensor,
        biases: &[TimeBiases],
        contexts: &[TransformerContext],
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for (j, (resnet, biases)) in self.resnets.iter().zip(biases).enumerate() {
            x = resnet.forward(x, Some(biases))?;
            if let (Some(attention), Some(context)) = (self.attentions.get(j), contexts.get(j)) {
                x = attention.forward(&x, context)?;
            }
            skips.push(x.shallow_clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
            skips.push(x.shallow_clone());
        }
        Ok(x)
    }
}

/// `mid_block`: resnet, transformer, resnet at the coarsest level.
#[derive(Debug)]
pub struct MidBlock {
    resnets: [SpatioTemporalResBlock; 2],
    attentions: Transformers,
}

impl MidBlock {
    pub fn load(scope: &Scope<'_>, config: &UnetConfig) -> Result<Self> {
        let coarsest = config.levels.len() - 1;
        let channels = config.levels[coarsest].channels;
        let resnet = |j: usize| {
            let scope = scope.at(format_args!("resnets.{j}"));
            SpatioTemporalResBlock::load_unet(&scope, channels, channels, 1e-5)
        };
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            attentions: load_transformers(scope, config, coarsest, 1)?,
        })
    }

    /// The constants of its transformer.
    pub fn context(&self, image_embeds: &Tensor, frames: i64) -> Result<Vec<TransformerContext>> {
        contexts(&self.attentions, image_embeds, frames)
    }

    /// What the time adds in its resnets: `times` of (N, T).
    pub fn biases(&self, times: &Tensor) -> Result<Vec<TimeBiases>> {
        biases(&self.resnets, times)
    }

    /// (B, F, H, W, C) to the same.
    pub fn forward(
        &self,
        mut x: Tensor,
        biases: &[TimeBiases],
        contexts: &[TransformerContext],
    ) -> Result<Tensor> {
        let [first, second] = &self.resnets;
        x = first.forward(x, biases.first())?;
        for (attention, context) in self.attentions.iter().zip(contexts) {
            x = attention.forward(&x, context)?;
        }
        second.forward(x, biases.get(1))
    }
}

/// `up_blocks.I`: one resnet more than on the way down, each reading a skip, then the size of the next skip.
#[derive(Debug)]
pub struct UpBlock {
    resnets: Vec<SpatioTemporalResBlock>,
    attentions: Transformers,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    /// Block `i` of `config`, whose parameters lie at `scope`; block 0 is the coarsest.
    pub fn load(scope: &Scope<'_>, config: &UnetConfig, i: usize) -> Result<Self> {
        let coarsest = config.levels.len() - 1;
        let channels = |level: usize| config.levels[level].channels;
        let level = coarsest - i;
        let layers = config.levels[level].layers + 1;
        let resnets = (0..layers).map(|j| {
            let below = if j > 0 {
                level
            } else {
                (level + 1).min(coarsest)
            };
            let skip = if j + 1 < layers {
                level
            } else {
                level.saturating_sub(1)
            };
            let scope = scope.at(format_args!("resnets.{j}"));
            let input = channels(below) + channels(skip);
            SpatioTemporalResBlock::load_unet(&scope, input, channels(level), 1e-6)
        });
        let upsampler = || Upsample::load(&scope.at("upsamplers.0"));
        let transformers = if config.up_attention[i] { layers } else { 0 };
        Ok(Self {
            resnets: resnets.collect::<Result<_>>()?,
            attentions: load_transformers(scope, config, level, transformers)?,
            upsampler: (level > 0).then(upsampler).transpose()?,
        })
    }

    /// The constants of its transformers.
    pub fn context(&self, image_embeds: &Tensor, frames: i64) -> Result<Vec<TransformerContext>> {
        contexts(&self.attentions, image_embeds, frames)
    }

    /// What the time adds in its resnets: `times` of (N, T).
    pub fn biases(&self, times: &Tensor) -> Result<Vec<TimeBiases>> {
        biases(&self.resnets, times)
    }

    /// (B, F, H, W, in) to the next finer level's input. Pops as many `skips` as it has resnets.
    pub fn forward(
        &self,
        mut x: Tensor,
        biases: &[TimeBiases],
        contexts: &[TransformerContext],
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for (j, (resnet, biases)) in self.resnets.iter().zip(biases).enumerate() {
            if let Some(skip) = skips.pop() {
                x = Tensor::f_cat(&[x, skip], -1)?;
            }
            x = resnet.forward(x, Some(biases))?;
            if let (Some(attention), Some(context)) = (self.attentions.get(j), contexts.get(j)) {
                x = attention.forward(&x, context)?;
            }
        }
        if let (Some(upsampler), Some(skip)) = (&self.upsampler, skips.last()) {
            // Twice the size, or what an odd size was halved from: 135 latent rows have 68 below them.
            let (_, _, height, width, _) = skip.size5()?;
            x = upsampler.forward(&x, height, width)?;
        }
        Ok(x)
    }
}
