//! The reply port of a request: it always answers.

use ractor::concurrency::OneshotSender;

/// The actor let the request go without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request was dropped without an answer")]
pub struct Rejected;

/// Where a handler sends its answer. Travels inside the message.
///
/// Dropping it answers [`Rejected`], so that an early return, a panic or a forgotten branch in a handler is heard at
/// once and not only when the caller's deadline ends.
#[derive(Debug)]
pub struct Reply<R> {
    /// `None` only after `send` took it.
    sender: Option<OneshotSender<Result<R, Rejected>>>,
}

impl<R> Reply<R> {
    pub(super) fn new(sender: OneshotSender<Result<R, Rejected>>) -> Self {
        Self {
            sender: Some(sender),
        }
    }

    /// Answers. Gives the answer back when the caller no longer waits, so that a handler can undo what it promised.
    pub fn send(mut self, answer: R) -> Result<(), R> {
        match self.sender.take() {
            Some(sender) => match sender.send(Ok(answer)) {
                Err(Ok(answer)) => Err(answer),
                Ok(()) | Err(Err(Rejected)) => Ok(()),
            },
            None => Err(answer),
        }
    }
}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            // The caller may have left: then there is nobody to tell.
            sender.send(Err(Rejected)).ok();
        }
    }
}
