//! The credit window of one link: at most 64 envelopes on their way in each direction.
//!
//! Counts are cumulative since the link came up, so that a lost acknowledgement costs nothing: the next one says more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::limits::LINK_CREDIT_ENVELOPES;

/// The sender's side: what was sent and what of it the peer has handled.
#[derive(Debug, Default)]
pub(super) struct Window {
    sent: u64,
    handled_by_peer: u64,
}

/// The peer acknowledges more than it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FalseReceipt;

impl Window {
    /// Takes one credit; `false` when there is none.
    pub(super) fn take(&mut self) -> bool {
        let free = self.sent - self.handled_by_peer < LINK_CREDIT_ENVELOPES;
        self.sent += u64::from(free);
        free
    }

    /// Gives back the credit of an envelope that did not leave after all.
    pub(super) fn untake(&mut self) {
        self.sent -= 1;
    }

    /// Hears how many the peer has handled in all. An older count than the last changes nothing.
    pub(super) fn acknowledge(&mut self, handled: u64) -> Result<(), FalseReceipt> {
        if handled > self.sent {
            return Err(FalseReceipt);
        }
        self.handled_by_peer = self.handled_by_peer.max(handled);
        Ok(())
    }
}

/// The receiver's side: what has arrived and what of it the program has handled.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    arrived: AtomicU64,
    handled: AtomicU64,
    /// Rung when there is something to acknowledge.
    pub(super) news: Notify,
}

/// The peer sends beyond its credit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

impl Receipts {
    /// Books one arrival. Called by the gateway only, one envelope at a time.
    pub(super) fn arrive(self: &Arc<Self>) -> Result<Credit, Overrun> {
        if self.arrived.load(Ordering::Relaxed) - self.handled() >= LINK_CREDIT_ENVELOPES {
            return Err(Overrun);
        }
        self.arrived.fetch_add(1, Ordering::Relaxed);
        Ok(Credit(Some(self.clone())))
    }

    /// How many were handled since the link came up.
    pub(super) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Acquire)
    }
}

/// One envelope's place in the window of its sender; free again when dropped.
#[derive(Debug)]
pub struct Credit(Option<Arc<Receipts>>);

impl Credit {
    /// For what holds its place elsewhere, or needs none.
    pub(super) fn none() -> Self {
        Self(None)
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if let Some(receipts) = self.0.take() {
            receipts.handled.fetch_add(1, Ordering::Release);
            receipts.news.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_closes_at_its_size_and_opens_by_what_was_handled() {
        let mut window = Window::default();
        assert!((0..LINK_CREDIT_ENVELOPES).all(|_| window.take()));
        assert!(!window.take());
        window.acknowledge(2).unwrap();
        window.acknowledge(1).unwrap();
        assert!(window.take() && window.take() && !window.take());
    }

    #[test]
    fn a_peer_cannot_acknowledge_what_it_never_got() {
        let mut window = Window::default();
        assert!(window.take());
        assert_eq!(window.acknowledge(2), Err(FalseReceipt));
        assert_eq!(window.acknowledge(1), Ok(()));
    }

    #[test]
    fn a_peer_that_ignores_the_window_is_noticed() {
        let receipts = Arc::new(Receipts::default());
        let mut held: Vec<_> = (0..LINK_CREDIT_ENVELOPES)
            .map(|_| receipts.arrive().unwrap())
            .collect();
        assert_eq!(receipts.arrive().unwrap_err(), Overrun);
        held.pop();
        assert_eq!(receipts.handled(), 1);
        held.push(receipts.arrive().unwrap());
        assert_eq!(receipts.arrive().unwrap_err(), Overrun);
    }
}
