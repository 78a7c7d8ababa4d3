//! The last word of a node that ends in order: the leader hears that it takes no other job before one is given to it.

use flowai_actors::clock::Monotonic;
use flowai_actors::limits::NODE_FAREWELL_MS;

#[derive(Debug)]
pub(crate) struct Farewell {
    since: Monotonic,
    is_heard: bool,
}

impl Farewell {
    pub(crate) fn new(now: Monotonic) -> Self {
        Self {
            since: now,
            is_heard: false,
        }
    }

    /// A leader that knows the node has answered the beat that was sent then.
    pub(crate) fn answered(&mut self, sent_at: Monotonic) {
        self.is_heard |= sent_at >= self.since;
    }

    /// Whether the node need not wait for the leader's answer, or no longer.
    pub(crate) fn is_over(&self, now: Monotonic) -> bool {
        self.is_heard || self.until() <= now
    }

    pub(crate) fn until(&self) -> Monotonic {
        self.since.plus_ms(NODE_FAREWELL_MS)
    }
}
