//! Mailboxes with a bound. ractor's own are unbounded (slawlor/ractor#84).

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorRef, ActorStatus, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::ask::{Mailbox, PostError};

/// A message together with its place in the mailbox: the type an actor with a bounded mailbox handles.
///
/// The place is free again when the parcel is opened or dropped, so the bound counts messages that wait, not the one
/// being handled.
#[derive(Debug)]
pub struct Parcel<M> {
    message: M,
    place: OwnedSemaphorePermit,
}

impl<M: Send + 'static> Message for Parcel<M> {}

impl<M> Parcel<M> {
    /// Frees the place and gives the message.
    pub fn open(self) -> M {
        drop(self.place);
        self.message
    }
}

/// The address of an actor whose mailbox holds at most a fixed number of messages. Cheap to clone; all clones share
/// the bound.
#[derive(Debug)]
pub struct BoundedRef<M> {
    actor: ActorRef<Parcel<M>>,
    places: Arc<Semaphore>,
}

impl<M> Clone for BoundedRef<M> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            places: self.places.clone(),
        }
    }
}

impl<M: Send + 'static> BoundedRef<M> {
    /// Bounds the mailbox of `actor` to `capacity` waiting messages. Call it once an actor and hand out clones: a
    /// second bound would count on its own.
    pub fn new(actor: ActorRef<Parcel<M>>, capacity: usize) -> Self {
        Self {
            actor,
            places: Arc::new(Semaphore::new(capacity)),
        }
    }

    /// Posts without waiting; a full mailbox gives the message back.
    pub fn try_send(&self, message: M) -> Result<(), PostError<M>> {
        match self.places.clone().try_acquire_owned() {
            Ok(place) => self.deliver(message, place),
            Err(TryAcquireError::NoPermits) if self.has_ended() => Err(PostError::Gone),
            Err(TryAcquireError::NoPermits) => Err(PostError::Full(message)),
            Err(TryAcquireError::Closed) => Err(PostError::Gone),
        }
    }

    /// Posts, waiting at most `deadline` for a place; gives the message back when none came free.
    pub async fn send(&self, message: M, deadline: Duration) -> Result<(), PostError<M>> {
        match tokio::time::timeout(deadline, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => self.deliver(message, place),
            Ok(Err(_)) => Err(PostError::Gone),
            Err(_) if self.has_ended() => Err(PostError::Gone),
            Err(_) => Err(PostError::Full(message)),
        }
    }

    /// The actor itself, to stop, watch or link it. Messages cannot be sent through it.
    pub fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    fn deliver(&self, message: M, place: OwnedSemaphorePermit) -> Result<(), PostError<M>> {
        self.actor
            .send_message(Parcel { message, place })
            .map_err(|_| PostError::Gone)
    }

    fn has_ended(&self) -> bool {
        self.actor.get_status() >= ActorStatus::Draining
    }
}

impl<M: Send + 'static> Mailbox<M> for BoundedRef<M> {
    fn post(&self, message: M) -> Result<(), PostError<M>> {
        self.try_send(message)
    }

    fn is_gone(&self) -> bool {
        self.has_ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{Actor, ActorProcessingErr, AskError, Reply, ask};
    use tokio::sync::{Notify, mpsc};

    enum Work {
        Item(u32),
        Count(Reply<usize>),
    }

    /// Handles one message each time the gate opens.
    struct Gated {
        gate: Arc<Notify>,
        seen: mpsc::Sender<u32>,
    }

    impl Actor for Gated {
        type Msg = Parcel<Work>;
        type State = usize;
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<Self::Msg>,
            (): (),
        ) -> Result<usize, ActorProcessingErr> {
            Ok(0)
        }

        async fn handle(
            &self,
            _: ActorRef<Self::Msg>,
            parcel: Parcel<Work>,
            count: &mut usize,
        ) -> Result<(), ActorProcessingErr> {
            self.gate.notified().await;
            *count += 1;
            match parcel.open() {
                Work::Item(number) => self.seen.send(number).await?,
                Work::Count(reply) => drop(reply.send(*count)),
            }
            Ok(())
        }
    }

    async fn gated(capacity: usize) -> (BoundedRef<Work>, Arc<Notify>, mpsc::Receiver<u32>) {
        let gate = Arc::new(Notify::new());
        let (seen, items) = mpsc::channel(16);
        let (actor, _) = Actor::spawn(
            None,
            Gated {
                gate: gate.clone(),
                seen,
            },
            (),
        )
        .await
        .unwrap();
        (BoundedRef::new(actor, capacity), gate, items)
    }

    #[tokio::test]
    async fn a_full_mailbox_gives_the_message_back_and_recovers() {
        let (worker, gate, mut items) = gated(2).await;
        worker.try_send(Work::Item(1)).unwrap();
        worker.try_send(Work::Item(2)).unwrap();
        assert!(matches!(
            worker.try_send(Work::Item(3)),
            Err(PostError::Full(Work::Item(3)))
        ));
        assert_eq!(
            ask(&worker, Work::Count, Duration::from_secs(5)).await,
            Err(AskError::Full)
        );

        gate.notify_one();
        assert_eq!(items.recv().await, Some(1));
        worker.try_send(Work::Item(3)).unwrap();
        assert!(matches!(
            worker.try_send(Work::Item(4)),
            Err(PostError::Full(_))
        ));
    }

    #[tokio::test]
    async fn waiting_for_a_place_ends_with_the_deadline() {
        let (worker, gate, mut items) = gated(1).await;
        worker.try_send(Work::Item(1)).unwrap();
        let late = worker.send(Work::Item(2), Duration::from_millis(10)).await;
        assert!(matches!(late, Err(PostError::Full(Work::Item(2)))));

        gate.notify_one();
        worker
            .send(Work::Item(2), Duration::from_secs(5))
            .await
            .unwrap();
        gate.notify_one();
        assert_eq!((items.recv().await, items.recv().await), (Some(1), Some(2)));
    }

    #[tokio::test]
    async fn an_ended_actor_is_gone_even_when_its_mailbox_is_full() {
        let (worker, _gate, _items) = gated(1).await;
        worker.try_send(Work::Item(1)).unwrap();
        worker.cell().kill_and_wait(None).await.unwrap();
        assert!(matches!(
            worker.try_send(Work::Item(2)),
            Err(PostError::Gone)
        ));
    }
}
