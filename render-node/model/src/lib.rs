//! Model folders and adapter files as data: configs, tensor inventories, file gates. No libtorch, no network.
//!
//! A model folder is one in diffusers' layout for Stable Video Diffusion (`unet/`, `vae/`, `image_encoder/`,
//! `scheduler/`, `feature_extractor/`, `model_index.json`). This crate reads it without believing it: every size comes
//! from a config file, and every value that the engine cannot honour is an error that names file and field.

pub mod adapter;
pub mod config;
mod digest;
mod folder;
pub mod gate;
pub mod inventory;
pub mod picture;
mod preset;
pub mod safetensors;
pub mod synthetic;
mod weights;

pub use digest::{InvalidDigest, Sha256Digest};
pub use folder::{FolderError, ModelFile, ModelFolder, ModelIdentity};
pub use preset::{Preset, UnknownPreset};
pub use weights::{TensorProblem, TensorProblems, Weights, WeightsError};
