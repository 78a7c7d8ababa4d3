use tch::Tensor;

use super::Linear;
use crate::error::Result;
use crate::params::Scope;

/// Keys and values of a text, the same in every step of a job.
#[derive(Debug)]
pub struct CrossContext {
    /// (B, L, heads, d) each.
    keys: Tensor,
    values: Tensor,
}

/// Attention of places to the tokens of a text, without a bias on queries, keys and values.
#[derive(Debug)]
pub struct CrossAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl CrossAttention {
    pub fn load(scope: &Scope<'_>, heads: usize) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load_without_bias(&scope.at("to_q"))?,
            to_k: Linear::load_without_bias(&scope.at("to_k"))?,
            to_v: Linear::load_without_bias(&scope.at("to_v"))?,
            to_out: Linear::load(&scope.at("to_out.0"))?,
            heads: heads as i64,
        })
    }

    /// What stays the same for text embeddings (B, L, D).
    pub fn context(&self, text: &Tensor) -> Result<CrossContext> {
        let (batch, tokens, _) = text.size3()?;
        let by_head =
            |x: Tensor| -> Result<Tensor> { Ok(x.f_view([batch, tokens, self.heads, -1])?) };
        Ok(CrossContext {
            keys: by_head(self.to_k.forward(text)?)?,
            values: by_head(self.to_v.forward(text)?)?,
        })
    }

    /// (B, F, H, W, C) to the same; `context` of [`CrossAttention::context`] for the same B.
    pub fn forward(&self, x: &Tensor, context: &CrossContext) -> Result<Tensor> {
        let (batch, frames, height, width, channels) = x.size5()?;
        let places = frames * height * width;
        let queries = self.to_q.forward(x)?;
        let queries = queries.f_view([batch, places, self.heads, channels / self.heads])?;
        let out = scaled_dot_product(&queries, &context.keys, &context.values, false)?;
        self.to_out.forward(&out.f_view(x.size().as_slice())?)
    }
}

/// As [`super::attend`], each token to itself and those before it.
pub fn attend_to_earlier(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    scaled_dot_product(q, k, v, true)
}

/// (N, L, heads, d) queries and any number of keys and values to (N, L, heads * d). N is the few items of a batch, far below
/// where CUDA's kernels end.
fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor, is_causal: bool) -> Result<Tensor> {
    let (items, tokens, heads, width) = q.size4()?;
    let out = Tensor::f_scaled_dot_product_attention::<Tensor>(
        &q.f_transpose(1, 2)?,
        &k.f_transpose(1, 2)?,
        &v.f_transpose(1, 2)?,
        None,
        0.0,
        is_causal,
        None,
        false,
    )?;
    Ok(out
        .f_transpose(1, 2)?
        .f_reshape([items, tokens, heads * width])?)
}
