use flowai_model::config::stable_diffusion::AutoencoderConfig;
use tch::Tensor;

use crate::error::Result;
use crate::nn::{
    After, AttentionBlock, Conv2d, GroupNorm, ResnetBlock2D, from_maps, to_maps, upsample_nearest,
};
use crate::params::{Params, Scope};

const EPS: f64 = 1e-6;

/// Resnets, then twice the size unless it is the last block.
#[derive(Debug)]
struct UpDecoderBlock {
    resnets: Vec<ResnetBlock2D>,
    upsampler: Option<Conv2d>,
}

impl UpDecoderBlock {
    fn load(scope: &Scope<'_>, config: &AutoencoderConfig, i: usize) -> Result<Self> {
        let levels = &config.block_out_channels;
        // From latents to pixels.
        let channels = |i: usize| levels[levels.len() - 1 - i];
        let resnets = (0..=config.layers_per_block).map(|j| {
            let input = if j == 0 { i.saturating_sub(1) } else { i };
            let scope = scope.at(format_args!("resnets.{j}"));
            let norms = (config.norm_num_groups, EPS);
            ResnetBlock2D::load_grouped(&scope, channels(input), channels(i), false, norms)
        });
        let upsampler = || Conv2d::load(&scope.at("upsamplers.0.conv"), 1, 1);
        Ok(Self {
            resnets: resnets.collect::<Result<_>>()?,
            upsampler: (i + 1 < levels.len()).then(upsampler).transpose()?,
        })
    }

    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for resnet in &self.resnets {
            x = resnet.forward(&x, None)?;
        }
        if let Some(conv) = &self.upsampler {
            let (_, _, height, width, _) = x.size5()?;
            x = conv.forward(&upsample_nearest(&x, 2 * height, 2 * width)?)?;
        }
        Ok(x)
    }
}

/// The decoder half of diffusers' `AutoencoderKL`, with `post_quant_conv`.
#[derive(Debug)]
pub struct KeyframeDecoder {
    post_quant_conv: Conv2d,
    conv_in: Conv2d,
    mid_resnets: [ResnetBlock2D; 2],
    mid_attention: AttentionBlock,
    up_blocks: Vec<UpDecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl KeyframeDecoder {
    /// Whether the parameter belongs to the decoder: the encoder is not needed to make a picture.
    pub fn needs(name: &str) -> bool {
        name.starts_with("decoder.") || name.starts_with("post_quant_conv.")
    }

    /// Builds the modules over the parameters that [`KeyframeDecoder::needs`].
    pub fn load(params: &Params, config: &AutoencoderConfig) -> Result<Self> {
        let root = params.root();
        let scope = root.at("decoder");
        let levels = &config.block_out_channels;
        let (coarsest, groups) = (levels[levels.len() - 1], config.norm_num_groups);
        let mid_resnet = |j: usize| {
            let scope = scope.at(format_args!("mid_block.resnets.{j}"));
            ResnetBlock2D::load_grouped(&scope, coarsest, coarsest, false, (groups, EPS))
        };
        let up_block = |i| {
            let scope = scope.at(format_args!("up_blocks.{i}"));
            UpDecoderBlock::load(&scope, config, i)
        };
        let attention = scope.at("mid_block.attentions.0");
        Ok(Self {
            post_quant_conv: Conv2d::load(&root.at("post_quant_conv"), 1, 0)?,
            conv_in: Conv2d::load(&scope.at("conv_in"), 1, 1)?,
            mid_resnets: [mid_resnet(0)?, mid_resnet(1)?],
            mid_attention: AttentionBlock::load_grouped(&attention, groups)?,
            up_blocks: (0..levels.len()).map(up_block).collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load_grouped(&scope.at("conv_norm_out"), groups, EPS)?,
            conv_out: Conv2d::load(&scope.at("conv_out"), 1, 1)?,
        })
    }

    /// Latents (N, L, h, w), divided by the scaling factor, to pictures (N, 3, 8h, 8w) in -1..1. Not clamped.
    ///
    /// 8 stands for `2^(levels - 1)`.
    pub fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut hidden = self
            .post_quant_conv
            .forward(&to_maps(&latents.f_unsqueeze(1)?)?)?;
        hidden = self.conv_in.forward(&hidden)?;
        let [first, second] = &self.mid_resnets;
        hidden = first.forward(&hidden, None)?;
        hidden = self.mid_attention.forward(&hidden)?;
        hidden = second.forward(&hidden, None)?;
        for block in &self.up_blocks {
            hidden = block.forward(hidden)?;
        }
        hidden = self.conv_norm_out.each_frame(&hidden, After::Silu)?;
        Ok(from_maps(&self.conv_out.forward(&hidden)?)?.f_squeeze_dim(1)?)
    }
}
