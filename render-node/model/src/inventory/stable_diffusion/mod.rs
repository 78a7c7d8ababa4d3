//! The tensors of Stable Diffusion 1.x and 2.x.

mod text_encoder;
mod unet;
mod vae;

pub use text_encoder::text_encoder;
pub use unet::unet;
pub use vae::vae;

use super::{DIFFUSERS_STEM, TRANSFORMERS_STEM, TensorSpec, WeightsLayout, same_name};
use crate::config::stable_diffusion::StableDiffusionConfig;

/// A part of a folder of Stable Diffusion that has weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StableDiffusionComponent {
    Unet,
    Vae,
    TextEncoder,
}

impl StableDiffusionComponent {
    pub const ALL: [Self; 3] = [Self::Unet, Self::Vae, Self::TextEncoder];

    pub const fn layout(self) -> WeightsLayout {
        match self {
            Self::Unet => WeightsLayout {
                dir: "unet",
                stem: DIFFUSERS_STEM,
                canonical_name: same_name,
            },
            Self::Vae => WeightsLayout {
                dir: "vae",
                stem: DIFFUSERS_STEM,
                canonical_name: super::vae::canonical_name,
            },
            Self::TextEncoder => WeightsLayout {
                dir: "text_encoder",
                stem: TRANSFORMERS_STEM,
                canonical_name: text_encoder::canonical_name,
            },
        }
    }

    /// Every tensor that the component must have.
    pub fn inventory(self, config: &StableDiffusionConfig) -> Vec<TensorSpec> {
        match self {
            Self::Unet => unet(&config.unet),
            Self::Vae => vae(&config.vae),
            Self::TextEncoder => text_encoder(&config.text_encoder),
        }
    }
}
