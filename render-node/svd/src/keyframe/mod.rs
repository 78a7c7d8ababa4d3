//! The keyframe stage: a prompt becomes the picture that the video model animates. Stable Diffusion 1.x and 2.x, equal to
//! diffusers' `StableDiffusionPipeline` in numbers.
//!
//! Layers, parameters, adapters and noise are those of the video engine; what is here is what Stable Diffusion has of its
//! own. Feature maps are (B, 1, H, W, C).

mod block;
mod keyframer;
mod run;
pub mod sampler;
mod spec;
mod text_encoder;
mod tokenizer;
mod transformer;
mod unet;
mod vae_decoder;

pub use keyframer::{KeyframeConditioning, Keyframer, Prompt};
pub use run::KeyframeRun;
pub use spec::{KeyframeSpec, SamplerKind};
pub use text_encoder::TextEncoder;
pub use tokenizer::{Tokenizer, Tokens};
pub use transformer::{Transformer2d, TransformerBlock};
pub use unet::{Unet2d, Unet2dContext};
pub use vae_decoder::KeyframeDecoder;
