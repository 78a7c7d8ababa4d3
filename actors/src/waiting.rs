//! Why a job waits and when it will probably start: what is said of it between the programs.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, ModelId};

/// What has to happen before a waiting job starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// For programs: `capacity`, `loading`, `share`, `your_cap`, `no_node`, `no_memory`, `retrying` or `dependency`.
    pub code: String,
    /// For people.
    pub reason: String,
    /// `None` when no node can run it now.
    pub starts_in: Option<StartsIn>,
}

/// A forecast, seconds from when it is told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StartsIn {
    /// As likely sooner as later.
    pub p50_s: f64,
    /// Nine of ten jobs start before.
    pub p90_s: f64,
}

/// Why does it wait? (api to leader, ask.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyQuery {
    pub job: JobId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum WhyAnswer {
    Waits {
        /// 1 starts next. `None` far back in the line, and for a moment after it came.
        position: Option<u32>,
        #[serde(flatten)]
        waits: Waits,
    },
    /// It runs, has ended, or is not known yet.
    NotWaiting,
}

/// Which sizes are too large for every kind of node that offers the model? (Api to leader, ask.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CeilingsQuery {}

/// What ran out of memory lately wherever it could run, live or not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// At most [`CEILINGS_MAX`](crate::limits::CEILINGS_MAX).
    pub ceilings: Vec<Ceiling>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    pub model: ModelId,
    /// Only of jobs whose first frame this one makes.
    pub keyframe_model: Option<ModelId>,
    /// Frames times pixels of a frame; as many and more do not fit.
    pub volume: f64,
}
