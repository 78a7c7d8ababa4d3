//! Stable Video Diffusion in libtorch: a picture and a seed become frames, equal to diffusers' in numbers.
//!
//! Promises: a clip is a function of model, adapters, spec, picture, precision and device class (invariant 11), also when
//! the run was stopped at a step boundary and went on in another process; an adapter that does not fit is an error and
//! never left out (invariant 10). The only room that names tch. It knows no actors, network or database.
//!
//! ```no_run
//! # use flowai_svd::{DeviceName, Dtype, Engine, EngineError, LoadOptions, Picture, Spec};
//! # fn render(spec: Spec) -> Result<(), EngineError> {
//! let options = LoadOptions { dtype: Dtype::Fp32, device: DeviceName::Cpu, threads: None, identity: None };
//! let engine = Engine::load("models/svd".as_ref(), options)?;
//! let picture = Picture::open("first.png".as_ref())?;
//! let mut run = engine.start(&engine.prepare(&spec, &picture)?)?;
//! while !run.is_finished() {
//!     run.step()?;
//! }
//! run.decode(|frames| -> Result<(), EngineError> { frames.to_rgb8().map(drop) })?;
//! # Ok(()) }
//! ```
//!
//! The picture may come from a prompt: [`Keyframer`] is the same for Stable Diffusion ([`keyframe`]), and the bytes of what
//! [`KeyframeRun::decode`] gives make a [`Picture`].
//!
//! Modules are public so that each can be compared with its counterpart in the reference; the render node uses only what
//! is re-exported here.

mod checkpoint;
pub mod clip;
mod device;
mod engine;
mod error;
mod gpu;
mod kernels;
pub mod keyframe;
pub mod lora;
pub mod nn;
pub mod params;
pub mod preprocess;
mod preview;
mod processor;
pub mod random;
mod refusal;
mod run;
pub mod sampler;
mod shim;
mod spec;
pub mod tensor_file;
pub mod unet;
pub mod vae;

pub use checkpoint::{Checkpoint, CheckpointError, CheckpointHeader};
pub use device::{DeviceClass, DeviceName, Dtype};
pub use engine::{AdapterUse, Conditioning, Engine, LoadOptions, PrepareTimings};
pub use error::{EngineError, Result};
pub use gpu::Gpu;
pub use keyframe::{KeyframeConditioning, KeyframeRun, KeyframeSpec, Keyframer, Prompt};
pub use lora::{AdapterSet, LoraError, StateId};
pub use preprocess::{Picture, PreprocessError};
pub use preview::{PREVIEW_SIDE_MAX, Preview, PreviewMap};
pub use processor::processor_name;
pub use run::{Frames, Report, Run};
pub use spec::{FieldValue, Fields, Spec, SpecError};
