//! Each win as a pair: the computation as the reference does it, and ours, on the same weights and inputs.

use flowai_svd::nn::{
    After, Blend, Conv2d, FeedForward, GroupNorm, LayerNorm, Linear, TemporalConv,
    TimestepEmbedding, attend, sinusoid,
};
use flowai_svd::params::{Params, Scope};
use flowai_svd::{EngineError, Result};
use tch::{Device, Kind, Tensor};

use super::sites::{Site, Sites};

const LAYER_NORM_EPS: f64 = 1e-5;
const GROUP_NORM_EPS: f64 = 1e-6;
const GROUPS: i64 = 32;
const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

type Computation = Box<dyn Fn() -> Result<Tensor>>;

/// The same result in two ways.
pub(super) struct Pair {
    pub(super) plain: Computation,
    pub(super) ours: Computation,
}

impl Pair {
    fn new(
        plain: impl Fn() -> Result<Tensor> + 'static,
        ours: impl Fn() -> Result<Tensor> + 'static,
    ) -> Self {
        Self {
            plain: Box::new(plain),
            ours: Box::new(ours),
        }
    }
}

/// One trick, everywhere in the UNet where it is used.
pub(super) struct Win {
    pub(super) name: &'static str,
    pub(super) pairs: Vec<Pair>,
}

/// All wins for one clip of so many frames.
pub(super) fn all(params: &Params, sites: &Sites, frames: i64) -> Result<Vec<Win>> {
    let resnets = |name, pair: &dyn Fn(&Place<'_>) -> Result<Vec<Pair>>| {
        Win::of(name, &sites.resnets, params, frames, pair)
    };
    let transformers = |name, pair: &dyn Fn(&Place<'_>) -> Result<Vec<Pair>>| {
        Win::of(name, &sites.transformers, params, frames, pair)
    };
    Ok(vec![
        transformers("cross-attention to one key is a constant", &cross_attention)?,
        transformers("positions of the frames, once a job", &frame_positions)?,
        resnets("the time is a bias, known before the first step", &time)?,
        transformers("queries, keys and values in one product", &projections)?,
        transformers("attention of narrow heads in a kernel", &attention)?,
        transformers(
            "feed-forward in parts, gated by a kernel, added in place",
            &feed_forward,
        )?,
        resnets("group norm with SiLU in a kernel", &group_norm)?,
        resnets("channels innermost", &channels_innermost)?,
        resnets(
            "convolution over time as one over a plane",
            &temporal_convolution,
        )?,
        resnets("blended in place", &blend)?,
    ])
}

impl Win {
    fn of(
        name: &'static str,
        sites: &[Site],
        params: &Params,
        frames: i64,
        pairs: &dyn Fn(&Place<'_>) -> Result<Vec<Pair>>,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for site in sites {
            let scope = params.root().at(&site.path);
            all.extend(pairs(&Place {
                site,
                frames,
                scope,
            })?);
        }
        Ok(Self { name, pairs: all })
    }
}

/// A site with its parameters.
struct Place<'a> {
    site: &'a Site,
    frames: i64,
    scope: Scope<'a>,
}

impl Place<'_> {
    /// (1, F, H, W, C).
    fn maps(&self) -> Result<Tensor> {
        let Site {
            height,
            width,
            channels,
            ..
        } = *self.site;
        Ok(Tensor::f_randn(
            [1, self.frames, height, width, channels],
            F32,
        )?)
    }

    /// The spatial and the temporal block of each layer.
    fn blocks(&self) -> Vec<Scope<'_>> {
        let layers = 0..self.site.layers;
        let both = |i| {
            ["transformer_blocks", "temporal_transformer_blocks"]
                .map(|blocks| self.scope.at(format_args!("{blocks}.{i}")))
        };
        layers.flat_map(both).collect()
    }

    /// Frames attend in every place, or places in every frame: (sequences, tokens).
    fn sequences(&self, block: usize) -> [i64; 2] {
        let places = self.site.height * self.site.width;
        match block % 2 {
            0 => [self.frames, places],
            _ => [places, self.frames],
        }
    }
}

fn libtorch_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let heads_first = |x: &Tensor| x.f_transpose(1, 2);
    let (sequences, tokens, heads, width) = q.size4()?;
    let out = Tensor::f_scaled_dot_product_attention::<Tensor>(
        &heads_first(q)?,
        &heads_first(k)?,
        &heads_first(v)?,
        None,
        0.0,
        false,
        None,
        false,
    )?;
    Ok(out
        .f_transpose(1, 2)?
        .f_reshape([sequences, tokens, heads * width])?)
}

