//! From an image file to the two tensors that condition a clip, number for number as diffusers makes them of a PIL image.
//!
//! The VAE reads the picture resampled by Pillow's Lanczos filter in eight bits; CLIP reads it blurred and resampled in
//! floats. Neither keeps the aspect ratio: the picture is stretched to what is asked.

mod antialias;
mod error;
mod lanczos;
mod picture;

pub use error::PreprocessError;
pub use picture::Picture;
