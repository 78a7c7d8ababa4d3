use super::super::TensorSpec;
use super::super::builder::Builder;
use super::super::vae::{Encoder, attention};
use crate::config::stable_diffusion::AutoencoderConfig;

/// Every tensor of `AutoencoderKL`, encoder and decoder.
pub fn vae(config: &AutoencoderConfig) -> Vec<TensorSpec> {
    let mut b = Builder::default();
    let latent = config.latent_channels;
    let encoder = Encoder {
        in_channels: config.in_channels,
        latent_channels: latent,
        levels: &config.block_out_channels,
        layers: config.layers_per_block,
    };
    encoder.add_to(&mut b);
    b.conv2d("post_quant_conv", latent, latent, 1);
    decoder(&mut b, config);
    b.finish()
}

fn decoder(b: &mut Builder, config: &AutoencoderConfig) {
    let levels = &config.block_out_channels;
    let mut channels = levels[levels.len() - 1];
    b.conv2d("decoder.conv_in", config.latent_channels, channels, 3);
    for j in 0..2 {
        let resnet = format!("decoder.mid_block.resnets.{j}");
        b.resnet2d(&resnet, channels, channels, None);
    }
    attention(b, "decoder.mid_block.attentions.0", channels);
    for (i, &width) in levels.iter().rev().enumerate() {
        let block = format!("decoder.up_blocks.{i}");
        for j in 0..=config.layers_per_block {
            b.resnet2d(&format!("{block}.resnets.{j}"), channels, width, None);
            channels = width;
        }
        if i + 1 < levels.len() {
            b.conv2d(&format!("{block}.upsamplers.0.conv"), channels, channels, 3);
        }
    }
    b.norm("decoder.conv_norm_out", channels);
    b.conv2d("decoder.conv_out", channels, config.out_channels, 3);
}