fn cross_attention(place: &Place<'_>) -> Result<Vec<Pair>> {
    let pair = |(i, block): (usize, Scope<'_>)| -> Result<Pair> {
        let [sequences, tokens] = place.sequences(i);
        let (heads, channels) = (place.site.heads, place.site.channels);
        let attn2 = block.at("attn2");
        let norm = LayerNorm::load(&block.at("norm2"), LAYER_NORM_EPS)?;
        let to_q = Linear::load_without_bias(&attn2.at("to_q"))?;
        let to_k = Linear::load_without_bias(&attn2.at("to_k"))?;
        let to_v = Linear::load_without_bias(&attn2.at("to_v"))?;
        let to_out = Linear::load(&attn2.at("to_out.0"))?;
        let key = attn2.get("to_k.weight")?.size()[1];
        let embedding = Tensor::f_randn([1, 1, key], F32)?;
        let constant = to_out.forward(&to_v.forward(&embedding)?)?;
        let x = Tensor::f_randn([sequences, tokens, channels], F32)?;
        let split = move |x: &Tensor, tokens: i64| x.f_view([-1, tokens, heads, channels / heads]);
        let same_x = x.shallow_clone();
        let plain = move || {
            let q = split(&to_q.forward(&norm.forward(&x)?)?, tokens)?;
            let one = |linear: &Linear| -> Result<Tensor> {
                let x = split(&linear.forward(&embedding)?, 1)?;
                Ok(x.f_expand([sequences, -1, -1, -1], false)?)
            };
            let out = libtorch_attention(&q, &one(&to_k)?, &one(&to_v)?)?;
            Ok(to_out.forward(&out)?.f_add(&x)?)
        };
        // In the model the residual is added in place.
        Ok(Pair::new(plain, move || Ok(same_x.f_add(&constant)?)))
    };
    place.blocks().into_iter().enumerate().map(pair).collect()
}

fn frame_positions(place: &Place<'_>) -> Result<Vec<Pair>> {
    let (frames, channels) = (place.frames, place.site.channels);
    let embed = TimestepEmbedding::load(&place.scope.at("time_pos_embed"))?;
    let compute = move || {
        let positions = Tensor::f_arange(frames, (Kind::Int64, Device::Cpu))?;
        embed.forward(&sinusoid(&positions, channels)?)
    };
    let once = compute()?;
    Ok(vec![Pair::new(compute, move || Ok(once.shallow_clone()))])
}

fn time(place: &Place<'_>) -> Result<Vec<Pair>> {
    const STEPS: i64 = 25;
    let spatial = place.scope.at("spatial_res_block");
    let projection = Linear::load(&spatial.at("time_emb_proj"))?;
    let conv = Conv2d::load(&spatial.at("conv1"), 1, 1)?;
    let width = spatial.get("time_emb_proj.weight")?.size()[1];
    let input = spatial.get("conv1.weight")?.size()[1];
    let x = Tensor::f_randn(
        [1, place.frames, place.site.height, place.site.width, input],
        F32,
    )?;
    let times = Tensor::f_randn([STEPS, width], F32)?;
    let biases = projection.forward(&times.f_silu()?)?.f_add(conv.bias())?;
    let same_conv = Conv2d::load(&spatial.at("conv1"), 1, 1)?;
    let same_x = x.shallow_clone();
    let plain = move || {
        let time = projection.forward(&times.f_narrow(0, 1, 1)?.f_silu()?)?;
        Ok(conv.forward(&x)?.f_add(&time)?)
    };
    let ours = move || same_conv.forward_with(&same_x, Some(&biases.f_select(0, 1)?));
    Ok(vec![Pair::new(plain, ours)])
}

fn projections(place: &Place<'_>) -> Result<Vec<Pair>> {
    let pair = |block: Scope<'_>| -> Result<Pair> {
        let attn1 = block.at("attn1");
        let each = ["to_q", "to_k", "to_v"].map(|name| Linear::load_without_bias(&attn1.at(name)));
        let each = each.into_iter().collect::<Result<Vec<_>>>()?;
        let stacked = Linear::load_stacked_without_bias(&attn1)?;
        let x = place.maps()?;
        let same_x = x.shallow_clone();
        let plain = move || {
            let parts = each.iter().map(|linear| linear.forward(&x));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            // One of the three, as a view: the difference is told of it, and joining them is no part of the work.
            Ok(parts[2].shallow_clone())
        };
        let channels = place.site.channels;
        let ours = move || {
            Ok(stacked
                .forward(&same_x)?
                .f_narrow(-1, 2 * channels, channels)?)
        };
        Ok(Pair::new(plain, ours))
    };
    place.blocks().into_iter().map(pair).collect()
}

fn attention(place: &Place<'_>) -> Result<Vec<Pair>> {
    let pair = |block: usize| -> Result<Pair> {
        let (heads, channels) = (place.site.heads, place.site.channels);
        let tokens = place.site.height * place.site.width;
        let shape = [place.frames, tokens, 3, heads, channels / heads];
        let mut qkv = Tensor::f_randn(shape, F32)?;
        if block % 2 == 1 {
            qkv = qkv.f_transpose(0, 1)?;
        }
        let part = |i| qkv.f_select(2, i);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let same = [&q, &k, &v].map(Tensor::shallow_clone);
        Ok(Pair::new(
            move || libtorch_attention(&q, &k, &v),
            move || attend(&same[0], &same[1], &same[2]),
        ))
    };
    (0..place.blocks().len()).map(pair).collect()
}

