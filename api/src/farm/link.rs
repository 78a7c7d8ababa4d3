//! The way to the leader. Everything sent on it may be lost: the leader's sweep and the sessions' looks make up for it.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::{Epoch, JobId, NodeId};
use flowai_actors::link::{LinkEvent, LinkEvents, NodeLink, PeerId, Role};
use flowai_actors::membership::{Join, JoinAnswer, MembersChanged};
use flowai_actors::messages::{
    Body, Compare, Compared, Doorbell, EventsReady, FarmQuery, FarmView, Live,
};
use flowai_actors::preview::PreviewReady;
use flowai_actors::waiting::{Ceiling, Ceilings, CeilingsQuery, Waits, WhyAnswer, WhyQuery};
use flowai_actors::wire::{self, Question};

use crate::app::App;
use crate::error::ApiError;

/// An operator waits no longer for a look at the farm.
const FARM_QUERY_WITHIN: Duration = Duration::from_secs(2);

/// Signing a certificate takes a transaction.
const JOIN_WITHIN: Duration = Duration::from_secs(5);
const LEADER_DOWN: ApiError = ApiError::DependencyDown("the leading coordinator");
/// A million rows are read in some seconds, and what seems to differ is read again. Less than the 30 s that `flowai check` waits,
/// so that it hears what did not answer.
const COMPARE_WITHIN: Duration = Duration::from_secs(25);
/// Less than until it is asked again.
const CEILINGS_WITHIN: Duration = Duration::from_secs(1);
/// A look at a video does without the reason after so long.
const WHY_WITHIN: Duration = Duration::from_millis(500);

/// The link to whoever leads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LeaderLink {
    link: Arc<dyn NodeLink>,
}

impl LeaderLink {
    pub fn new(link: Arc<dyn NodeLink>) -> Self {
        Self { link }
    }

    /// Whether a leader is linked at this moment.
    pub fn is_up(&self) -> bool {
        self.leader().is_some()
    }

    /// Tells the leader that a job waits or shall end. Call it after the commit.
    pub fn ring(&self, job: JobId) {
        self.tell(&Doorbell { job });
    }

    /// The farm as the leader knows it, asked for as often as its nodes fill messages.
    ///
    /// # Errors
    /// `DependencyDown` when nobody leads or answers.
    pub async fn farm(&self) -> Result<FarmView, ApiError> {
        let mut farm = self.some_of_farm(None).await?;
        // A leader that repeats itself must not be asked for ever.
        while let Some(after) = farm.next_after.take() {
            let more = self.some_of_farm(Some(after.clone())).await?;
            farm.nodes.extend(more.nodes);
            farm.next_after = more.next_after.filter(|next| after < *next);
        }
        Ok(farm)
    }

    /// The queues, and of the nodes those behind `after` that fit into a message.
    ///
    /// # Errors
    /// As [`Self::farm`].
    pub(super) async fn some_of_farm(&self, after: Option<NodeId>) -> Result<FarmView, ApiError> {
        self.ask(&FarmQuery { after }, FARM_QUERY_WITHIN).await
    }

    /// Asks the leader to admit a machine.
    ///
    /// # Errors
    /// `DependencyDown` when nobody leads or answers; asking again with the same key is safe.
    pub(crate) async fn join(&self, join: &Join) -> Result<JoinAnswer, ApiError> {
        self.ask(join, JOIN_WITHIN).await
    }

    /// Tells the leader that an operator wants something else of a node. Call it after the commit; lost, it costs a second.
    pub(crate) fn members_changed(&self) {
        self.tell(&MembersChanged {});
    }

    /// Has the leader compare its memory with the rows.
    ///
    /// # Errors
    /// `DependencyDown` when nobody leads or answers.
    pub(crate) async fn compare(&self) -> Result<Compared, ApiError> {
        self.ask(&Compare {}, COMPARE_WITHIN).await
    }

