//! What comes into the node actor's mailbox.

use flowai_actors::link::LinkEvent;
use flowai_node_machine::{Event, RunId};

use crate::job::{NotRendered, Ready};

/// Never leaves the process. The mailbox is bounded; only progress is shed when it is full.
#[derive(Debug)]
pub(super) enum Message {
    /// From the link's pump, in order. A message or request is acknowledged when it was handled.
    Link(LinkEvent),
    /// From the task that renders a run: its last word.
    Rendered {
        run: RunId,
        result: Box<Result<Ready, NotRendered>>,
    },
    /// From the tasks that ask, upload and keep the time, and from the owner.
    Happened(Event),
}
