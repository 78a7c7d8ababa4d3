//! What a program gets from a link.

use std::fmt;

use super::credit::Credit;
use super::envelope::Envelope;
use super::error::TooLarge;
use super::peer::Peer;

/// Returns the outcome of a request to the asker.
pub(super) type SendAnswer = Box<dyn FnOnce(ReplyOutcome) -> Result<(), TooLarge> + Send>;

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum ReplyOutcome {
    Answer(Envelope),
    Unsupported,
    Rejected,
}

/// Tells the sender of a one-way message that its kind is not known here.
pub(super) type SayUnsupported = Box<dyn FnOnce(&Envelope) + Send>;

/// A one-way message. Dropping it acknowledges it: keep it while the work is queued, so that the sender feels it.
pub struct Delivery {
    /// Who sent it, by certificate.
    pub from: Peer,
    /// What was sent.
    pub envelope: Envelope,
    pub(super) say_unsupported: SayUnsupported,
    pub(super) credit: Credit,
}

impl Delivery {
    /// Tells the sender that this kind is not known here; it hears `LinkEvent::Unsupported`.
    pub fn unsupported(self) {
        (self.say_unsupported)(&self.envelope);
        drop(self.credit);
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("from", &self.from.id)
            .field("envelope", &self.envelope)
            .finish()
    }
}

/// A message that waits for an answer. Dropping it answers `Rejected`.
#[derive(Debug)]
pub struct Request {
    /// Who asks, by certificate.
    pub from: Peer,
    /// What is asked.
    pub envelope: Envelope,
    /// Where the answer goes.
    pub reply: ReplyPort,
}

/// The way back to the asker. Dropping it answers `Rejected`.
pub struct ReplyPort {
    /// `None` only after an answer took it.
    send: Option<SendAnswer>,
    /// Held until the request is answered or dropped: it is what acknowledges the request.
    _credit: Credit,
}

impl ReplyPort {
    pub(super) fn new(send: SendAnswer, credit: Credit) -> Self {
        Self {
            send: Some(send),
            _credit: credit,
        }
    }

    /// Answers. An asker whose deadline has passed does not hear it.
    ///
    /// Errors: the answer is over 256 KiB; the asker hears `Rejected`.
    pub fn send(mut self, answer: Envelope) -> Result<(), TooLarge> {
        self.answer(ReplyOutcome::Answer(answer))
    }

    /// Answers that this kind is not known here.
    pub fn unsupported(mut self) {
        // Only an answer with a body can be too large.
        self.answer(ReplyOutcome::Unsupported).ok();
    }

    fn answer(&mut self, outcome: ReplyOutcome) -> Result<(), TooLarge> {
        self.send.take().map_or(Ok(()), |send| send(outcome))
    }
}

impl fmt::Debug for ReplyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyPort")
    }
}

impl Drop for ReplyPort {
    fn drop(&mut self) {
        self.answer(ReplyOutcome::Rejected).ok();
    }
}
