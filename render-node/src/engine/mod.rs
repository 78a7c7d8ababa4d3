//! The model engine as the node sees it: [`RenderEngine`], and the one thread that owns it.
//!
//! Tensors never leave the thread. Orders go in through a channel, [`EngineEvent`]s come out. An engine that panics or loses
//! its device is not used again: the thread ends, and with it the process (a poisoned device context cannot be repaired
//! inside it).

mod control;
mod keep;
mod order;
mod render;
mod stand_in;
mod svd;
mod thread;

use std::path::Path;

use flowai_actors::ids::Sha256;
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::{FusedState, KeptAdapters};
use flowai_actors::spec::{KeyframeSpec, RenderSpec};

pub use control::Control;
pub use keep::WrittenCheckpoint;
pub(crate) use order::EVENTS_QUEUED_MAX;
pub use order::{
    EngineEvent, FirstFrameInputs, Keyframe, Order, PreviewOrder, Rendered, StageInputs,
};
pub use stand_in::{Poison, StandInEngine};
pub use svd::{AdapterMemory, SvdEngine, SvdOptions};
pub(crate) use svd::{cache_usage, kept, not_checked};
pub use thread::{EngineHandle, EngineLost};

use crate::encoder::RgbFrame;
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;

/// Has one model at a time, and the adapters that are fused into it.
pub trait StageEngine {
    /// Makes this the model of the following calls; costs nothing when it is already.
    fn load(&mut self, model: &LocalModel) -> Result<(), EngineError>;

    /// Lets the model compute with exactly these adapters. Says what was fused, in the order of fusing. Nobody has looked at
    /// the files: that they have the bytes of their names is judged here.
    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError>;
}

/// Renders one job at a time: a clip from a picture, by its [`StageEngine`]'s video model. Made on the engine's thread and
/// never leaves it.
pub trait RenderEngine: StageEngine {
    /// What makes the picture when it is not given, with a model of its own. `None` for an engine that cannot.
    fn keyframes(&mut self) -> Option<&mut dyn KeyframeEngine> {
        None
    }

    /// What it computes with now, and what of adapters it keeps on its device.
    fn holdings(&self) -> Holdings {
        Holdings::default()
    }

    /// Gives back what it keeps of its device's memory without need. Called when a job found too little of it. `true` when
    /// there was something that clips do not need.
    fn release_memory(&mut self) -> bool {
        false
    }

    /// Reads the picture and makes the first noise.
    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        image: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError>;

    /// Goes on from what [`EngineRun::checkpoint`] gave on a device of this class, to the same clip. Gives the run and the steps
    /// that it has behind it.
    ///
    /// # Errors
    /// Whatever would make another clip, by name. The engine is then as it was before.
    fn resume<'a>(
        &'a mut self,
        _spec: &RenderSpec,
        _checkpoint: &Path,
    ) -> Result<(Box<dyn EngineRun + 'a>, u32), EngineError> {
        let detail = "engine reads no checkpoints";
        Err(JobFailure::new(FailureCode::EngineFailed, detail).into())
    }
}

/// Makes pictures from words.
pub trait KeyframeEngine: StageEngine {
    /// Reads the words and makes the first noise.
    fn start<'a>(
        &'a mut self,
        spec: &KeyframeSpec,
    ) -> Result<Box<dyn KeyframeRun + 'a>, EngineError>;
}

/// What an engine has of adapters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Holdings {
    /// `None` before a video model is loaded, and when the last fusing failed.
    pub fused: Option<FusedState>,
    /// The same of the keyframe model.
    pub keyframe_fused: Option<FusedState>,
    /// `None` where the device's memory is the host's.
    pub device: Option<KeptAdapters>,
}

/// A picture between its first noise and its last step.
pub trait KeyframeRun {
    /// One denoising step. Called `spec.steps` times.
    fn step(&mut self) -> Result<(), EngineError>;

    /// The picture, after the last step.
    fn decode(&mut self) -> Result<RgbFrame, EngineError>;

    /// Tokens that did not fit and were cut off the ends of the prompt and the negative one.
    fn tokens_cut(&self) -> [u32; 2];
}

/// A clip between its first noise and its last frame.
pub trait EngineRun {
    /// One denoising step. Called `spec.steps` times.
    fn step(&mut self) -> Result<(), EngineError>;

    /// What the clip is guessed to be after the last step: small frames, for people to look at. `None` when it cannot be told.
    fn preview(&self) -> Result<Option<Vec<RgbFrame>>, EngineError> {
        Ok(None)
    }

    /// The run after its last step, for [`RenderEngine::resume`]: equal runs give equal bytes. `None` for an engine that reads
    /// none.
    fn checkpoint(&self) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(None)
    }

    /// Hands over all frames in order, each as soon as it is decoded. An error of the sink ends it.
    fn decode(
        &mut self,
        sink: &mut dyn FnMut(RgbFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError>;
}

/// An adapter on this machine's disk.
#[derive(Debug, Clone, Copy)]
pub struct AdapterFile<'a> {
    pub path: &'a Path,
    pub sha256: Sha256,
    pub weight: f32,
}

/// Why a job did not go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It was told to stop, and did so at a step boundary.
    #[error("stopped at a step boundary")]
    Stopped,
    /// This job cannot be rendered; the next one may.
    #[error(transparent)]
    Failed(#[from] JobFailure),
    /// An adapter's file on this disk is not what its name says. The job is not to blame: fetched anew, it may be rendered.
    #[error("adapter {sha256} on this node's disk: {reason}")]
    AdapterRotten { sha256: Sha256, reason: String },
    /// The device's context is poisoned: the process must end and be started again.
    #[error("{0}")]
    Lost(String),
}
