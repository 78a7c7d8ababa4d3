//! The autoencoder: pictures to latents frame by frame, latents to pictures with the frames of a chunk in view.

mod decoder;
mod encoder;

pub use decoder::VaeDecoder;
pub use encoder::{EncoderDownBlock, VaeEncoder};
