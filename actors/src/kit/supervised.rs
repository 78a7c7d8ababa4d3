//! One supervisor for all: one child, restarted within a budget, else the failure goes up.
//!
//! ractor's default supervisor stops when any child ends and knows no restart intensity; this one restarts a child
//! that failed (returned `Err` or panicked), lets one go that stopped in order, and fails itself when the budget is
//! spent, so that the supervisor above, in the end the process, decides.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;

use super::ask::{Mailbox, PostError};
use super::restarts::{RestartBudget, Verdict};
use crate::link::RactorMessage;

/// Starts the child linked to the given supervisor; gives the address that clients use and the child's own cell.
pub type Start<A> =
    Box<dyn Fn(ActorCell) -> BoxFuture<'static, Result<(A, ActorCell), SpawnErr>> + Send + Sync>;

/// Where a supervised actor stands. Written by its supervisor only.
#[derive(Debug, Clone)]
enum Life<A> {
    Running(A),
    Restarting,
    Stopped,
    Escalated,
}

/// The owner's handle of a supervised actor.
#[derive(Debug)]
pub struct Supervised<A> {
    supervisor: ActorCell,
    life: watch::Receiver<Life<A>>,
}

/// The clients' address of a supervised actor: always its present life. Cheap to clone.
///
/// Between two lives a post answers `Gone`; asking again a moment later reaches the next life.
#[derive(Debug, Clone)]
pub struct SupervisedRef<A> {
    life: watch::Receiver<Life<A>>,
}

impl<A: Clone + Send + Sync + 'static> Supervised<A> {
    /// Starts the child under a new supervisor, linked to `parent` if there is one.
    ///
    /// Errors: the first start of the child failed; later failures are restarts.
    pub async fn start(
        start: Start<A>,
        budget: RestartBudget,
        parent: Option<ActorCell>,
    ) -> Result<Self, SpawnErr> {
        let (life, watch) = watch::channel(Life::Restarting);
        let supervisor = Supervisor { start };
        let arguments = (budget, life);
        let (supervisor, _) = match parent {
            Some(parent) => Actor::spawn_linked(None, supervisor, arguments, parent).await?,
            None => Actor::spawn(None, supervisor, arguments).await?,
        };
        Ok(Self {
            supervisor: supervisor.get_cell(),
            life: watch,
        })
    }

    /// The address for clients.
    pub fn address(&self) -> SupervisedRef<A> {
        SupervisedRef {
            life: self.life.clone(),
        }
    }

    /// Resolves when the restart budget is spent; never after a stop in order. A program waits for it and exits.
    pub async fn escalated(&self) {
        let mut life = self.life.clone();
        let ended = life
            .wait_for(|life| matches!(life, Life::Escalated | Life::Stopped))
            .await;
        if !matches!(ended.as_deref(), Ok(Life::Escalated)) {
            drop(ended);
            std::future::pending().await
        }
    }

    /// Stops supervisor and child in order, waiting at most `deadline`.
    pub async fn stop(&self, deadline: Duration) {
        if let Some(child) = self.supervisor.get_children().first() {
            child.stop_and_wait(None, Some(deadline)).await.ok();
        }
        self.supervisor
            .stop_and_wait(None, Some(deadline))
            .await
            .ok();
    }
}

impl<A: Clone> SupervisedRef<A> {
    /// The address of the present life, if there is one at this moment.
    pub fn current(&self) -> Option<A> {
        match &*self.life.borrow() {
            Life::Running(address) => Some(address.clone()),
            Life::Restarting | Life::Stopped | Life::Escalated => None,
        }
    }
}

impl<M, A: Mailbox<M> + Clone + Send> Mailbox<M> for SupervisedRef<A> {
    fn post(&self, message: M) -> Result<(), PostError<M>> {
        self.current().ok_or(PostError::Gone)?.post(message)
    }

    fn is_gone(&self) -> bool {
        self.current().is_none_or(|address| address.is_gone())
    }
}

#[derive(RactorMessage)]
struct StartAgain;

struct Supervisor<A> {
    start: Start<A>,
}

struct State<A> {
    child: ActorCell,
    budget: RestartBudget,
    life: watch::Sender<Life<A>>,
}

impl<A> State<A> {
    /// Plans the next life, or ends the supervisor with the reason.
    fn crashed(
        &mut self,
        supervisor: &ActorRef<StartAgain>,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        match self.budget.crashed(Instant::now()) {
            Verdict::RestartAfter(wait) => {
                tracing::warn!(
                    reason,
                    wait_ms = wait.as_millis() as u64,
                    "actor failed; it will be started again"
                );
                self.life.send_replace(Life::Restarting);
                supervisor.send_after(wait, || StartAgain);
                Ok(())
            }
            Verdict::Escalate => {
                tracing::error!(
                    reason,
                    "actor failed too often; the failure goes to its supervisor"
                );
                self.life.send_replace(Life::Escalated);
                Err(format!("restart budget is spent; last failure: {reason}").into())
            }
        }
    }
}