fn feed_forward(place: &Place<'_>) -> Result<Vec<Pair>> {
    let pair = |block: Scope<'_>| -> Result<Pair> {
        let proj = Linear::load(&block.at("ff.net.0.proj"))?;
        let out = Linear::load(&block.at("ff.net.2"))?;
        let norm = LayerNorm::load(&block.at("norm3"), LAYER_NORM_EPS)?;
        let same_norm = LayerNorm::load(&block.at("norm3"), LAYER_NORM_EPS)?;
        let ours = FeedForward::load(&block.at("ff"))?;
        let x = place.maps()?;
        let same_x = x.shallow_clone();
        let plain = move || {
            let both = proj.forward(&norm.forward(&x)?)?;
            let halves = both.f_chunk(2, -1)?;
            let gated = halves[0].f_mul(&halves[1].f_gelu("none")?)?;
            Ok(out.forward(&gated)?.f_add(&x)?)
        };
        // The copy is not in the model, whose residual may be written over.
        Ok(Pair::new(plain, move || {
            ours.add_to(copy(&same_x)?, &same_norm)
        }))
    };
    place.blocks().into_iter().map(pair).collect()
}

fn group_norm(place: &Place<'_>) -> Result<Vec<Pair>> {
    let places = [
        ("spatial_res_block.norm2", false),
        ("temporal_res_block.norm1", true),
        ("temporal_res_block.norm2", true),
    ];
    let pair = |(name, is_across): (&str, bool)| -> Result<Pair> {
        let scope = place.scope.at(name);
        let norm = GroupNorm::load(&scope, GROUP_NORM_EPS)?;
        let (weight, bias) = (scope.get("weight")?, scope.get("bias")?);
        let x = place.maps()?;
        let same_x = x.shallow_clone();
        let plain = move || {
            let (batch, frames, height, width, channels) = x.size5()?;
            let items = if is_across { batch } else { batch * frames };
            let y = x
                .f_view([items, -1, channels])?
                .f_permute([0, 2, 1])?
                .f_group_norm(GROUPS, Some(&*weight), Some(&*bias), GROUP_NORM_EPS, false)?
                .f_silu()?
                .f_permute([0, 2, 1])?
                .f_contiguous()?;
            Ok(y.f_view([batch, frames, height, width, channels])?)
        };
        let ours = move || match is_across {
            true => norm.across_frames(&same_x, After::Silu),
            false => norm.each_frame(&same_x, After::Silu),
        };
        Ok(Pair::new(plain, ours))
    };
    places.into_iter().map(pair).collect()
}

fn channels_innermost(place: &Place<'_>) -> Result<Vec<Pair>> {
    let scope = place.scope.at("spatial_res_block.conv2");
    let conv = Conv2d::load(&scope, 1, 1)?;
    let weight = scope.get("weight")?.f_contiguous()?;
    let bias = scope.get("bias")?;
    let x = place.maps()?;
    let by_channel = x.f_flatten(0, 1)?.f_permute([0, 3, 1, 2])?.f_contiguous()?;
    let plain = move || {
        let y = by_channel.f_conv2d(&weight, Some(&*bias), [1, 1], [1, 1], [1, 1], 1)?;
        Ok(y.f_permute([0, 2, 3, 1])?.f_unsqueeze(0)?)
    };
    Ok(vec![Pair::new(plain, move || conv.forward(&x))])
}

fn temporal_convolution(place: &Place<'_>) -> Result<Vec<Pair>> {
    let scope = place.scope.at("temporal_res_block.conv2");
    let conv = TemporalConv::load(&scope)?;
    let weight = scope.get("weight")?.f_unsqueeze(-1)?.f_contiguous()?;
    let bias = scope.get("bias")?;
    let x = place.maps()?;
    let by_channel = x.f_permute([0, 4, 1, 2, 3])?.f_contiguous()?;
    let plain = move || {
        let y = by_channel.f_conv3d(&weight, Some(&*bias), [1, 1, 1], [1, 0, 0], [1, 1, 1], 1)?;
        Ok(y.f_permute([0, 2, 3, 4, 1])?)
    };
    Ok(vec![Pair::new(plain, move || conv.forward(&x))])
}

fn blend(place: &Place<'_>) -> Result<Vec<Pair>> {
    let scope = place.scope.at("time_mixer");
    let blend = Blend::load(&scope)?;
    let alpha = scope.get("mix_factor")?.f_sigmoid()?;
    let (x, change) = (place.maps()?, place.maps()?);
    let (same_x, same_change) = (x.shallow_clone(), change.shallow_clone());
    let plain = move || {
        let temporal = x.f_add(&change)?.f_div_scalar(1.0)?;
        let rest = alpha.f_neg()?.f_add_scalar(1.0)?;
        Ok(x.f_mul(&alpha)?.f_add(&temporal.f_mul(&rest)?)?)
    };
    let ours = move || {
        let mut mixed = copy(&same_x)?;
        blend.mix_change(&mut mixed, &same_change)?;
        Ok::<_, EngineError>(mixed)
    };
    Ok(vec![Pair::new(plain, ours)])
}

/// For what is written over in the model, where nothing else reads it.
fn copy(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_to_dtype(Kind::Float, false, true)?)
}
