//! The spatio-temporal UNet: noisy latents in, the model's prediction out.

mod block;
mod context;
mod resample;
mod transformer;

pub use block::{DownBlock, MidBlock, UpBlock};
pub use context::{TransformerContext, UnetContext, UnetTimes};
pub use resample::{Downsample, Upsample};
pub use transformer::{TemporalTransformerBlock, TransformerBlock, TransformerSpatioTemporal};

use flowai_model::config::UnetConfig;
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::nn::{After, Conv2d, GroupNorm, TimestepEmbedding, from_maps, sinusoid, to_maps};
use crate::params::{Params, Scope};

/// diffusers' `UNetSpatioTemporalConditionModel`.
#[derive(Debug)]
pub struct Unet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    time_channels: i64,
    add_time_channels: i64,
    kind: Kind,
}

impl Unet {
    /// Builds the modules over `params`, which must be those of the inventory of `config` that [`Unet::needs`].
    pub fn load(params: &Params, config: &UnetConfig) -> Result<Self> {
        let scope = params.root();
        let conv_in = Conv2d::load(&scope.at("conv_in"), 1, 1)?;
        Ok(Self {
            conv_in,
            time_embedding: TimestepEmbedding::load(&scope.at("time_embedding"))?,
            add_embedding: TimestepEmbedding::load(&scope.at("add_embedding"))?,
            down_blocks: down_blocks(&scope, config)?,
            mid_block: MidBlock::load(&scope.at("mid_block"), config)?,
            up_blocks: up_blocks(&scope, config)?,
            conv_norm_out: GroupNorm::load(&scope.at("conv_norm_out"), 1e-5)?,
            conv_out: Conv2d::load(&scope.at("conv_out"), 1, 1)?,
            time_channels: config.levels[0].channels as i64,
            add_time_channels: config.addition_time_embed_dim as i64,
            kind: params.kind(),
        })
    }

    /// Whether the parameter changes anything: queries of cross-attention, which has one key, do not.
    pub fn needs(name: &str) -> bool {
        let no_op = [".attn2.to_q.", ".attn2.to_k."];
        let query_norm = name.contains("transformer_blocks.") && name.contains(".norm2.");
        !query_norm && !no_op.iter().any(|part| name.contains(part))
    }

    /// What stays the same in all steps of a job with these image embeddings and so many frames.
    ///
    /// `image_embeds`: (B, D), one row for each clip of the batch. Must be made anew when adapters change.
    pub fn context(&self, image_embeds: &Tensor, frames: i64) -> Result<UnetContext> {
        let down = self.down_blocks.iter();
        let up = self.up_blocks.iter();
        Ok(UnetContext {
            down: down
                .map(|block| block.context(image_embeds, frames))
                .collect::<Result<_>>()?,
            mid: self.mid_block.context(image_embeds, frames)?,
            up: up
                .map(|block| block.context(image_embeds, frames))
                .collect::<Result<_>>()?,
        })
    }

    /// What the time adds everywhere at each of a job's steps. Must be made anew when adapters change.
    ///
    /// `timesteps`: the model's continuous times. `added_time_ids`: (R, 3) of fps - 1, motion bucket and noise strength, where
    /// R is 1 when all clips of the batch have the same, else B.
    pub fn times(&self, timesteps: &[f32], added_time_ids: &Tensor) -> Result<UnetTimes> {
        let rows = added_time_ids.size2()?.0;
        let steps = timesteps.len() as i64;
        let timesteps = Tensor::f_from_slice(timesteps)?.f_to_device(added_time_ids.device())?;
        let timesteps = sinusoid(&timesteps, self.time_channels)?.f_to_kind(self.kind)?;
        let added = sinusoid(&added_time_ids.f_reshape([-1])?, self.add_time_channels)?
            .f_view([rows, -1])?
            .f_to_kind(self.kind)?;
        let of_steps = self.time_embedding.forward(&timesteps)?.f_unsqueeze(1)?;
        let of_clips = self.add_embedding.forward(&added)?.f_unsqueeze(0)?;
        let embeddings = of_steps
            .f_add(&of_clips)?
            .f_view([steps * rows, -1])?
            .f_silu_()?;
        let (down, up) = (self.down_blocks.iter(), self.up_blocks.iter());
        Ok(UnetTimes {
            down: down
                .map(|block| block.biases(&embeddings))
                .collect::<Result<_>>()?,
            mid: self.mid_block.biases(&embeddings)?,
            up: up
                .map(|block| block.biases(&embeddings))
                .collect::<Result<_>>()?,
            rows,
        })
    }

    /// One prediction.
    ///
    /// `sample`: (B, F, in, H, W), noise channels before image channels. `step`: an index into `times` of [`Unet::times`].
    /// `context`: of [`Unet::context`], for the same B and F. Returns (B, F, out, H, W).
    pub fn forward(
        &self,
        sample: &Tensor,
        times: &UnetTimes,
        step: usize,
        context: &UnetContext,
    ) -> Result<Tensor> {
        let time = times.at(step)?;
        let mut hidden = self.conv_in.forward(&to_maps(sample)?)?;
        let mut skips = vec![hidden.shallow_clone()];
        let down = self.down_blocks.iter().zip(&time.down);
        for ((block, biases), context) in down.zip(&context.down) {
            hidden = block.forward(hidden, biases, context, &mut skips)?;
        }
        hidden = self.mid_block.forward(hidden, &time.mid, &context.mid)?;
        let up = self.up_blocks.iter().zip(&time.up);
        for ((block, biases), context) in up.zip(&context.up) {
            hidden = block.forward(hidden, biases, context, &mut skips)?;
        }
        hidden = self.conv_norm_out.each_frame(&hidden, After::Silu)?;
        from_maps(&self.conv_out.forward(&hidden)?)
    }
}

fn down_blocks(scope: &Scope<'_>, config: &UnetConfig) -> Result<Vec<DownBlock>> {
    (0..config.levels.len())
        .map(|i| DownBlock::load(&scope.at(format_args!("down_blocks.{i}")), config, i))
        .collect()
}

fn up_blocks(scope: &Scope<'_>, config: &UnetConfig) -> Result<Vec<UpBlock>> {
    (0..config.levels.len())
        .map(|i| UpBlock::load(&scope.at(format_args!("up_blocks.{i}")), config, i))
        .collect()
}
