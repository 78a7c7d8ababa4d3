use flowai_model::config::stable_diffusion::Unet2dConfig;
use tch::Tensor;

use crate::error::Result;
use crate::nn::{
    After, Conv2d, CrossAttention, CrossContext, FeedForward, GroupNorm, LayerNorm, Linear,
    SelfAttention,
};
use crate::params::Scope;

const LAYER_NORM_EPS: f64 = 1e-5;
/// The reference's own, whatever the config says of the other norms.
const GROUP_NORM_EPS: f64 = 1e-6;

/// Places attend to each other and to the text: diffusers' `BasicTransformerBlock`.
#[derive(Debug)]
pub struct TransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    pub fn load(scope: &Scope<'_>, heads: usize) -> Result<Self> {
        let norm = |name: &str| LayerNorm::load(&scope.at(name), LAYER_NORM_EPS);
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: SelfAttention::load(&scope.at("attn1"), heads)?,
            norm2: norm("norm2")?,
            attn2: CrossAttention::load(&scope.at("attn2"), heads)?,
            norm3: norm("norm3")?,
            ff: FeedForward::load(&scope.at("ff"))?,
        })
    }

    /// What stays the same for text embeddings (B, L, D).
    pub fn context(&self, text: &Tensor) -> Result<CrossContext> {
        self.attn2.context(text)
    }

    /// (B, 1, H, W, C) to the same, written over `x`; `context` of [`TransformerBlock::context`].
    pub fn forward(&self, mut x: Tensor, context: &CrossContext) -> Result<Tensor> {
        let _ = x.f_add_(&self.attn1.over_places(&self.norm1.forward(&x)?)?)?;
        let _ = x.f_add_(&self.attn2.forward(&self.norm2.forward(&x)?, context)?)?;
        self.ff.add_to(x, &self.norm3)
    }
}

/// How feature maps enter and leave a transformer.
#[derive(Debug)]
enum Projection {
    /// 2.x
    Linear(Linear),
    /// 1.x
    Conv(Conv2d),
}

impl Projection {
    fn load(scope: &Scope<'_>, is_linear: bool) -> Result<Self> {
        Ok(match is_linear {
            true => Self::Linear(Linear::load(scope)?),
            false => Self::Conv(Conv2d::load(scope, 1, 0)?),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Conv(conv) => conv.forward(x),
        }
    }
}

/// diffusers' `Transformer2DModel`.
#[derive(Debug)]
pub struct Transformer2d {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl Transformer2d {
    /// A transformer of `level`, whose parameters lie at `scope`.
    pub fn load(scope: &Scope<'_>, config: &Unet2dConfig, level: usize) -> Result<Self> {
        let level = &config.levels[level];
        let block = |i| {
            let scope = scope.at(format_args!("transformer_blocks.{i}"));
            TransformerBlock::load(&scope, level.heads)
        };
        let groups = config.norm_num_groups;
        let is_linear = config.use_linear_projection;
        Ok(Self {
            norm: GroupNorm::load_grouped(&scope.at("norm"), groups, GROUP_NORM_EPS)?,
            proj_in: Projection::load(&scope.at("proj_in"), is_linear)?,
            transformer_blocks: (0..level.transformer_layers)
                .map(block)
                .collect::<Result<_>>()?,
            proj_out: Projection::load(&scope.at("proj_out"), is_linear)?,
        })
    }

    /// What stays the same for text embeddings (B, L, D), block by block.
    pub fn context(&self, text: &Tensor) -> Result<Vec<CrossContext>> {
        let blocks = self.transformer_blocks.iter();
        blocks.map(|block| block.context(text)).collect()
    }

    /// (B, 1, H, W, C) to the same, residual included.
    pub fn forward(&self, x: &Tensor, context: &[CrossContext]) -> Result<Tensor> {
        let tokens = self.norm.each_frame(x, After::Nothing)?;
        let mut hidden = self.proj_in.forward(&tokens)?;
        for (block, context) in self.transformer_blocks.iter().zip(context) {
            hidden = block.forward(hidden, context)?;
        }
        Ok(self.proj_out.forward(&hidden)?.f_add_(x)?)
    }
}
