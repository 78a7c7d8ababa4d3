//! Requests between actors of one process, always with a deadline.

use std::fmt;
use std::time::Duration;

use ractor::{ActorRef, ActorStatus, Message};

use super::reply::Reply;

/// Why a request got no answer. Each variant says what the caller may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No answer within the deadline. The actor may still do the work: ask again only what may be done twice.
    #[error("no answer within the deadline; the request may still be carried out")]
    Timeout,
    /// The actor has ended. Look it up again.
    #[error("actor has ended; look it up again")]
    Gone,
    /// The mailbox is at its bound. Nothing was sent: shed the work or try later.
    #[error("mailbox is full; nothing was sent, try later")]
    Full,
    /// The actor took the request and dropped it without an answer.
    #[error("actor dropped the request without an answer")]
    Rejected,
}

/// Why a message was not accepted by a mailbox.
#[derive(thiserror::Error)]
pub enum PostError<M> {
    /// The mailbox is at its bound; here is the message back.
    #[error("mailbox is full; try later")]
    Full(M),
    /// The actor has ended.
    #[error("actor has ended; look it up again")]
    Gone,
}

impl<M> fmt::Debug for PostError<M> {
    /// Never prints the message: it may hold a prompt, and its type need not be printable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Gone => "Gone",
        })
    }
}

/// Anything a message can be posted to: a plain actor, one with a bounded mailbox, one that is restarted.
pub trait Mailbox<M>: Sync {
    /// Puts the message into the mailbox without waiting.
    fn post(&self, message: M) -> Result<(), PostError<M>>;

    /// Whether the actor behind the mailbox has ended for good.
    fn is_gone(&self) -> bool;
}

impl<M: Message + Sync> Mailbox<M> for ActorRef<M> {
    fn post(&self, message: M) -> Result<(), PostError<M>> {
        self.send_message(message).map_err(|_| PostError::Gone)
    }

    fn is_gone(&self) -> bool {
        self.get_status() >= ActorStatus::Draining
    }
}

/// Sends the message that `build` makes around a reply port and waits for the answer, at most `deadline`.
///
/// Errors: every [`AskError`]; after `Full` and `Gone` the actor has not seen the request.
pub async fn ask<M, R>(
    mailbox: &(impl Mailbox<M> + ?Sized),
    build: impl FnOnce(Reply<R>) -> M,
    deadline: Duration,
) -> Result<R, AskError> {
    let (sender, answer) = ractor::concurrency::oneshot();
    mailbox
        .post(build(Reply::new(sender)))
        .map_err(|error| match error {
            PostError::Full(_) => AskError::Full,
            PostError::Gone => AskError::Gone,
        })?;
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        // A dying actor drops the requests in its mailbox: that is its end, not its opinion of the request.
        Ok(Ok(Err(_)) | Err(_)) if mailbox.is_gone() => Err(AskError::Gone),
        Ok(Ok(Err(_)) | Err(_)) => Err(AskError::Rejected),
        Err(_) => Err(AskError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{Actor, ActorProcessingErr, RactorMessage};

    const LONG: Duration = Duration::from_secs(5);

    #[derive(RactorMessage)]
    enum Question {
        Double(u32, Reply<u32>),
        Forget(Reply<u32>),
        Hold(Reply<u32>),
        Panic(Reply<u32>),
    }

    struct Oracle;

    impl Actor for Oracle {
        type Msg = Question;
        type State = Vec<Reply<u32>>;
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<Question>,
            (): (),
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(Vec::new())
        }

        async fn handle(
            &self,
            _: ActorRef<Question>,
            question: Question,
            held: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            match question {
                Question::Double(number, reply) => {
                    reply.send(number * 2).map_err(|_| "nobody waits")?
                }
                Question::Forget(_reply) => {}
                Question::Hold(reply) => held.push(reply),
                Question::Panic(reply) => {
                    held.push(reply);
                    return Err("cannot go on".into());
                }
            }
            Ok(())
        }
    }

    async fn oracle() -> ActorRef<Question> {
        Actor::spawn(None, Oracle, ()).await.unwrap().0
    }

    #[tokio::test]
    async fn answers_arrive() {
        assert_eq!(
            ask(&oracle().await, |reply| Question::Double(21, reply), LONG).await,
            Ok(42)
        );
    }

    #[tokio::test]
    async fn a_forgotten_reply_is_rejected_at_once() {
        assert_eq!(
            ask(&oracle().await, Question::Forget, LONG).await,
            Err(AskError::Rejected)
        );
    }

    #[tokio::test]
    async fn silence_ends_with_the_deadline() {
        let deadline = Duration::from_millis(20);
        assert_eq!(
            ask(&oracle().await, Question::Hold, deadline).await,
            Err(AskError::Timeout)
        );
    }

    #[tokio::test]
    async fn the_end_of_the_actor_is_not_a_rejection() {
        let oracle = oracle().await;
        assert_eq!(
            ask(&oracle, Question::Panic, LONG).await,
            Err(AskError::Gone)
        );
        assert_eq!(
            ask(&oracle, |reply| Question::Double(1, reply), LONG).await,
            Err(AskError::Gone)
        );
    }

    #[tokio::test]
    async fn an_abandoned_reply_gives_the_answer_back() {
        let (sender, answer) = ractor::concurrency::oneshot();
        let reply = Reply::new(sender);
        drop(answer);
        assert_eq!(reply.send(7), Err(7));
    }
}
