//! Where in a UNet its layers are, and on maps of which size they work.

use flowai_model::config::UnetConfig;

/// A resnet or a transformer.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// Its path among the UNet's parameters.
    pub(super) path: String,
    pub(super) height: i64,
    pub(super) width: i64,
    pub(super) channels: i64,
    pub(super) heads: i64,
    pub(super) layers: usize,
}

#[derive(Debug, Default)]
pub(super) struct Sites {
    pub(super) resnets: Vec<Site>,
    pub(super) transformers: Vec<Site>,
}

impl Sites {
    /// For latents of so many rows and columns.
    pub(super) fn of(config: &UnetConfig, rows: i64, columns: i64) -> Self {
        let mut sites = Self::default();
        let mut sizes = vec![(rows, columns)];
        for _ in 1..config.levels.len() {
            let (height, width) = sizes[sizes.len() - 1];
            sizes.push(((height + 1) / 2, (width + 1) / 2));
        }
        let coarsest = config.levels.len() - 1;
        let mut add = |block: &str, level: usize, resnets: usize, transformers: usize| {
            let site = |kind: &str, j: usize| Site {
                path: format!("{block}.{kind}.{j}"),
                height: sizes[level].0,
                width: sizes[level].1,
                channels: config.levels[level].channels as i64,
                heads: config.levels[level].heads as i64,
                layers: config.levels[level].transformer_layers,
            };
            sites
                .resnets
                .extend((0..resnets).map(|j| site("resnets", j)));
            let transformers = (0..transformers).map(|j| site("attentions", j));
            sites.transformers.extend(transformers);
        };
        for (level, &has_attention) in config.down_attention.iter().enumerate() {
            let layers = config.levels[level].layers;
            let transformers = if has_attention { layers } else { 0 };
            add(&format!("down_blocks.{level}"), level, layers, transformers);
        }
        add("mid_block", coarsest, 2, 1);
        for (i, &has_attention) in config.up_attention.iter().enumerate() {
            let layers = config.levels[coarsest - i].layers + 1;
            let transformers = if has_attention { layers } else { 0 };
            add(
                &format!("up_blocks.{i}"),
                coarsest - i,
                layers,
                transformers,
            );
        }
        sites
    }
}
