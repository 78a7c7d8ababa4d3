use flowai_model::config::stable_diffusion::Unet2dConfig;
use tch::{Device, Kind, Tensor};

use super::block::{BlockContext, DownBlock2d, MidBlock2d, UpBlock2d};
use crate::error::Result;
use crate::nn::{
    After, Conv2d, CrossContext, GroupNorm, TimestepEmbedding, from_maps, sinusoid, to_maps,
};
use crate::params::Params;

/// diffusers' `UNet2DConditionModel`.
#[derive(Debug)]
pub struct Unet2d {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock2d>,
    mid_block: MidBlock2d,
    up_blocks: Vec<UpBlock2d>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    time_channels: i64,
    device: Device,
    kind: Kind,
}

/// The constants of a job: keys and values of its texts in every transformer.
#[derive(Debug)]
pub struct Unet2dContext {
    down: Vec<BlockContext>,
    mid: Vec<CrossContext>,
    up: Vec<BlockContext>,
}

impl Unet2d {
    /// Builds the modules over `params`, which must be those of the inventory of `config`.
    pub fn load(params: &Params, config: &Unet2dConfig) -> Result<Self> {
        let scope = params.root();
        let levels = 0..config.levels.len();
        let down = |i| DownBlock2d::load(&scope.at(format_args!("down_blocks.{i}")), config, i);
        let up = |i| UpBlock2d::load(&scope.at(format_args!("up_blocks.{i}")), config, i);
        let norm_out = scope.at("conv_norm_out");
        Ok(Self {
            conv_in: Conv2d::load(&scope.at("conv_in"), 1, 1)?,
            time_embedding: TimestepEmbedding::load(&scope.at("time_embedding"))?,
            down_blocks: levels.clone().map(down).collect::<Result<_>>()?,
            mid_block: MidBlock2d::load(&scope.at("mid_block"), config)?,
            up_blocks: levels.map(up).collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load_grouped(
                &norm_out,
                config.norm_num_groups,
                config.norm_eps,
            )?,
            conv_out: Conv2d::load(&scope.at("conv_out"), 1, 1)?,
            time_channels: config.levels[0].channels as i64,
            device: params.device(),
            kind: params.kind(),
        })
    }

    /// What stays the same in all steps of a job with text embeddings (B, L, D). Must be made anew when adapters change.
    pub fn context(&self, text: &Tensor) -> Result<Unet2dContext> {
        let down = self.down_blocks.iter();
        let up = self.up_blocks.iter();
        Ok(Unet2dContext {
            down: down
                .map(|block| block.context(text))
                .collect::<Result<_>>()?,
            mid: self.mid_block.context(text)?,
            up: up.map(|block| block.context(text)).collect::<Result<_>>()?,
        })
    }

    /// The time embedding of a step after its SiLU, as every block reads it: (1, T).
    pub fn time(&self, timestep: f32) -> Result<Tensor> {
        let timestep = Tensor::f_from_slice(&[timestep])?.f_to_device(self.device)?;
        let timestep = sinusoid(&timestep, self.time_channels)?.f_to_kind(self.kind)?;
        Ok(self.time_embedding.forward(&timestep)?.f_silu_()?)
    }

    /// One prediction for latents (B, in, H, W): (B, out, H, W).
    ///
    /// `time`: of [`Unet2d::time`]. `context`: of [`Unet2d::context`], for the same B.
    pub fn forward(
        &self,
        latents: &Tensor,
        time: &Tensor,
        context: &Unet2dContext,
    ) -> Result<Tensor> {
        let mut hidden = self.conv_in.forward(&to_maps(&latents.f_unsqueeze(1)?)?)?;
        let mut skips = vec![hidden.shallow_clone()];
        for (block, context) in self.down_blocks.iter().zip(&context.down) {
            hidden = block.forward(hidden, time, context, &mut skips)?;
        }
        hidden = self.mid_block.forward(&hidden, time, &context.mid)?;
        for (block, context) in self.up_blocks.iter().zip(&context.up) {
            hidden = block.forward(hidden, time, context, &mut skips)?;
        }
        hidden = self.conv_norm_out.each_frame(&hidden, After::Silu)?;
        Ok(from_maps(&self.conv_out.forward(&hidden)?)?.f_squeeze_dim(1)?)
    }
}
