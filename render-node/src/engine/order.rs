//! What the engine's thread is given, and what it says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::manifest::{FusedAdapter, StageTimings};
use flowai_actors::messages::Phase;
use flowai_actors::spec::{KeyframeSpec, RenderSpec};
use tokio::sync::{mpsc, watch};

use super::{AdapterFile, Control, EngineError, WrittenCheckpoint};
use crate::cache::Held;
use crate::encoder::{Encoded, EncodedFile};
use crate::models::LocalModel;
use crate::preview::MovingPicture;

/// Events that wait for the job's task. A full queue makes the engine wait.
pub(crate) const EVENTS_QUEUED_MAX: usize = 64;

/// One job, with everything on this machine's disk that it needs.
#[derive(Debug)]
pub struct Order {
    pub spec: RenderSpec,
    /// The video model and its adapters.
    pub clip: StageInputs,
    pub first_frame: FirstFrameInputs,
    /// An empty folder for this job's files.
    pub out_dir: PathBuf,
    pub control: Control,
    pub previews: PreviewOrder,
    /// Where an earlier attempt got to.
    pub resume: Option<Held>,
    /// So often the run is written down while it is denoised.
    pub checkpoint_every: Duration,
    /// Dropping the other end stops the job as well.
    pub events: mpsc::Sender<EngineEvent>,
}

/// What is to be shown of a clip before it is one.
#[derive(Debug)]
pub struct PreviewOrder {
    /// A preview after so many steps each; 0 for none.
    pub every_steps: u32,
    pub newest: watch::Sender<Option<MovingPicture>>,
}

/// A model and the adapters that are for it.
#[derive(Debug)]
pub struct StageInputs {
    pub model: Arc<LocalModel>,
    /// In the order of the spec's, each with its weight.
    pub adapters: Vec<(Held, f32)>,
}

/// What the first frame is made from.
#[derive(Debug)]
pub enum FirstFrameInputs {
    Image(Held),
    Keyframe {
        spec: Box<KeyframeSpec>,
        stage: StageInputs,
    },
}

/// What the engine says about one order. [`EngineEvent::Ended`] is the last.
#[derive(Debug)]
pub enum EngineEvent {
    Began(Phase),
    /// The clip goes on from the order's checkpoint, with so many steps done.
    Resumed {
        done: u32,
    },
    /// The order's checkpoint does not fit, for this reason: the clip begins anew.
    Anew(String),
    /// The run was written down.
    Kept(WrittenCheckpoint),
    /// Steps done, 1..=steps of the keyframe in its phase and else of the clip, and how long the last one took.
    Step {
        done: u32,
        elapsed: Duration,
    },
    /// Frames decoded, 1..=frames.
    Frame {
        done: u32,
    },
    Ended(Result<Box<Rendered>, EngineError>),
}

/// A clip that lies complete in the order's folder.
#[derive(Debug, Clone)]
pub struct Rendered {
    pub encoded: Encoded,
    /// In the order of fusing.
    pub adapters: Vec<FusedAdapter>,
    /// `None` where the picture was given.
    pub keyframe: Option<Keyframe>,
    /// All stages but fetching and uploading.
    pub timings_ms: StageTimings,
}

/// A picture that was made from words and lies in the order's folder.
#[derive(Debug, Clone)]
pub struct Keyframe {
    /// A PNG.
    pub file: EncodedFile,
    /// In the order of fusing.
    pub adapters: Vec<FusedAdapter>,
    /// Tokens that did not fit and were cut off the ends of the prompt and the negative one.
    pub tokens_cut: [u32; 2],
}

impl Order {
    pub(super) fn begin(&self, phase: Phase) -> Result<(), EngineError> {
        self.control.boundary()?;
        self.say(EngineEvent::Began(phase))
    }

    pub(super) fn say(&self, event: EngineEvent) -> Result<(), EngineError> {
        let said = self.events.blocking_send(event);
        said.map_err(|_| EngineError::Stopped)
    }
}

impl StageInputs {
    pub(super) fn files(&self) -> Vec<AdapterFile<'_>> {
        let files = self.adapters.iter().map(|(held, weight)| AdapterFile {
            path: held.path(),
            sha256: held.sha256(),
            weight: *weight,
        });
        files.collect()
    }
}
