//! Stable Video Diffusion in libtorch.
