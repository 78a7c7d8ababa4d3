//! How what belongs to one attempt gets to the object store beside its clip: the leader signs a place, and hears what lies there.

use std::sync::Arc;

use flowai_actors::ids::{Epoch, Generation, NodeId};
use flowai_actors::link::{NodeLink, PeerId};
use flowai_actors::messages::AttemptRef;
use tokio::sync::watch;

use crate::uploader::Uploader;

/// Whom to ask, and under which term.
pub(super) type Leader = Option<(PeerId, Epoch)>;

/// The way of one attempt's checkpoints, or of its previews.
pub(super) struct Way {
    pub(super) at: AttemptRef,
    pub(super) node: NodeId,
    pub(super) generation: Generation,
    pub(super) leader: watch::Receiver<Leader>,
    pub(super) link: Arc<dyn NodeLink>,
    pub(super) uploader: Uploader,
}
