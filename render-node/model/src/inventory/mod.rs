//! The exact name and shape of every tensor that a config implies, as diffusers and transformers name them.
//!
//! Pure: nothing here opens a file. What a folder holds is compared with it by [`crate::weights`]; adapter keys are
//! resolved against it; random models are made from it.

mod builder;
mod image_encoder;
mod unet;
mod vae;

use std::borrow::Cow;

use crate::config::ModelConfig;

pub use image_encoder::image_encoder;
pub use unet::unet;
pub use vae::vae;

/// One parameter of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Path as in the reference's `state_dict()`.
    pub name: String,
    /// Row-major, outermost first; a linear layer's weight is (out, in), a convolution's (out, in, kernel..).
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A part of a model folder that has weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    Unet,
    Vae,
    ImageEncoder,
}

impl Component {
    pub const ALL: [Self; 3] = [Self::Unet, Self::Vae, Self::ImageEncoder];

    /// Folder inside the model folder.
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::ImageEncoder => "image_encoder",
        }
    }

    /// What the weight files' names begin with: diffusers' and transformers' conventions.
    pub const fn weights_stem(self) -> &'static str {
        match self {
            Self::Unet | Self::Vae => "diffusion_pytorch_model",
            Self::ImageEncoder => "model",
        }
    }

    /// Every tensor that the component must have.
    pub fn inventory(self, config: &ModelConfig) -> Vec<TensorSpec> {
        match self {
            Self::Unet => unet(&config.unet),
            Self::Vae => vae(&config.vae),
            Self::ImageEncoder => image_encoder(&config.image_encoder),
        }
    }

    /// The inventory's name for a tensor as a file may name it; `None` for one that is known and has no use.
    pub fn canonical_name(self, name: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::Unet => Some(Cow::Borrowed(name)),
            Self::Vae => Some(vae::canonical_name(name)),
            Self::ImageEncoder => image_encoder::canonical_name(name),
        }
    }
}
