//! What a run of a job says of itself: how far it is, and why it gave no clip or could not bring it away.

use flowai_actors::messages::Phase;

use crate::failure::JobFailure;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub phase: Phase,
    /// Steps done, 0..=steps.
    pub step: u32,
    /// Of the keyframe in its phase, and else of the clip.
    pub steps: u32,
    /// Seconds left, as far as it can be known.
    pub left_s: Option<f64>,
}

/// Why a job gave no clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRendered {
    Stopped,
    Failed(JobFailure),
}

/// Why files do not lie in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotUploaded {
    Stopped,
    /// The URLs are not good any more: ask for new ones.
    Expired(String),
    /// The store is down.
    Unreachable(JobFailure),
    Failed(JobFailure),
}
