//! The reader's end of a session.

use std::sync::{Arc, OnceLock};

use flowai_actors::ids::JobId;
use flowai_actors::kit::BoundedRef;
use flowai_actors::messages::LiveState;
use flowai_store::events::Event;
use flowai_store::videos::Video;
use tokio::sync::mpsc;

use super::messages::SessionMessage;

/// Items that a slow reader may leave waiting: then it is closed.
pub(super) const RING: usize = 256;

/// What a stream carries.
#[derive(Debug, Clone)]
pub enum Item {
    /// Durable; its id can be resumed from.
    Event(Arc<Event>),
    /// In place of events that are too many to repeat: everything as it stands at this id.
    Snapshot { id: i64, videos: Arc<Vec<Video>> },
    /// Of a moment; no id.
    Live { job: JobId, live: LiveState },
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The reader was too slow, events were purged before they were read, or the instance goes down: open a new one with the last id.
    Resync,
    /// The sign-in or key has ended.
    Revoked,
}

/// Items for one reader. Dropping it tells the session.
#[derive(Debug)]
pub struct Stream {
    pub(super) number: u64,
    pub(super) items: mpsc::Receiver<Item>,
    /// Written once by the session, before it drops its end.
    pub(super) reason: Arc<OnceLock<CloseReason>>,
    pub(super) session: BoundedRef<SessionMessage>,
}

impl Stream {
    /// The next item, or why there is none any more.
    pub async fn next(&mut self) -> Result<Item, CloseReason> {
        let item = self.items.recv().await;
        item.ok_or_else(|| self.reason.get().copied().unwrap_or(CloseReason::Resync))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.items.close();
        // When it is lost, the session notices at its next look that nobody reads.
        let left = SessionMessage::Left {
            stream: self.number,
        };
        self.session.try_send(left).ok();
    }
}
