use std::borrow::Cow;

use super::TensorSpec;
use super::builder::Builder;
use crate::config::ImageEncoderConfig;

/// A buffer that older files store; it counts from 0.
const POSITION_IDS: &str = "vision_model.embeddings.position_ids";

/// Every tensor of `CLIPVisionModelWithProjection`.
pub fn image_encoder(config: &ImageEncoderConfig) -> Vec<TensorSpec> {
    let mut b = Builder::default();
    let width = config.hidden_size;
    let patch = config.patch_size;

    let embeddings = "vision_model.embeddings";
    b.tensor(format!("{embeddings}.class_embedding"), &[width]);
    b.tensor(
        format!("{embeddings}.patch_embedding.weight"),
        &[width, config.num_channels, patch, patch],
    );
    b.tensor(
        format!("{embeddings}.position_embedding.weight"),
        &[config.tokens(), width],
    );
    // Misspelt in the reference, so in every file.
    b.norm("vision_model.pre_layrnorm", width);
    for i in 0..config.num_hidden_layers {
        let layer = format!("vision_model.encoder.layers.{i}");
        encoder_layer(&mut b, &layer, width, config.intermediate_size);
    }
    b.norm("vision_model.post_layernorm", width);
    b.linear_without_bias("visual_projection", width, config.projection_dim);
    b.finish()
}

/// One layer of CLIP's towers, for pictures and text alike.
pub(super) fn encoder_layer(b: &mut Builder, path: &str, width: usize, intermediate: usize) {
    for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
        b.linear(&format!("{path}.self_attn.{projection}"), width, width);
    }
    b.norm(&format!("{path}.layer_norm1"), width);
    b.linear(&format!("{path}.mlp.fc1"), width, intermediate);
    b.linear(&format!("{path}.mlp.fc2"), intermediate, width);
    b.norm(&format!("{path}.layer_norm2"), width);
}

/// `None` for the stored position ids, which are no parameter.
pub(super) fn canonical_name(name: &str) -> Option<Cow<'_, str>> {
    (name != POSITION_IDS).then_some(Cow::Borrowed(name))
}
