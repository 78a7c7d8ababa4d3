//! The leader's task around the state: hears each look, has nodes drained, tells the provider.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::NodeId;
use flowai_actors::kit::{Backoff, TaskResult};
use flowai_actors::limits::{AUTOSCALE_RETRY_FIRST_MS, AUTOSCALE_RETRY_MOST_MS};
use tokio::sync::watch;
use tokio::time::Instant;

use super::provider::{Call, Provider, ProviderError};
use super::state::{Effect, Policy, State};
use crate::metrics;
use crate::scheduler::{Drain, Pool};

/// What the leader sees, in the order of the policy's groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    pub(crate) at: Monotonic,
    pub(crate) pools: Vec<Pool>,
}

/// Runs for one term. `drain` has a node drained, or given jobs again.
pub(crate) async fn run<P, D>(
    policy: Policy,
    provider: P,
    mut looks: watch::Receiver<Look>,
    drain: impl Fn(NodeId, Drain) -> D,
) -> TaskResult
where
    P: Provider,
    D: Future<Output = TaskResult>,
{
    let mut state = State::new(policy, P::DRAINS);
    let mut teller = Teller::new(provider);
    loop {
        tokio::select! {
            // The leader is gone, and its tasks with it.
            changed = looks.changed() => if changed.is_err() { return Ok(()) },
            call = teller.tell() => {
                if let Some(call) = call {
                    let now = looks.borrow().at;
                    state.tells(&call, now);
                }
                continue;
            }
        }
        let look = looks.borrow_and_update().clone();
        for effect in state.step(&look.pools, look.at) {
            match effect {
                Effect::Decided(decision) => {
                    metrics::record_autoscaling(&decision);
                    tracing::debug!(?decision, "autoscaler has looked");
                }
                Effect::Drain(node) if P::DRAINS => {
                    tracing::info!(%node, "autoscaler drains a node that is not needed");
                    drain(node, Drain::Lazy).await?;
                }
                Effect::Undrain(node) if P::DRAINS => drain(node, Drain::Off).await?,
                Effect::Drain(node) => tracing::info!(%node, "dry run: a node would be drained"),
                Effect::Undrain(_) => {}
                Effect::Call(call) => teller.replace(call),
            }
        }
    }
}

type Told = (Call, Result<(), ProviderError>);

/// Tells a provider one thing after the other, the newest of each group. After a failure all of them wait.
struct Teller<P> {
    provider: Arc<P>,
    /// One of each group.
    waiting: VecDeque<Call>,
    being_told: Option<Pin<Box<dyn Future<Output = Told> + Send>>>,
    backoff: Backoff,
    not_before: Instant,
}

impl<P: Provider> Teller<P> {
    fn new(provider: P) -> Self {
        let first = Duration::from_millis(AUTOSCALE_RETRY_FIRST_MS);
        let most = Duration::from_millis(AUTOSCALE_RETRY_MOST_MS);
        Self {
            provider: Arc::new(provider),
            waiting: VecDeque::new(),
            being_told: None,
            backoff: Backoff::new(first, most),
            not_before: Instant::now(),
        }
    }

    fn replace(&mut self, call: Call) {
        self.waiting.retain(|older| older.class != call.class);
        self.waiting.push_back(call);
    }

    /// Gives the call when the provider begins to be told it, and nothing when it has been. Loses nothing when it is dropped before.
    async fn tell(&mut self) -> Option<Call> {
        if self.being_told.is_none() {
            tokio::time::sleep_until(self.not_before).await;
            let Some(call) = self.waiting.pop_front() else {
                return std::future::pending().await;
            };
            let (provider, begun) = (self.provider.clone(), call.clone());
            self.being_told = Some(Box::pin(async move {
                let result = provider.want(&call).await;
                (call, result)
            }));
            return Some(begun);
        }
        let being_told = self.being_told.as_mut()?;
        let (call, result) = being_told.await;
        self.being_told = None;
        let Err(error) = result else {
            self.backoff.reset();
            return None;
        };
        tracing::error!(class = call.class, wanted = call.wanted, %error, "autoscaler's provider failed; it is told again later");
        metrics::record_provider_failure();
        self.not_before = Instant::now() + self.backoff.next_wait(&mut rand::rng());
        // Another group has its turn first, and a newer call counts.
        if self.waiting.iter().all(|newer| newer.class != call.class) {
            self.waiting.push_back(call);
        }
        None
    }
}
