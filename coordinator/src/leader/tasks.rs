//! The leader's background tasks.

use flowai_actors::kit::{OnCancel, OnFailure, TaskKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaderTask {
    /// Says that time has passed.
    Clock,
    /// Writes one batch.
    Commit,
    /// Reads rows, or looks for those that no doorbell announced.
    Read,
    /// Reads what the jobs of a batch are made from.
    ReadAhead,
    /// Writes down that a node registered.
    Admit,
    /// Gives one assignment to its node.
    Dispatch,
    /// Tells one node to stop.
    Stop,
    /// Tells one node what it will probably need next.
    Foretell,
    /// Forgets what is kept no longer.
    Forget,
    /// Asks the object store for one clip, or signs uploads of one.
    Store,
    /// Throws a preview or checkpoints away.
    Discard,
    /// Hears what operators want of nodes.
    Members,
    /// Signs a certificate.
    Sign,
    /// Asks for nodes and gives them back.
    Autoscale,
    /// Reads the ledger for what does not balance.
    Audit,
    /// Makes weeks of events, and drops old ones.
    Weeks,
}

impl TaskKind for LeaderTask {
    /// A commit that is cut off is compared with the row by whoever leads next.
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    /// Each of them owes the leader a word, but for a stop, which is told again with the next beat, for what is forgotten at
    /// the next sweep as well, for a hint, which a node can do without, for what is read ahead, for what only takes up room, for a
    /// certificate, which is asked for again, and for the autoscaler, the audit and the weeks of events, without which jobs go on
    /// for a term.
    fn on_failure(self) -> OnFailure {
        match self {
            Self::Stop
            | Self::Forget
            | Self::Foretell
            | Self::ReadAhead
            | Self::Discard
            | Self::Sign
            | Self::Autoscale
            | Self::Audit
            | Self::Weeks => OnFailure::Log,
            _ => OnFailure::EndProcess,
        }
    }
}
