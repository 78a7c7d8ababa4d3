use flowai_model::config::NORM_GROUPS;
use tch::Tensor;

use super::{After, Blend, Conv2d, GroupNorm, Linear, TemporalConv, each_frame_alone};
use crate::error::Result;
use crate::params::Scope;

/// The epsilons of a block's group norms; the reference's differ from block to block.
#[derive(Debug, Clone, Copy)]
pub struct ResnetEps {
    pub spatial: f64,
    pub temporal: f64,
}

impl ResnetEps {
    pub const fn both(eps: f64) -> Self {
        Self {
            spatial: eps,
            temporal: eps,
        }
    }
}

/// Two convolutions of every frame, with the time embedding added between them where there is one.
#[derive(Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    /// `in_channels` may differ from `out_channels`; then a 1x1 convolution carries the residual. Norms of 32 groups.
    pub fn load(
        scope: &Scope<'_>,
        in_channels: usize,
        out_channels: usize,
        has_time: bool,
        eps: f64,
    ) -> Result<Self> {
        let norms = (NORM_GROUPS, eps);
        Self::load_grouped(scope, in_channels, out_channels, has_time, norms)
    }

    /// The same with norms of (groups, epsilon).
    pub fn load_grouped(
        scope: &Scope<'_>,
        in_channels: usize,
        out_channels: usize,
        has_time: bool,
        (groups, eps): (usize, f64),
    ) -> Result<Self> {
        let norm = |name: &str| GroupNorm::load_grouped(&scope.at(name), groups, eps);
        let shortcut = || Conv2d::load(&scope.at("conv_shortcut"), 1, 0);
        Ok(Self {
            norm1: norm("norm1")?,
            conv1: Conv2d::load(&scope.at("conv1"), 1, 1)?,
            time_emb_proj: time_projection(scope, has_time)?,
            norm2: norm("norm2")?,
            conv2: Conv2d::load(&scope.at("conv2"), 1, 1)?,
            conv_shortcut: (in_channels != out_channels).then(shortcut).transpose()?,
        })
    }

    /// (B, F, H, W, in) to (B, F, H, W, out). `time`: the embedding after its SiLU, (1, T), or (B, T).
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let mut hidden = self.norm1.each_frame(x, After::Silu)?;
        hidden = match time_bias(self.time_emb_proj.as_ref(), time)? {
            TimeBias::None => self.conv1.forward(&hidden)?,
            TimeBias::Common(bias) => self.conv1.forward_plus(&hidden, &bias)?,
            TimeBias::PerClip(bias) => self.conv1.forward(&hidden)?.f_add_(&bias)?,
        };
        hidden = self.norm2.each_frame(&hidden, After::Silu)?;
        hidden = self.conv2.forward(&hidden)?;
        Ok(match &self.conv_shortcut {
            Some(shortcut) => hidden.f_add_(&shortcut.forward(x)?)?,
            None => hidden.f_add_(x)?,
        })
    }
}

/// Two convolutions over neighbouring frames. Group norm takes its statistics over all frames of the clip.
#[derive(Debug)]
pub struct TemporalResnetBlock {
    norm1: GroupNorm,
    conv1: TemporalConv,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: TemporalConv,
}

impl TemporalResnetBlock {
    pub fn load(scope: &Scope<'_>, has_time: bool, eps: f64) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::load(&scope.at("norm1"), eps)?,
            conv1: TemporalConv::load(&scope.at("conv1"))?,
            time_emb_proj: time_projection(scope, has_time)?,
            norm2: GroupNorm::load(&scope.at("norm2"), eps)?,
            conv2: TemporalConv::load(&scope.at("conv2"))?,
        })
    }

    /// (B, F, H, W, C) to the same, residual included. `time` as in [`ResnetBlock2D::forward`].
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.change(x, time)?.f_add_(x)?)
    }

    /// What [`TemporalResnetBlock::forward`] adds to its input.
    fn change(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let mut hidden = self.norm1.across_frames(x, After::Silu)?;
        hidden = match time_bias(self.time_emb_proj.as_ref(), time)? {
            TimeBias::None => self.conv1.forward(&hidden)?,
            TimeBias::Common(bias) => self.conv1.forward_plus(&hidden, &bias)?,
            TimeBias::PerClip(bias) => self.conv1.forward(&hidden)?.f_add_(&bias)?,
        };
        hidden = self.norm2.across_frames(&hidden, After::Silu)?;
        self.conv2.forward(&hidden)
    }
}

/// A spatial and a temporal block, blended.
#[derive(Debug)]
pub struct SpatioTemporalResBlock {
    spatial_res_block: ResnetBlock2D,
    temporal_res_block: TemporalResnetBlock,
    time_mixer: Blend,
}

impl SpatioTemporalResBlock {
    /// A block of the UNet, which reads the time embedding.
    pub fn load_unet(
        scope: &Scope<'_>,
        in_channels: usize,
        out_channels: usize,
        eps: f64,
    ) -> Result<Self> {
        let mixer = Blend::load(&scope.at("time_mixer"))?;
        let eps = ResnetEps::both(eps);
        Self::load(scope, in_channels, out_channels, true, eps, mixer)
    }

    /// A block of the VAE decoder, which knows no time and blends the other way round.
    pub fn load_decoder(
        scope: &Scope<'_>,
        in_channels: usize,
        out_channels: usize,
        eps: ResnetEps,
    ) -> Result<Self> {
        let mixer = Blend::load_switched(&scope.at("time_mixer"))?;
        Self::load(scope, in_channels, out_channels, false, eps, mixer)
    }

    fn load(
        scope: &Scope<'_>,
        in_channels: usize,
        out_channels: usize,
        has_time: bool,
        eps: ResnetEps,
        time_mixer: Blend,
    ) -> Result<Self> {
        let spatial = scope.at("spatial_res_block");
        let temporal = scope.at("temporal_res_block");
        Ok(Self {
            spatial_res_block: ResnetBlock2D::load(
                &spatial,
                in_channels,
                out_channels,
                has_time,
                eps.spatial,
            )?,
            temporal_res_block: TemporalResnetBlock::load(&temporal, has_time, eps.temporal)?,
            time_mixer,
        })
    }

    /// (B, F, H, W, in) to (B, F, H, W, out). `time` as in [`ResnetBlock2D::forward`].
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let spatial = match time {
            Some(_) => self.spatial_res_block.forward(x, time)?,
            None => each_frame_alone(x, |frame| self.spatial_res_block.forward(frame, None))?,
        };
        let change = self.temporal_res_block.change(&spatial, time)?;
        self.time_mixer.mix_change(spatial, &change)
    }
}

/// What the time embedding adds to the output of a block's first convolution.
enum TimeBias {
    None,
    /// (1, C): all clips of the batch are at the same time, as the two halves of guidance always are.
    Common(Tensor),
    /// (B, 1, 1, 1, C).
    PerClip(Tensor),
}

fn time_bias(projection: Option<&Linear>, time: Option<&Tensor>) -> Result<TimeBias> {
    let (Some(projection), Some(time)) = (projection, time) else {
        return Ok(TimeBias::None);
    };
    let bias = projection.forward(time)?;
    match bias.size2()? {
        (1, _) => Ok(TimeBias::Common(bias)),
        (batch, channels) => Ok(TimeBias::PerClip(bias.f_view([batch, 1, 1, 1, channels])?)),
    }
}

fn time_projection(scope: &Scope<'_>, has_time: bool) -> Result<Option<Linear>> {
    let load = || Linear::load(&scope.at("time_emb_proj"));
    has_time.then(load).transpose()
}
