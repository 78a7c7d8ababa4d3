use flowai_model::config::stable_diffusion::TextEncoderConfig;
use tch::{Kind, Tensor};

use super::Tokens;
use crate::clip::{EncoderLayer, Sees};
use crate::error::Result;
use crate::nn::LayerNorm;
use crate::params::{Param, Params};

/// transformers' `CLIPTextModel`.
#[derive(Debug)]
pub struct TextEncoder {
    token_embedding: Param,
    position_embedding: Param,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
}

impl TextEncoder {
    /// Builds the modules over `params`, which must be those of the inventory of `config`.
    pub fn load(params: &Params, config: &TextEncoderConfig) -> Result<Self> {
        let scope = params.root().at("text_model");
        let embeddings = scope.at("embeddings");
        let layers = (0..config.num_hidden_layers).map(|i| {
            let scope = scope.at(format_args!("encoder.layers.{i}"));
            let heads = config.num_attention_heads;
            EncoderLayer::load(&scope, heads, config.hidden_act, config.layer_norm_eps)
        });
        let final_layer_norm = scope.at("final_layer_norm");
        Ok(Self {
            token_embedding: embeddings.get("token_embedding.weight")?,
            position_embedding: embeddings.get("position_embedding.weight")?,
            layers: layers.collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(&final_layer_norm, config.layer_norm_eps)?,
        })
    }

    /// One text of L tokens to its last hidden state (1, L, hidden).
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        let ids: Vec<i64> = tokens.ids.iter().map(|&id| i64::from(id)).collect();
        let length = ids.len() as i64;
        let ids = Tensor::f_from_slice(&ids)?.f_to_device(self.token_embedding.device())?;
        let positions = self.position_embedding.f_narrow(0, 0, length)?;
        let mut hidden = self
            .token_embedding
            .f_index_select(0, &ids.f_to_kind(Kind::Int64)?)?
            .f_add_(&positions)?
            .f_unsqueeze(0)?;
        for layer in &self.layers {
            hidden = layer.forward(hidden, Sees::Earlier)?;
        }
        self.final_layer_norm.forward(&hidden)
    }
}
