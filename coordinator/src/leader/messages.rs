//! What comes into the leader's mailbox.

use flowai_actors::link::LinkEvent;

use super::event::Event;

/// Never leaves the process.
#[derive(Debug)]
pub(super) enum Message {
    /// From the link's pump, in order.
    Link(LinkEvent),
    /// From the leader's own tasks.
    Happened(Event),
}
