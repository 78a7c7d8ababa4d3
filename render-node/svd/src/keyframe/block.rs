use flowai_model::config::stable_diffusion::Unet2dConfig;
use tch::Tensor;

use super::Transformer2d;
use crate::error::Result;
use crate::nn::{CrossContext, ResnetBlock2D};
use crate::params::Scope;
use crate::unet::{Downsample, Upsample};

/// The constants of a block's transformers, one after the other.
pub(super) type BlockContext = Vec<Vec<CrossContext>>;

/// In a block of either direction, transformers follow their resnets one by one, or there are none.
#[derive(Debug)]
struct Layers {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Transformer2d>,
}

impl Layers {
    /// Resnets from as many channels as `inputs` says to those of `level`.
    fn load(
        scope: &Scope<'_>,
        config: &Unet2dConfig,
        level: usize,
        inputs: &[usize],
        has_attention: bool,
    ) -> Result<Self> {
        let channels = config.levels[level].channels;
        let norms = (config.norm_num_groups, config.norm_eps);
        let resnet = |(j, &input): (usize, &usize)| {
            let scope = scope.at(format_args!("resnets.{j}"));
            ResnetBlock2D::load_grouped(&scope, input, channels, true, norms)
        };
        let transformer = |j| {
            let scope = scope.at(format_args!("attentions.{j}"));
            Transformer2d::load(&scope, config, level)
        };
        let transformers = if has_attention { inputs.len() } else { 0 };
        Ok(Self {
            resnets: inputs
                .iter()
                .enumerate()
                .map(resnet)
                .collect::<Result<_>>()?,
            attentions: (0..transformers).map(transformer).collect::<Result<_>>()?,
        })
    }

    fn context(&self, text: &Tensor) -> Result<BlockContext> {
        let transformers = self.attentions.iter();
        transformers
            .map(|transformer| transformer.context(text))
            .collect()
    }

    fn forward(
        &self,
        j: usize,
        x: &Tensor,
        time: &Tensor,
        context: &BlockContext,
    ) -> Result<Tensor> {
        let resnet = &self.resnets[j];
        let x = resnet.forward(x, Some(&resnet.biases(time)?))?;
        match (self.attentions.get(j), context.get(j)) {
            (Some(attention), Some(context)) => attention.forward(&x, context),
            _ => Ok(x),
        }
    }
}

/// `down_blocks.I`: resnets, with transformers or without, then half the size unless it is the coarsest level.
#[derive(Debug)]
pub(super) struct DownBlock2d {
    layers: Layers,
    downsampler: Option<Downsample>,
}

impl DownBlock2d {
    /// Block `i` of `config`, whose parameters lie at `scope`.
    pub(super) fn load(scope: &Scope<'_>, config: &Unet2dConfig, i: usize) -> Result<Self> {
        let level = &config.levels[i];
        let mut inputs = vec![level.channels; level.layers];
        inputs[0] = config.levels[i.saturating_sub(1)].channels;
        let downsampler = || Downsample::load(&scope.at("downsamplers.0"));
        Ok(Self {
            layers: Layers::load(scope, config, i, &inputs, config.down_attention[i])?,
            downsampler: (i + 1 < config.levels.len())
                .then(downsampler)
                .transpose()?,
        })
    }

    pub(super) fn context(&self, text: &Tensor) -> Result<BlockContext> {
        self.layers.context(text)
    }

    /// (B, 1, H, W, in) to the next level's input; every intermediate result is pushed onto `skips`.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        time: &Tensor,
        context: &BlockContext,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for j in 0..self.layers.resnets.len() {
            x = self.layers.forward(j, &x, time, context)?;
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
pub(super) struct MidBlock2d {
    resnets: [ResnetBlock2D; 2],
    attention: Transformer2d,
}

impl MidBlock2d {
    pub(super) fn load(scope: &Scope<'_>, config: &Unet2dConfig) -> Result<Self> {
        let coarsest = config.levels.len() - 1;
        let channels = config.levels[coarsest].channels;
        let norms = (config.norm_num_groups, config.norm_eps);
        let resnet = |j: usize| {
            let scope = scope.at(format_args!("resnets.{j}"));
            ResnetBlock2D::load_grouped(&scope, channels, channels, true, norms)
        };
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            attention: Transformer2d::load(&scope.at("attentions.0"), config, coarsest)?,
        })
    }

    pub(super) fn context(&self, text: &Tensor) -> Result<Vec<CrossContext>> {
        self.attention.context(text)
    }

    /// (B, 1, H, W, C) to the same.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &[CrossContext],
    ) -> Result<Tensor> {
        let [first, second] = &self.resnets;
        let x = first.forward(x, Some(&first.biases(time)?))?;
        second.forward(
            &self.attention.forward(&x, context)?,
            Some(&second.biases(time)?),
        )
    }
}

/// `up_blocks.I`: one resnet more than on the way down, each reading a skip, then the size of the next skip.
#[derive(Debug)]
pub(super) struct UpBlock2d {
    layers: Layers,
    upsampler: Option<Upsample>,
}

impl UpBlock2d {
    /// Block `i` of `config`, whose parameters lie at `scope`; block 0 is the coarsest.
    pub(super) fn load(scope: &Scope<'_>, config: &Unet2dConfig, i: usize) -> Result<Self> {
        let coarsest = config.levels.len() - 1;
        let channels = |level: usize| config.levels[level].channels;
        let level = coarsest - i;
        let last = config.levels[level].layers;
        let input = |j: usize| {
            let below = match j {
                0 => channels((level + 1).min(coarsest)),
                _ => channels(level),
            };
            // The last skip of a level was taken before its channels changed.
            let skip = if j == last {
                level.saturating_sub(1)
            } else {
                level
            };
            below + channels(skip)
        };
        let inputs: Vec<usize> = (0..=last).map(input).collect();
        let upsampler = || Upsample::load(&scope.at("upsamplers.0"));
        Ok(Self {
            layers: Layers::load(scope, config, level, &inputs, config.up_attention[i])?,
            upsampler: (level > 0).then(upsampler).transpose()?,
        })
    }

    pub(super) fn context(&self, text: &Tensor) -> Result<BlockContext> {
        self.layers.context(text)
    }

    /// (B, 1, H, W, in) to the next finer level's input. Pops as many `skips` as it has resnets.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        time: &Tensor,
        context: &BlockContext,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for j in 0..self.layers.resnets.len() {
            if let Some(skip) = skips.pop() {
                x = Tensor::f_cat(&[x, skip], -1)?;
            }
            x = self.layers.forward(j, &x, time, context)?;
        }
        if let (Some(upsampler), Some(skip)) = (&self.upsampler, skips.last()) {
            // Twice the size, or what an odd size was halved from.
            let (_, _, height, width, _) = skip.size5()?;
            x = upsampler.forward(&x, height, width)?;
        }
        Ok(x)
    }
}
