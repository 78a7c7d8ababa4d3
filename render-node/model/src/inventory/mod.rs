//! The exact name and shape of every tensor that a config implies, as diffusers and transformers name them.
//!
//! Pure: nothing here opens a file. What a folder holds is compared with it by [`crate::weights`]; adapter keys are
//! resolved against it; random models are made from it.

mod builder;
mod image_encoder;
pub mod stable_diffusion;
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

/// Where the weights of a component lie, and how its files name them.
#[derive(Debug, Clone, Copy)]
pub struct WeightsLayout {
    /// Folder inside the model folder.
    pub dir: &'static str,
    /// What the weight files' names begin with: diffusers' and transformers' conventions.
    pub stem: &'static str,
    /// The inventory's name for a tensor as a file may name it; `None` for one that is known and has no use.
    pub canonical_name: fn(&str) -> Option<Cow<'_, str>>,
}

const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
const TRANSFORMERS_STEM: &str = "model";

/// A part of a folder of Stable Video Diffusion that has weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    Unet,
    Vae,
    ImageEncoder,
}

impl Component {
    pub const ALL: [Self; 3] = [Self::Unet, Self::Vae, Self::ImageEncoder];

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
                canonical_name: vae::canonical_name,
            },
            Self::ImageEncoder => WeightsLayout {
                dir: "image_encoder",
                stem: TRANSFORMERS_STEM,
                canonical_name: image_encoder::canonical_name,
            },
        }
    }

    /// Folder inside the model folder.
    pub const fn dir(self) -> &'static str {
        self.layout().dir
    }

    /// What the weight files' names begin with.
    pub const fn weights_stem(self) -> &'static str {
        self.layout().stem
    }

    /// Every tensor that the component must have.
    pub fn inventory(self, config: &ModelConfig) -> Vec<TensorSpec> {
        match self {
            Self::Unet => unet(&config.unet),
            Self::Vae => vae(&config.vae),
            Self::ImageEncoder => image_encoder(&config.image_encoder),
        }
    }
}

#[allow(clippy::unnecessary_wraps, reason = "others know tensors without use")]
fn same_name(name: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(name))
}
