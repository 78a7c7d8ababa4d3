//! The small moving picture of a job that is still being denoised: what is said about it between the programs. Its bytes go
//! through the object store (INV-7), each word may be lost, and nothing waits for it: only the newest picture is worth
//! anything.

use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, Generation, JobId, NodeId, Sha256, UserId};
use crate::messages::AttemptRef;

pub const PREVIEW_CONTENT_TYPE: &str = "image/webp";

/// Where to put the picture of a step (node to leader, ask).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacePreview {
    pub at: AttemptRef,
    pub node: NodeId,
    pub generation: Generation,
    /// Denoising steps done, 1..=steps.
    pub step: u32,
    pub sha256: Sha256,
    /// 1..=`PREVIEW_BYTES_MAX`.
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum PreviewPlace {
    /// A presigned PUT: exactly the announced bytes, once.
    Target {
        url: String,
        /// To be sent as they are.
        headers: Vec<(String, String)>,
    },
    /// Not this attempt's any more, or too large: drop it.
    Refused,
}

impl std::fmt::Debug for PreviewPlace {
    /// Never prints the URL: it is as good as a credential until it expires.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Target { .. } => "Target(..)",
            Self::Refused => "Refused",
        })
    }
}

/// It lies there (node to leader, cast).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewPlaced {
    pub at: AttemptRef,
    pub step: u32,
}

/// To every api instance: a newer picture of a running job can be read (cast).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewReady {
    pub user: UserId,
    pub job: JobId,
    pub attempt: Attempt,
    pub step: u32,
}

impl PreviewReady {
    /// Belongs to the job and rises over steps and attempts.
    pub fn number(&self) -> u64 {
        (u64::from(self.attempt.get()) << 32) | u64::from(self.step)
    }
}