    /// Which sizes are too large for all nodes; `None` when nobody who knows answers in time.
    pub(crate) async fn ceilings(&self) -> Option<Vec<Ceiling>> {
        let Ceilings { ceilings } = self.try_ask(&CeilingsQuery {}, CEILINGS_WITHIN).await?;
        Some(ceilings)
    }

    /// Why a job waits; `None` when it does not, or nobody who knows answers in time.
    pub async fn why(&self, job: JobId) -> Option<(Option<u32>, Waits)> {
        match self.try_ask(&WhyQuery { job }, WHY_WITHIN).await? {
            WhyAnswer::Waits { position, waits } => Some((position, waits)),
            WhyAnswer::NotWaiting => None,
        }
    }

    fn tell<B: Body>(&self, body: &B) {
        let Some(leader) = self.leader() else { return };
        match wire::seal(Epoch::ZERO, body) {
            Ok(envelope) => {
                if let Err(error) = self.link.send(&leader, envelope) {
                    tracing::debug!(%error, kind = B::KIND, "the leader is not told; its next look finds it");
                }
            }
            Err(error) => tracing::error!(%error, "a message cannot be written"),
        }
    }

    async fn ask<Q: Question + Sync>(
        &self,
        question: &Q,
        within: Duration,
    ) -> Result<Q::Answer, ApiError> {
        let leader = self.leader().ok_or(LEADER_DOWN)?;
        wire::ask(self.link.as_ref(), &leader, Epoch::ZERO, question, within)
            .await
            .map_err(|error| {
                tracing::warn!(%error, kind = Q::KIND, "the leader did not answer");
                LEADER_DOWN
            })
    }

    /// For what the caller can do without.
    async fn try_ask<Q: Question + Sync>(
        &self,
        question: &Q,
        within: Duration,
    ) -> Option<Q::Answer> {
        let leader = self.leader()?;
        wire::ask(self.link.as_ref(), &leader, Epoch::ZERO, question, within)
            .await
            .inspect_err(|error| {
                tracing::debug!(%error, kind = Q::KIND, "the leader did not answer");
            })
            .ok()
    }

    fn leader(&self) -> Option<PeerId> {
        let peers = self.link.peers().into_iter().map(|peer| peer.id);
        peers.into_iter().find(|id| id.role() == Role::Coordinator)
    }
}

/// Hands what the leader says to the sessions, until the link ends.
pub async fn follow(app: App, mut events: LinkEvents) {
    while let Some(event) = events.next().await {
        match event {
            LinkEvent::Up(peer) => tracing::info!(leader = %peer.id, "linked to the leader"),
            LinkEvent::Down { peer, reason } => {
                tracing::warn!(leader = %peer.id, ?reason, "link to the leader is down");
            }
            LinkEvent::Refused {
                address,
                code,
                reason,
            } => tracing::debug!(address, ?code, reason, "a coordinator sent us on"),
            LinkEvent::Unsupported { kind, .. } => {
                tracing::warn!(
                    kind,
                    "the leader does not know this message; it runs an older build"
                );
            }
            LinkEvent::Message(delivery) => match delivery.envelope.kind {
                EventsReady::KIND => match wire::open(&delivery.envelope) {
                    Ok(EventsReady { user }) => app.sessions.events_ready(user),
                    Err(error) => tracing::warn!(%error, "a hint cannot be read"),
                },
                Live::KIND => match wire::open::<Live>(&delivery.envelope) {
                    Ok(live) => {
                        app.live.note(&live);
                        app.sessions.live(live);
                    }
                    Err(error) => tracing::warn!(%error, "a live state cannot be read"),
                },
                PreviewReady::KIND => match wire::open(&delivery.envelope) {
                    Ok(ready) => app.previews.note(ready),
                    Err(error) => tracing::warn!(%error, "a hint cannot be read"),
                },
                _ => delivery.unsupported(),
            },
            LinkEvent::Request(request) => request.reply.unsupported(),
        }
    }
}
