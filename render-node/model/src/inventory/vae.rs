use std::borrow::Cow;

use super::TensorSpec;
use super::builder::Builder;
use crate::config::VaeConfig;

/// Every tensor of `AutoencoderKLTemporalDecoder`, encoder and decoder.
pub fn vae(config: &VaeConfig) -> Vec<TensorSpec> {
    let mut b = Builder::default();
    let encoder = Encoder {
        in_channels: config.in_channels,
        latent_channels: config.latent_channels,
        levels: &config.block_out_channels,
        layers: config.layers_per_block,
    };
    encoder.add_to(&mut b);
    decoder(&mut b, config);
    b.finish()
}

/// The encoder of every `AutoencoderKL`, temporal decoder or not.
pub(super) struct Encoder<'a> {
    pub(super) in_channels: usize,
    pub(super) latent_channels: usize,
    /// Channels, from pixels to latents.
    pub(super) levels: &'a [usize],
    /// Resnets of a block.
    pub(super) layers: usize,
}

impl Encoder<'_> {
    pub(super) fn add_to(&self, b: &mut Builder) {
        let levels = self.levels;
        let mut channels = levels[0];
        b.conv2d("encoder.conv_in", self.in_channels, channels, 3);
        for (i, &width) in levels.iter().enumerate() {
            let block = format!("encoder.down_blocks.{i}");
            for j in 0..self.layers {
                b.resnet2d(&format!("{block}.resnets.{j}"), channels, width, None);
                channels = width;
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
            b.resnet2d(
                &format!("encoder.mid_block.resnets.{j}"),
                channels,
                channels,
                None,
            );
        }
        attention(b, "encoder.mid_block.attentions.0", channels);
        b.norm("encoder.conv_norm_out", channels);
        // Mean and log variance of the posterior.
        let moments = 2 * self.latent_channels;
        b.conv2d("encoder.conv_out", channels, moments, 3);
        b.conv2d("quant_conv", moments, moments, 1);
    }
}

fn decoder(b: &mut Builder, config: &VaeConfig) {
    let levels = &config.block_out_channels;
    let mut channels = levels[levels.len() - 1];
    b.conv2d("decoder.conv_in", config.latent_channels, channels, 3);
    for j in 0..config.layers_per_block {
        b.spatio_temporal_resnet(
            &format!("decoder.mid_block.resnets.{j}"),
            channels,
            channels,
            None,
        );
    }
    // With one layer it is in the file and never runs.
    attention(b, "decoder.mid_block.attentions.0", channels);
    for (i, &width) in levels.iter().rev().enumerate() {
        let block = format!("decoder.up_blocks.{i}");
        for j in 0..=config.layers_per_block {
            b.spatio_temporal_resnet(&format!("{block}.resnets.{j}"), channels, width, None);
            channels = width;
        }
        if i + 1 < levels.len() {
            b.conv2d(&format!("{block}.upsamplers.0.conv"), channels, channels, 3);
        }
    }
    b.norm("decoder.conv_norm_out", channels);
    b.conv2d("decoder.conv_out", channels, config.out_channels, 3);
    b.conv3d(
        "decoder.time_conv_out",
        config.out_channels,
        config.out_channels,
    );
}

/// One head as wide as the level, with bias everywhere.
pub(super) fn attention(b: &mut Builder, path: &str, width: usize) {
    b.norm(&format!("{path}.group_norm"), width);
    for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
        b.linear(&format!("{path}.{projection}"), width, width);
    }
}

/// Names that diffusers gave the middle attention before 0.18, as (old, today's).
const OLD_ATTENTION: [(&str, &str); 4] = [
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
];

/// Today's name of a tensor that an older file may name otherwise.
pub(super) fn canonical_name(name: &str) -> Option<Cow<'_, str>> {
    let today = || {
        let (path, rest) = name.split_once(".mid_block.attentions.0.")?;
        let (projection, parameter) = rest.split_once('.')?;
        let (_, today) = OLD_ATTENTION.iter().find(|(old, _)| *old == projection)?;
        Some(format!("{path}.mid_block.attentions.0.{today}.{parameter}"))
    };
    Some(today().map_or(Cow::Borrowed(name), Cow::Owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_attention_names_are_todays() {
        let check =
            |old: &str, today: &str| assert_eq!(canonical_name(old).as_deref(), Some(today));
        check(
            "encoder.mid_block.attentions.0.query.weight",
            "encoder.mid_block.attentions.0.to_q.weight",
        );
        check(
            "encoder.mid_block.attentions.0.key.bias",
            "encoder.mid_block.attentions.0.to_k.bias",
        );
        check(
            "decoder.mid_block.attentions.0.value.weight",
            "decoder.mid_block.attentions.0.to_v.weight",
        );
        check(
            "decoder.mid_block.attentions.0.proj_attn.bias",
            "decoder.mid_block.attentions.0.to_out.0.bias",
        );
        let todays = "decoder.mid_block.attentions.0.group_norm.bias";
        check(todays, todays);
        check("encoder.conv_in.weight", "encoder.conv_in.weight");
    }
}
