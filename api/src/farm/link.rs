//! The way to the leader. Everything sent on it may be lost: the leader's sweep and the sessions' looks make up for it.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::{Epoch, JobId};
use flowai_actors::link::{LinkEvent, LinkEvents, NodeLink, PeerId, Role};
use flowai_actors::messages::{Body as _, Doorbell, EventsReady, FarmQuery, FarmView, Live};
use flowai_actors::preview::PreviewReady;
use flowai_actors::waiting::{Waits, WhyAnswer, WhyQuery};
use flowai_actors::wire;

use crate::app::App;
use crate::error::ApiError;

/// An operator waits no longer for a look at the farm.
const FARM_QUERY_WITHIN: Duration = Duration::from_secs(2);

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
        let Some(leader) = self.leader() else {
            return;
        };
        match wire::seal(Epoch::ZERO, &Doorbell { job }) {
            Ok(envelope) => {
                if let Err(error) = self.link.send(&leader, envelope) {
                    tracing::debug!(%error, %job, "the doorbell did not ring; the leader's sweep finds the job");
                }
            }
            Err(error) => tracing::error!(%error, "a doorbell cannot be written"),
        }
    }

    /// The farm as the leader knows it.
    ///
    /// # Errors
    /// `DependencyDown` when nobody leads or answers.
    pub async fn farm(&self) -> Result<FarmView, ApiError> {
        const DOWN: ApiError = ApiError::DependencyDown("the leading coordinator");
        let leader = self.leader().ok_or(DOWN)?;
        let link = self.link.as_ref();
        wire::ask(link, &leader, Epoch::ZERO, &FarmQuery {}, FARM_QUERY_WITHIN)
            .await
            .map_err(|error| {
                tracing::warn!(%error, "the leader did not describe the farm");
                DOWN
            })
    }

    /// Why a job waits; `None` when it does not, or nobody who knows answers in time.
    pub async fn why(&self, job: JobId) -> Option<(Option<u32>, Waits)> {
        let leader = self.leader()?;
        let (link, question) = (self.link.as_ref(), WhyQuery { job });
        let asked = wire::ask(link, &leader, Epoch::ZERO, &question, WHY_WITHIN).await;
        match asked {
            Ok(WhyAnswer::Waits { position, waits }) => Some((position, waits)),
            Ok(WhyAnswer::NotWaiting) => None,
            Err(error) => {
                tracing::debug!(%error, %job, "the leader did not say why a job waits");
                None
            }
        }
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
