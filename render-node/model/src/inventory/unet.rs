use super::TensorSpec;
use super::builder::Builder;
use crate::config::{UnetConfig, UnetLevel};

/// Inner width of a feed-forward over its outer width.
const FEED_FORWARD_FACTOR: usize = 4;

/// Every tensor of `UNetSpatioTemporalConditionModel`.
pub fn unet(config: &UnetConfig) -> Vec<TensorSpec> {
    let mut b = Builder::default();
    let time = config.time_embed_dim();
    let levels = &config.levels;
    let (finest, coarsest) = (&levels[0], &levels[levels.len() - 1]);

    b.conv2d("conv_in", config.in_channels, finest.channels, 3);
    b.linear("time_embedding.linear_1", finest.channels, time);
    b.linear("time_embedding.linear_2", time, time);
    b.linear(
        "add_embedding.linear_1",
        config.projection_class_embeddings_input_dim,
        time,
    );
    b.linear("add_embedding.linear_2", time, time);

    let mut channels = finest.channels;
    for (i, level) in levels.iter().enumerate() {
        let block = format!("down_blocks.{i}");
        for j in 0..level.layers {
            b.spatio_temporal_resnet(
                &format!("{block}.resnets.{j}"),
                channels,
                level.channels,
                Some(time),
            );
            if config.down_attention[i] {
                transformer(&mut b, &format!("{block}.attentions.{j}"), level);
            }
            channels = level.channels;
        }
        if i + 1 < levels.len() {
            b.conv2d(
                &format!("{block}.downsamplers.0.conv"),
                channels,
                channels,
                3,
            );
        }
    }

    for j in 0..2 {
        b.spatio_temporal_resnet(
            &format!("mid_block.resnets.{j}"),
            channels,
            channels,
            Some(time),
        );
    }
    transformer(&mut b, "mid_block.attentions.0", coarsest);

    for (i, level) in levels.iter().rev().enumerate() {
        let block = format!("up_blocks.{i}");
        // The last skip of a level was taken before its channels changed: it has the next finer level's width.
        let finer = levels[levels.len().saturating_sub(i + 2)].channels;
        for j in 0..=level.layers {
            let skip = if j == level.layers {
                finer
            } else {
                level.channels
            };
            b.spatio_temporal_resnet(
                &format!("{block}.resnets.{j}"),
                channels + skip,
                level.channels,
                Some(time),
            );
            if config.up_attention[i] {
                transformer(&mut b, &format!("{block}.attentions.{j}"), level);
            }
            channels = level.channels;
        }
        if i + 1 < levels.len() {
            b.conv2d(&format!("{block}.upsamplers.0.conv"), channels, channels, 3);
        }
    }

    b.norm("conv_norm_out", finest.channels);
    b.conv2d("conv_out", finest.channels, config.out_channels, 3);
    b.finish()
}

/// `TransformerSpatioTemporalModel`.
fn transformer(b: &mut Builder, path: &str, level: &UnetLevel) {
    let width = level.channels;
    b.norm(&format!("{path}.norm"), width);
    b.linear(&format!("{path}.proj_in"), width, width);
    for layer in 0..level.transformer_layers {
        let spatial = format!("{path}.transformer_blocks.{layer}");
        attention_block(b, &spatial, width, level.cross_attention_dim);
        let temporal = format!("{path}.temporal_transformer_blocks.{layer}");
        b.norm(&format!("{temporal}.norm_in"), width);
        feed_forward(b, &format!("{temporal}.ff_in"), width);
        attention_block(b, &temporal, width, level.cross_attention_dim);
    }
    b.linear(&format!("{path}.time_pos_embed.linear_1"), width, 4 * width);
    b.linear(&format!("{path}.time_pos_embed.linear_2"), 4 * width, width);
    b.mixer(&format!("{path}.time_mixer"));
    b.linear(&format!("{path}.proj_out"), width, width);
}

/// `BasicTransformerBlock`, and what the temporal one shares with it: self-attention, cross-attention to something `context`
/// wide, feed-forward.
pub(super) fn attention_block(b: &mut Builder, path: &str, width: usize, context: usize) {
    b.norm(&format!("{path}.norm1"), width);
    attention(b, &format!("{path}.attn1"), width, width);
    b.norm(&format!("{path}.norm2"), width);
    attention(b, &format!("{path}.attn2"), width, context);
    b.norm(&format!("{path}.norm3"), width);
    feed_forward(b, &format!("{path}.ff"), width);
}

/// Attention without bias on the inputs; keys and values come from something `context` wide.
fn attention(b: &mut Builder, path: &str, width: usize, context: usize) {
    b.linear_without_bias(&format!("{path}.to_q"), width, width);
    b.linear_without_bias(&format!("{path}.to_k"), context, width);
    b.linear_without_bias(&format!("{path}.to_v"), context, width);
    b.linear(&format!("{path}.to_out.0"), width, width);
}

/// GEGLU: the first layer makes value and gate at once.
fn feed_forward(b: &mut Builder, path: &str, width: usize) {
    let inner = FEED_FORWARD_FACTOR * width;
    b.linear(&format!("{path}.net.0.proj"), width, 2 * inner);
    b.linear(&format!("{path}.net.2"), inner, width);
}
