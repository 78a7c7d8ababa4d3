use flowai_model::config::NORM_GROUPS;
use tch::{Device, Kind, Tensor};

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

    /// The biases of the first convolution at some times, by the time embeddings after their SiLU: (N, T) to (N, out).
    pub fn biases(&self, times: &Tensor) -> Result<Tensor> {
        biases_at(self.time_emb_proj.as_ref(), times, self.conv1.bias())
    }

    /// (B, F, H, W, in) to (B, F, H, W, out). `bias`: of [`ResnetBlock2D::biases`], one row for all clips or one for each.
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut hidden = self.norm1.each_frame(x, After::Silu)?;
        hidden = at_time(bias, self.conv1.bias(), |bias| {
            self.conv1.forward_with(&hidden, bias)
        })?;
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

    /// As [`ResnetBlock2D::biases`].
    pub fn biases(&self, times: &Tensor) -> Result<Tensor> {
        biases_at(self.time_emb_proj.as_ref(), times, self.conv1.bias())
    }

    /// (B, F, H, W, C) to the same, residual included. `bias` as in [`ResnetBlock2D::forward`].
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.change(x, bias)?.f_add_(x)?)
    }

    /// The blend of `x` (B, F, H, W, C) and [`TemporalResnetBlock::forward`] of it, written over `x`.
    fn blend_into(&self, mut x: Tensor, bias: Option<&Tensor>, mixer: &Blend) -> Result<Tensor> {
        match parts_of_places(&x)? {
            None => {
                let change = self.change(&x, bias)?;
                mixer.mix_change(&mut x, &change)?;
            }
            Some(part) => self.blend_parts_into(&x, bias, mixer, part)?,
        }
        Ok(x)
    }

    /// The same for large maps of one clip, `part` places after another: what the layers need in between is then held of few
    /// places, and their data are still in the caches when the next layer reads them.
    fn blend_parts_into(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        mixer: &Blend,
        part: i64,
    ) -> Result<()> {
        let (_, frames, height, width, channels) = x.size5()?;
        let places = height * width;
        let x = x.f_view([frames, places, channels])?;
        let parts = || (0..places).step_by(part as usize);
        let count = |start: i64| part.min(places - start);
        let as_maps = |x: Tensor| x.f_unsqueeze(0)?.f_unsqueeze(2);

        let norm = self.norm1.parts_across_frames(&x, After::Silu)?;
        let hidden = x.f_empty_like()?;
        for start in parts() {
            let places = |x: &Tensor| x.f_narrow(1, start, count(start));
            let normal = as_maps(norm.apply(&places(&x)?)?)?;
            let y = at_time(bias, self.conv1.bias(), |bias| {
                self.conv1.forward_with(&normal, bias)
            })?;
            places(&hidden)?.f_copy_(&y.f_view([frames, -1, channels])?)?;
        }
        let norm = self.norm2.parts_across_frames(&hidden, After::Silu)?;
        for start in parts() {
            let places = |x: &Tensor| x.f_narrow(1, start, count(start));
            let normal = as_maps(norm.apply(&places(&hidden)?)?)?;
            let change = self.conv2.forward(&normal)?;
            mixer.mix_change(&mut places(&x)?, &change.f_view([frames, -1, channels])?)?;
        }
        Ok(())
    }

    /// What [`TemporalResnetBlock::forward`] adds to its input.
    fn change(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut hidden = self.norm1.across_frames(x, After::Silu)?;
        hidden = at_time(bias, self.conv1.bias(), |bias| {
            self.conv1.forward_with(&hidden, bias)
        })?;
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

    /// The biases of the first convolutions at some times; see [`ResnetBlock2D::biases`].
    pub fn biases(&self, times: &Tensor) -> Result<TimeBiases> {
        Ok(TimeBiases {
            spatial: self.spatial_res_block.biases(times)?,
            temporal: self.temporal_res_block.biases(times)?,
        })
    }

    /// (B, F, H, W, in), which is dropped on the way, to (B, F, H, W, out). `biases`: of [`SpatioTemporalResBlock::biases`],
    /// one row for all clips or one for each; `None` in the VAE decoder.
    pub fn forward(&self, x: Tensor, biases: Option<&TimeBiases>) -> Result<Tensor> {
        let Some(biases) = biases else {
            return self.forward_after(x, |frame| Ok(frame.shallow_clone()));
        };
        let spatial = self.spatial_res_block.forward(&x, Some(&biases.spatial))?;
        drop(x);
        self.temporal_res_block
            .blend_into(spatial, Some(&biases.temporal), &self.time_mixer)
    }

    /// Without a time embedding, of what `before` makes of every frame alone.
    pub fn forward_after(
        &self,
        x: Tensor,
        before: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let spatial = each_frame_alone(&x, |frame| {
            self.spatial_res_block.forward(&before(frame)?, None)
        })?;
        drop(x);
        self.temporal_res_block
            .blend_into(spatial, None, &self.time_mixer)
    }
}

/// The biases of a block's first convolutions, spatial and temporal, (N, C) each, a row for each time.
///
/// The time embedding is projected and added to a convolution's output, every channel by the same at all places: that is a
/// bias, known for all steps before the first.
#[derive(Debug)]
pub struct TimeBiases {
    spatial: Tensor,
    temporal: Tensor,
}

impl TimeBiases {
    /// `count` rows from `start` on.
    pub fn rows(&self, start: i64, count: i64) -> Result<Self> {
        Ok(Self {
            spatial: self.spatial.f_narrow(0, start, count)?,
            temporal: self.temporal.f_narrow(0, start, count)?,
        })
    }
}

/// Elements of a part of large maps, see [`TemporalResnetBlock::blend_parts_into`]: four megabytes.
const PART_ELEMENTS: i64 = 1 << 20;

/// How many places of (B, F, H, W, C) make a part, where it is worth while: for one clip of several parts, f32 on a CPU.
fn parts_of_places(x: &Tensor) -> Result<Option<i64>> {
    let (batch, frames, _, _, channels) = x.size5()?;
    let is_large = x.numel() as i64 >= 2 * PART_ELEMENTS;
    let fits = x.device() == Device::Cpu && x.f_kind()? == Kind::Float && batch == 1;
    Ok((fits && is_large).then(|| (PART_ELEMENTS / (frames * channels)).max(1)))
}

/// A convolution with the biases of a time instead of its own: (1, C) for all clips, as the two halves of guidance always
/// have them, or (B, C).
fn at_time(
    biases: Option<&Tensor>,
    own: &Tensor,
    convolve: impl Fn(Option<&Tensor>) -> Result<Tensor>,
) -> Result<Tensor> {
    let Some(biases) = biases else {
        return convolve(Some(own));
    };
    match biases.size2()? {
        (1, _) => convolve(Some(&biases.f_view([-1])?)),
        (batch, channels) => {
            Ok(convolve(None)?.f_add_(&biases.f_view([batch, 1, 1, 1, channels])?)?)
        }
    }
}

/// (N, T) to (N, C).
fn biases_at(projection: Option<&Linear>, times: &Tensor, own: &Tensor) -> Result<Tensor> {
    match projection {
        Some(projection) => Ok(projection.forward(times)?.f_add_(own)?),
        None => Ok(own.f_expand([times.size()[0], -1], false)?),
    }
}

fn time_projection(scope: &Scope<'_>, has_time: bool) -> Result<Option<Linear>> {
    let load = || Linear::load(&scope.at("time_emb_proj"));
    has_time.then(load).transpose()
}
