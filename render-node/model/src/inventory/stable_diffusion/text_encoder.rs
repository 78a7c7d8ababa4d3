use std::borrow::Cow;

use super::super::TensorSpec;
use super::super::builder::Builder;
use super::super::image_encoder::encoder_layer;
use crate::config::stable_diffusion::TextEncoderConfig;

/// What published files begin every name with; files that transformers 5 saved do not.
const PREFIX: &str = "text_model.";
/// A buffer that older files store; it counts from 0.
const POSITION_IDS: &str = "embeddings.position_ids";

/// Every tensor of `CLIPTextModel`.
pub fn text_encoder(config: &TextEncoderConfig) -> Vec<TensorSpec> {
    let mut b = Builder::default();
    let width = config.hidden_size;
    b.tensor(
        format!("{PREFIX}embeddings.token_embedding.weight"),
        &[config.vocab_size, width],
    );
    b.tensor(
        format!("{PREFIX}embeddings.position_embedding.weight"),
        &[config.max_position_embeddings, width],
    );
    for i in 0..config.num_hidden_layers {
        let layer = format!("{PREFIX}encoder.layers.{i}");
        encoder_layer(&mut b, &layer, width, config.intermediate_size);
    }
    b.norm(&format!("{PREFIX}final_layer_norm"), width);
    b.finish()
}

/// `None` for the stored position ids, which are no parameter.
pub(super) fn canonical_name(name: &str) -> Option<Cow<'_, str>> {
    match name.strip_prefix(PREFIX) {
        Some(POSITION_IDS) => None,
        Some(_) => Some(Cow::Borrowed(name)),
        None if name == POSITION_IDS => None,
        None => Some(Cow::Owned(format!("{PREFIX}{name}"))),
    }
}
