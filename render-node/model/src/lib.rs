//! Model folders and adapter files as data: configs, tensor inventories, file gates. No libtorch, no network.
//!
//! A model folder is one in diffusers' layout: of Stable Video Diffusion, which animates a picture (`unet/`, `vae/`,
//! `image_encoder/`, `scheduler/`, `feature_extractor/`, `model_index.json`), or of Stable Diffusion, which makes one from a
//! prompt (`text_encoder/` and `tokenizer/` instead of `image_encoder/` and `feature_extractor/`). This crate reads it without believing it: every size comes
//! from a config file, and every value that the engine cannot honour is an error that names file and field. What is kept
//! of such files, on disk or in memory, is kept by [`lru`].

pub mod adapter;
pub mod config;
mod digest;
mod folder;
pub mod gate;
pub mod inventory;
mod keyframe_preset;
pub mod lru;
pub mod picture;
mod preset;
pub mod safetensors;
pub mod synthetic;
mod weights;

pub use digest::{InvalidDigest, Sha256Digest};
pub use folder::{
    AnyModelFolder, FolderError, ModelFile, ModelFolder, ModelIdentity, StableDiffusionFolder,
};
pub use keyframe_preset::{KeyframePreset, UnknownKeyframePreset};
pub use preset::{Preset, UnknownPreset};
pub use weights::{TensorProblem, TensorProblems, Weights, WeightsError};
