use flowai_model::config::VaeConfig;
use tch::Tensor;

use crate::error::Result;
use crate::nn::{
    After, AttentionBlock, Conv2d, GroupNorm, ResnetEps, SpatioTemporalResBlock, TemporalConv,
    each_frame_alone, from_maps, to_maps, upsample_nearest,
};
use crate::params::{Params, Scope};

const EPS: ResnetEps = ResnetEps {
    spatial: 1e-6,
    temporal: 1e-5,
};

/// Twice the size, unless it is the first block, then resnets.
///
/// In the reference a block ends with the doubling that begins the next one here. What doubles a frame and what the first
/// resnet does with it look at this frame alone, so the large maps between them, twice as many channels as they will have, are
/// never there of all frames.
#[derive(Debug)]
struct Stage {
    upsampler: Option<Conv2d>,
    resnets: Vec<SpatioTemporalResBlock>,
}

impl Stage {
    /// Stage `i` of `channels`, the coarsest first, from the blocks at `scope`.
    fn load(scope: &Scope<'_>, i: usize, channels: &[usize], resnets: usize) -> Result<Self> {
        let below = i.saturating_sub(1);
        let upsampler = || {
            let scope = scope.at(format_args!("up_blocks.{below}.upsamplers.0.conv"));
            Conv2d::load(&scope, 1, 1)
        };
        let resnets = (0..resnets).map(|j| {
            let input = if j == 0 { below } else { i };
            let scope = scope.at(format_args!("up_blocks.{i}.resnets.{j}"));
            SpatioTemporalResBlock::load_decoder(&scope, channels[input], channels[i], EPS)
        });
        Ok(Self {
            upsampler: (i > 0).then(upsampler).transpose()?,
            resnets: resnets.collect::<Result<_>>()?,
        })
    }

    /// (B, F, H, W, in) to (B, F, 2H, 2W, out), or (B, F, H, W, out) in the first one.
    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        let mut upsampler = self.upsampler.as_ref();
        for resnet in &self.resnets {
            x = match upsampler.take() {
                Some(conv) => resnet.forward_after(x, |frame| {
                    let (_, _, height, width, _) = frame.size5()?;
                    conv.forward(&upsample_nearest(frame, 2 * height, 2 * width)?)
                })?,
                None => resnet.forward(x, None)?,
            };
        }
        Ok(x)
    }
}

/// diffusers' `TemporalDecoder`.
#[derive(Debug)]
pub struct VaeDecoder {
    conv_in: Conv2d,
    mid_resnet: SpatioTemporalResBlock,
    /// The reference pairs the further resnets with its one attention: with one resnet, the attention is in the file and
    /// never runs; with three, the third does not.
    mid_pair: Option<(AttentionBlock, SpatioTemporalResBlock)>,
    stages: Vec<Stage>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    time_conv_out: TemporalConv,
}

impl VaeDecoder {
    /// Builds the modules over the parameters `decoder.*`.
    pub fn load(params: &Params, config: &VaeConfig) -> Result<Self> {
        let scope = params.root().at("decoder");
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let mid_resnet = |j: usize| {
            let scope = scope.at(format_args!("mid_block.resnets.{j}"));
            SpatioTemporalResBlock::load_decoder(&scope, channels[0], channels[0], EPS)
        };
        let mid_pair = || -> Result<_> {
            let attention = AttentionBlock::load(&scope.at("mid_block.attentions.0"))?;
            Ok((attention, mid_resnet(1)?))
        };
        let stages = (0..channels.len())
            .map(|i| Stage::load(&scope, i, &channels, config.layers_per_block + 1));
        Ok(Self {
            conv_in: Conv2d::load(&scope.at("conv_in"), 1, 1)?,
            mid_resnet: mid_resnet(0)?,
            mid_pair: (config.layers_per_block > 1).then(mid_pair).transpose()?,
            stages: stages.collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(&scope.at("conv_norm_out"), EPS.spatial)?,
            conv_out: Conv2d::load(&scope.at("conv_out"), 1, 1)?,
            time_conv_out: TemporalConv::load(&scope.at("time_conv_out"))?,
        })
    }

    /// Latents of one chunk of one clip (F, L, h, w), divided by the scaling factor, to frames (F, 3, 8h, 8w) in -1..1.
    ///
    /// Not clamped. The frames of a chunk see each other, so another chunking gives other frames. 8 stands for
    /// `2^(levels - 1)`.
    pub fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut hidden = self.conv_in.forward(&to_maps(&latents.f_unsqueeze(0)?)?)?;
        hidden = self.mid_resnet.forward(hidden, None)?;
        if let Some((attention, resnet)) = &self.mid_pair {
            hidden = attention.forward(&hidden)?;
            hidden = resnet.forward(hidden, None)?;
        }
        for stage in &self.stages {
            hidden = stage.forward(hidden)?;
        }
        hidden = each_frame_alone(&hidden, |frame| {
            let frame = self.conv_norm_out.each_frame(frame, After::Silu)?;
            self.conv_out.forward(&frame)
        })?;
        hidden = self.time_conv_out.forward(&hidden)?;
        Ok(from_maps(&hidden)?.f_squeeze_dim(0)?)
    }
}
