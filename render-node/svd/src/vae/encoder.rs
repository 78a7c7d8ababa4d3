use flowai_model::config::VaeConfig;
use tch::Tensor;

use crate::error::Result;
use crate::nn::{After, AttentionBlock, Conv2d, GroupNorm, ResnetBlock2D, from_maps, to_maps};
use crate::params::{Params, Scope};

const EPS: f64 = 1e-6;

/// Resnets, then half the size unless it is the last block.
#[derive(Debug)]
pub struct EncoderDownBlock {
    resnets: Vec<ResnetBlock2D>,
    downsampler: Option<Conv2d>,
}

impl EncoderDownBlock {
    pub fn load(
        scope: &Scope<'_>,
        in_channels: usize,
        out_channels: usize,
        layers: usize,
        downsamples: bool,
    ) -> Result<Self> {
        let resnets = (0..layers).map(|j| {
            let input = if j == 0 { in_channels } else { out_channels };
            let scope = scope.at(format_args!("resnets.{j}"));
            ResnetBlock2D::load(&scope, input, out_channels, false, EPS)
        });
        let downsampler = || Conv2d::load(&scope.at("downsamplers.0.conv"), 2, 0);
        Ok(Self {
            resnets: resnets.collect::<Result<_>>()?,
            downsampler: downsamples.then(downsampler).transpose()?,
        })
    }

    /// (B, F, H, W, in) to (B, F, H/2, W/2, out), or (B, F, H, W, out) in the last block.
    pub fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for resnet in &self.resnets {
            x = resnet.forward(&x, None)?;
        }
        if let Some(conv) = &self.downsampler {
            // One row below and one column to the right, nothing above and to the left.
            x = conv.forward(&x.f_constant_pad_nd([0, 0, 0, 1, 0, 1])?)?;
        }
        Ok(x)
    }
}

/// The encoder half of diffusers' `AutoencoderKLTemporalDecoder`, with `quant_conv`.
#[derive(Debug)]
pub struct VaeEncoder {
    conv_in: Conv2d,
    down_blocks: Vec<EncoderDownBlock>,
    mid_resnets: [ResnetBlock2D; 2],
    mid_attention: AttentionBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Conv2d,
    latent_channels: i64,
}

impl VaeEncoder {
    /// Builds the modules over the parameters `encoder.*` and `quant_conv.*`.
    pub fn load(params: &Params, config: &VaeConfig) -> Result<Self> {
        let root = params.root();
        let scope = root.at("encoder");
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let down_blocks = (0..channels.len()).map(|i| {
            EncoderDownBlock::load(
                &scope.at(format_args!("down_blocks.{i}")),
                channels[i.saturating_sub(1)],
                channels[i],
                config.layers_per_block,
                i < last,
            )
        });
        let mid_resnet = |j: usize| {
            let scope = scope.at(format_args!("mid_block.resnets.{j}"));
            ResnetBlock2D::load(&scope, channels[last], channels[last], false, EPS)
        };
        Ok(Self {
            conv_in: Conv2d::load(&scope.at("conv_in"), 1, 1)?,
            down_blocks: down_blocks.collect::<Result<_>>()?,
            mid_resnets: [mid_resnet(0)?, mid_resnet(1)?],
            mid_attention: AttentionBlock::load(&scope.at("mid_block.attentions.0"))?,
            conv_norm_out: GroupNorm::load(&scope.at("conv_norm_out"), EPS)?,
            conv_out: Conv2d::load(&scope.at("conv_out"), 1, 1)?,
            quant_conv: Conv2d::load(&root.at("quant_conv"), 1, 0)?,
            latent_channels: config.latent_channels as i64,
        })
    }

    /// Pictures (N, 3, H, W) in -1..1 to the mean of their latents (N, L, H/8, W/8), not scaled.
    ///
    /// 8 stands for `2^(levels - 1)`.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let mut hidden = self.conv_in.forward(&to_maps(&pictures.f_unsqueeze(1)?)?)?;
        for block in &self.down_blocks {
            hidden = block.forward(hidden)?;
        }
        let [first, second] = &self.mid_resnets;
        hidden = first.forward(&hidden, None)?;
        hidden = self.mid_attention.forward(&hidden)?;
        hidden = second.forward(&hidden, None)?;
        hidden = self.conv_norm_out.each_frame(&hidden, After::Silu)?;
        hidden = self.quant_conv.forward(&self.conv_out.forward(&hidden)?)?;
        // The other channels are the variance.
        let mean = from_maps(&hidden.f_narrow(-1, 0, self.latent_channels)?)?;
        Ok(mean.f_squeeze_dim(1)?)
    }
}
