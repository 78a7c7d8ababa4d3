//! CLIP's vision tower with projection: a picture becomes one embedding. Its layers are those of CLIP's text tower too.

use flowai_model::config::{Activation, ImageEncoderConfig};
use tch::Tensor;

use crate::error::Result;
use crate::nn::{LayerNorm, Linear, attend, attend_to_earlier};
use crate::params::{Param, Params, Scope};

/// transformers' `CLIPVisionModelWithProjection`.
#[derive(Debug)]
pub struct ClipVision {
    class_embedding: Param,
    patch_embedding: Param,
    position_embedding: Param,
    pre_layrnorm: LayerNorm,
    layers: Vec<EncoderLayer>,
    post_layernorm: LayerNorm,
    visual_projection: Linear,
    patch_size: i64,
}

impl ClipVision {
    /// Builds the modules over `params`, which must be those of the inventory of `config`.
    pub fn load(params: &Params, config: &ImageEncoderConfig) -> Result<Self> {
        let root = params.root();
        let scope = root.at("vision_model");
        let embeddings = scope.at("embeddings");
        let norm = |name: &str| LayerNorm::load(&scope.at(name), config.layer_norm_eps);
        let layers = (0..config.num_hidden_layers).map(|i| {
            let scope = scope.at(format_args!("encoder.layers.{i}"));
            let heads = config.num_attention_heads;
            EncoderLayer::load(&scope, heads, config.hidden_act, config.layer_norm_eps)
        });
        Ok(Self {
            class_embedding: embeddings.get("class_embedding")?,
            patch_embedding: embeddings.get("patch_embedding.weight")?,
            position_embedding: embeddings.get("position_embedding.weight")?,
            pre_layrnorm: norm("pre_layrnorm")?,
            layers: layers.collect::<Result<_>>()?,
            post_layernorm: norm("post_layernorm")?,
            visual_projection: Linear::load_without_bias(&root.at("visual_projection"))?,
            patch_size: config.patch_size as i64,
        })
    }

    /// Normalised pictures (N, 3, side, side) of the config's `image_size` to `image_embeds` (N, projection_dim).
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let mut hidden = self.pre_layrnorm.forward(&self.embed(pictures)?)?;
        for layer in &self.layers {
            hidden = layer.forward(hidden, Sees::Everything)?;
        }
        let class_token = self.post_layernorm.forward(&hidden.f_select(1, 0)?)?;
        self.visual_projection.forward(&class_token)
    }

    /// (N, 3, side, side) to (N, 1 + patches, hidden), the class token first.
    fn embed(&self, pictures: &Tensor) -> Result<Tensor> {
        let step = [self.patch_size, self.patch_size];
        let patches = pictures
            .f_to_kind(self.patch_embedding.f_kind()?)?
            .f_conv2d::<Tensor>(&self.patch_embedding, None, step, [0, 0], [1, 1], 1)?
            .f_flatten(2, 3)?
            .f_transpose(1, 2)?;
        let (count, _, width) = patches.size3()?;
        let class = self.class_embedding.f_expand([count, 1, width], false)?;
        Ok(Tensor::f_cat(&[class, patches], 1)?.f_add_(&self.position_embedding)?)
    }
}

/// Which tokens a token attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Patches of a picture.
    Everything,
    /// Words of a text: those before it and itself.
    Earlier,
}

/// One layer of the encoder: attention, then an MLP, each after its norm and added to its input.
#[derive(Debug)]
pub struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: i64,
    activation: Activation,
}

impl EncoderLayer {
    pub fn load(
        scope: &Scope<'_>,
        heads: usize,
        activation: Activation,
        layer_norm_eps: f64,
    ) -> Result<Self> {
        let linear = |name: &str| Linear::load(&scope.at(name));
        let norm = |name: &str| LayerNorm::load(&scope.at(name), layer_norm_eps);
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            q_proj: linear("self_attn.q_proj")?,
            k_proj: linear("self_attn.k_proj")?,
            v_proj: linear("self_attn.v_proj")?,
            out_proj: linear("self_attn.out_proj")?,
            layer_norm2: norm("layer_norm2")?,
            fc1: linear("mlp.fc1")?,
            fc2: linear("mlp.fc2")?,
            heads: heads as i64,
            activation,
        })
    }

    /// (N, L, C) to the same, written over `x`.
    pub fn forward(&self, mut x: Tensor, sees: Sees) -> Result<Tensor> {
        let _ = x.f_add_(&self.attention(&self.layer_norm1.forward(&x)?, sees)?)?;
        let _ = x.f_add_(&self.mlp(&self.layer_norm2.forward(&x)?)?)?;
        Ok(x)
    }

    fn attention(&self, x: &Tensor, sees: Sees) -> Result<Tensor> {
        let (count, tokens, width) = x.size3()?;
        let shape = [count, tokens, self.heads, width / self.heads];
        let q = self.q_proj.forward(x)?.f_view(shape)?;
        let k = self.k_proj.forward(x)?.f_view(shape)?;
        let v = self.v_proj.forward(x)?.f_view(shape)?;
        let out = match sees {
            Sees::Everything => attend(&q, &k, &v)?,
            Sees::Earlier => attend_to_earlier(&q, &k, &v)?,
        };
        self.out_proj.forward(&out)
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        let mut hidden = self.fc1.forward(x)?;
        hidden = match self.activation {
            Activation::Gelu => hidden.f_gelu_("none")?,
            Activation::QuickGelu => {
                let gate = hidden.f_mul_scalar(1.702)?.f_sigmoid_()?;
                hidden.f_mul_(&gate)?
            }
        };
        self.fc2.forward(&hidden)
    }
}