impl<A: Clone + Send + Sync + 'static> Actor for Supervisor<A> {
    type Msg = StartAgain;
    type State = State<A>;
    type Arguments = (RestartBudget, watch::Sender<Life<A>>);

    async fn pre_start(
        &self,
        myself: ActorRef<StartAgain>,
        (budget, life): Self::Arguments,
    ) -> Result<State<A>, ActorProcessingErr> {
        let (address, child) = (self.start)(myself.get_cell()).await?;
        life.send_replace(Life::Running(address));
        Ok(State {
            child,
            budget,
            life,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<StartAgain>,
        StartAgain: StartAgain,
        state: &mut State<A>,
    ) -> Result<(), ActorProcessingErr> {
        match (self.start)(myself.get_cell()).await {
            Ok((address, child)) => {
                state.child = child;
                state.life.send_replace(Life::Running(address));
                Ok(())
            }
            Err(error) => state.crashed(&myself, &error.to_string()),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<StartAgain>,
        event: SupervisionEvent,
        state: &mut State<A>,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(child, reason)
                if child.get_id() == state.child.get_id() =>
            {
                state.crashed(&myself, &reason.to_string())
            }
            SupervisionEvent::ActorTerminated(child, _, _)
                if child.get_id() == state.child.get_id() =>
            {
                state.life.send_replace(Life::Stopped);
                myself.stop(None);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{AskError, Reply, ask};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LONG: Duration = Duration::from_secs(10);

    #[derive(RactorMessage)]
    enum Order {
        Life(Reply<u32>),
        Crash,
        Stop,
    }

    struct Mortal(u32);

    impl Actor for Mortal {
        type Msg = Order;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Order>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            myself: ActorRef<Order>,
            order: Order,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            match order {
                Order::Life(reply) => drop(reply.send(self.0)),
                Order::Crash => return Err("told to crash".into()),
                Order::Stop => myself.stop(None),
            }
            Ok(())
        }
    }

    async fn mortal(budget: RestartBudget) -> Supervised<ActorRef<Order>> {
        let lives = Arc::new(AtomicU32::new(0));
        let start: Start<ActorRef<Order>> = Box::new(move |supervisor| {
            let life = lives.fetch_add(1, Ordering::Relaxed) + 1;
            Box::pin(async move {
                let (child, _) = Actor::spawn_linked(None, Mortal(life), (), supervisor).await?;
                Ok((child.clone(), child.get_cell()))
            })
        });
        Supervised::start(start, budget, None).await.unwrap()
    }

    async fn life(address: &SupervisedRef<ActorRef<Order>>) -> u32 {
        tokio::time::timeout(LONG, async {
            loop {
                match ask(address, Order::Life, LONG).await {
                    Ok(life) => return life,
                    Err(AskError::Gone | AskError::Rejected) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .unwrap()
    }

    fn quick(most: usize) -> RestartBudget {
        RestartBudget::new(most, Duration::from_secs(60), Duration::from_millis(1))
    }

    #[tokio::test]
    async fn a_crashed_actor_lives_again_at_the_same_address() {
        let supervised = mortal(quick(5)).await;
        let address = supervised.address();
        assert_eq!(life(&address).await, 1);
        address.post(Order::Crash).unwrap();
        address
            .life
            .clone()
            .wait_for(|life| matches!(life, Life::Restarting))
            .await
            .unwrap();
        assert_eq!(life(&address).await, 2);
    }

    #[tokio::test]
    async fn a_crash_loop_escalates() {
        let supervised = mortal(quick(3)).await;
        let address = supervised.address();
        for expected in 1..=4 {
            while life(&address).await < expected {}
            address.post(Order::Crash).unwrap();
        }
        tokio::time::timeout(LONG, supervised.escalated())
            .await
            .unwrap();
        assert!(address.is_gone());
    }

    #[tokio::test]
    async fn a_stop_in_order_is_not_a_crash() {
        let supervised = mortal(quick(3)).await;
        let address = supervised.address();
        address.post(Order::Stop).unwrap();
        let ended = address.life.clone();
        tokio::time::timeout(
            LONG,
            ended.clone().wait_for(|life| matches!(life, Life::Stopped)),
        )
        .await
        .unwrap()
        .unwrap();
        assert!(matches!(address.post(Order::Crash), Err(PostError::Gone)));
    }
}
