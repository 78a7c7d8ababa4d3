//! The background tasks of a link.

use crate::kit::{OnCancel, OnFailure, TaskKind};

/// Each task of a [`super::RactorLink`].
#[derive(Debug, Clone, Copy)]
pub(super) enum LinkTask {
    /// Accepts connections. Without it a coordinator is deaf, which the program must know.
    Accept,
    /// Greets one connection and waits until its link is up.
    Greet,
    /// Says "alive" on one link and acknowledges.
    Beat,
    /// Watches the cluster's own actors. Without them no link can be.
    Cluster,
    /// Dials the leader again and again. Without it a node is lost, which the program must know.
    Dial,
}

impl TaskKind for LinkTask {
    fn on_cancel(self) -> OnCancel {
        match self {
            Self::Accept | Self::Greet | Self::Beat | Self::Cluster | Self::Dial => OnCancel::Abort,
        }
    }

    fn on_failure(self) -> OnFailure {
        match self {
            Self::Accept | Self::Cluster | Self::Dial => OnFailure::EndProcess,
            Self::Greet | Self::Beat => OnFailure::Log,
        }
    }
}
