//! Whom a fault is for.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use flowai_actors::limits::{LEADER_RENEW_MS, LEADER_TERM_MS};
use tokio::time::{Instant, sleep};

use super::inject::{CRASH_PATIENCE, Injector};
use super::kind::{Place, Victim};
use crate::farm::Program;
use crate::proxy::Proxy;

const LEADER_LOOK: Duration = Duration::from_millis(200);
/// A term that ran out, the next leader's beginning, and a renewal of its lease.
const LEADER_PATIENCE: Duration = Duration::from_millis(2 * LEADER_TERM_MS + LEADER_RENEW_MS);

impl Injector {
    /// `None` where nobody leads, or the place is that of the leader.
    pub(super) async fn proxy(&self, place: Place, draw: usize) -> anyhow::Result<Option<&Proxy>> {
        let parts = &self.farm.parts;
        Ok(Some(match place {
            Place::Postgres => &parts.postgres_proxy,
            Place::Redis => &parts.redis_proxy,
            Place::S3 => &parts.s3_proxy,
            Place::Api => &self.farm.api_proxies[draw % self.farm.api_proxies.len()],
            Place::LeaderLink => match self.leader().await {
                Some(leader) => &self.farm.link_proxies[leader],
                None => return Ok(None),
            },
        }))
    }

    /// `None` where nobody leads and the leader is wanted, or who does not lead.
    pub(super) async fn program(
        &self,
        victim: Victim,
        draw: usize,
    ) -> anyhow::Result<Option<&Program>> {
        let coordinators = &self.farm.coordinators;
        let chosen = match victim {
            Victim::Api => self.farm.apis.get(draw % self.farm.apis.len()),
            Victim::Node => self.farm.nodes.get(draw % self.farm.nodes.len()),
            Victim::Leader | Victim::Standby => {
                let Some(leader) = self.leader().await else {
                    return Ok(None);
                };
                match victim {
                    Victim::Standby => coordinators.get((leader + 1) % coordinators.len()),
                    _ => coordinators.get(leader),
                }
            }
        };
        let chosen = chosen.context("a program of this kind")?;
        // A fault on what is down already would not be one.
        chosen.ready().await?;
        Ok(Some(chosen))
    }

    /// Whether it leads before the next leader should.
    pub(super) async fn leads(&self, program: &Program) -> bool {
        let until = Instant::now() + CRASH_PATIENCE;
        while Instant::now() < until {
            let leader = self.leader().await;
            let leader = leader.and_then(|leader| self.farm.coordinators.get(leader));
            if leader.is_some_and(|leader| leader.name() == program.name()) {
                return true;
            }
        }
        false
    }

    /// The index of the coordinator that leads: it has renewed its lease between two looks. The row of one that is dead bears its name
    /// until the lease runs out, and its successor, which leads nothing, has the same but for the count of its starts.
    async fn leader(&self) -> Option<usize> {
        let until = Instant::now() + LEADER_PATIENCE;
        let mut seen: Option<(String, DateTime<Utc>)> = None;
        while Instant::now() < until {
            let lease = self.lease().await;
            if let (Some((holder, expires)), Some((before, expired))) = (&lease, &seen)
                && holder == before
                && expires > expired
            {
                let (name, _) = holder.rsplit_once('-')?;
                let mut coordinators = self.farm.coordinators.iter();
                return coordinators.position(|program| program.name() == name);
            }
            seen = match (seen, lease) {
                (Some(seen), Some(lease)) if seen.0 == lease.0 => Some(seen),
                (seen, lease) => lease.or(seen),
            };
            sleep(LEADER_LOOK).await;
        }
        None
    }

    /// Who holds it, a program's name and the count of its starts, and until when.
    async fn lease(&self) -> Option<(String, DateTime<Utc>)> {
        let lease =
            sqlx::query_as("select holder, expires_at from leader where holder is not null");
        lease.fetch_optional(&self.database).await.ok().flatten()
    }
}
