//! The node's background tasks.

use flowai_actors::kit::{OnCancel, OnFailure, TaskKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeTask {
    /// Carries what the link brings into the mailbox.
    Pump,
    /// Wakes the actor when something is due.
    Timer,
    /// Waits for one answer of the leader.
    Ask,
    /// Fetches and renders one job.
    Render,
    /// Puts one job's files into the store.
    Upload,
    /// Sends one job's previews.
    Previews,
    /// Sends one job's checkpoints.
    Checkpoints,
    /// Brings the next job's adapters near.
    Prefetch,
}

impl TaskKind for NodeTask {
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    /// Each of them owes the actor a word, without which the node would wait for ever, but for what is brought ahead, which the
    /// job brings itself when it comes, and for previews.
    fn on_failure(self) -> OnFailure {
        match self {
            Self::Prefetch | Self::Previews => OnFailure::Log,
            Self::Pump
            | Self::Timer
            | Self::Ask
            | Self::Render
            | Self::Upload
            | Self::Checkpoints => OnFailure::EndProcess,
        }
    }
}
