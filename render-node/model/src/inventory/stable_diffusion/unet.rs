use super::super::TensorSpec;
use super::super::builder::Builder;
use super::super::unet::attention_block;
use crate::config::stable_diffusion::{Unet2dConfig, Unet2dLevel};

/// Every tensor of `UNet2DConditionModel`.
pub fn unet(config: &Unet2dConfig) -> Vec<TensorSpec> {
    let mut b = Builder::default();
    let time = config.time_embed_dim();
    let levels = &config.levels;
    let (finest, coarsest) = (&levels[0], &levels[levels.len() - 1]);

    b.conv2d("conv_in", config.in_channels, finest.channels, 3);
    b.linear("time_embedding.linear_1", finest.channels, time);
    b.linear("time_embedding.linear_2", time, time);

    let mut channels = finest.channels;
    for (i, level) in levels.iter().enumerate() {
        let block = format!("down_blocks.{i}");
        for j in 0..level.layers {
            let resnet = format!("{block}.resnets.{j}");
            b.resnet2d(&resnet, channels, level.channels, Some(time));
            if config.down_attention[i] {
                transformer(&mut b, &format!("{block}.attentions.{j}"), config, level);
            }
            channels = level.channels;
        }
        if i + 1 < levels.len() {
            let sampler = format!("{block}.downsamplers.0.conv");
            b.conv2d(&sampler, channels, channels, 3);
        }
    }

    for j in 0..2 {
        let resnet = format!("mid_block.resnets.{j}");
        b.resnet2d(&resnet, channels, channels, Some(time));
    }
    transformer(&mut b, "mid_block.attentions.0", config, coarsest);

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
            let resnet = format!("{block}.resnets.{j}");
            b.resnet2d(&resnet, channels + skip, level.channels, Some(time));
            if config.up_attention[i] {
                transformer(&mut b, &format!("{block}.attentions.{j}"), config, level);
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

/// `Transformer2DModel`.
fn transformer(b: &mut Builder, path: &str, config: &Unet2dConfig, level: &Unet2dLevel) {
    let width = level.channels;
    let projection = |b: &mut Builder, path: String| match config.use_linear_projection {
        true => b.linear(&path, width, width),
        false => b.conv2d(&path, width, width, 1),
    };
    b.norm(&format!("{path}.norm"), width);
    projection(b, format!("{path}.proj_in"));
    for layer in 0..level.transformer_layers {
        let block = format!("{path}.transformer_blocks.{layer}");
        attention_block(b, &block, width, config.cross_attention_dim);
    }
    projection(b, format!("{path}.proj_out"));
}
