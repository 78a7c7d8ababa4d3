//! Who was revoked and who drains, as the rows say: looked at by every coordinator, whether it leads or stands by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::kit::TaskResult;
use flowai_actors::limits::{MEMBERS_ANSWER_MS, MEMBERS_LOOK_MS};
use flowai_actors::link::{NodeLink, PeerId};
use flowai_store::database::Database;
use flowai_store::members::{self, Standings};
use tokio::sync::{Notify, watch};

const LOOK: Duration = Duration::from_millis(MEMBERS_LOOK_MS);
const ANSWER: Duration = Duration::from_millis(MEMBERS_ANSWER_MS);

/// What the last look found. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    found: Arc<watch::Sender<Standings>>,
    news: Arc<Notify>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            found: Arc::new(watch::Sender::default()),
            news: Arc::default(),
        }
    }
}

impl Members {
    /// Somebody says that a row has changed: the next look is at once.
    pub(crate) fn look_again(&self) {
        self.news.notify_one();
    }

    /// The newest look, and every later one that finds something else.
    pub(crate) fn follow(&self) -> watch::Receiver<Standings> {
        self.found.subscribe()
    }

    /// Looks for ever. While the database does not answer, what was found last holds: who is revoked stays revoked.
    pub(crate) async fn keep_looking(
        self,
        database: Database,
        link: Arc<dyn NodeLink>,
    ) -> TaskResult {
        loop {
            match tokio::time::timeout(ANSWER, members::standings(&database)).await {
                Ok(Ok(standings)) => {
                    link.bar(revoked(&standings));
                    self.found.send_if_modified(|known| {
                        let is_other = *known != standings;
                        *known = standings;
                        is_other
                    });
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "members cannot be looked at, trying again")
                }
                Err(_) => tracing::warn!("members were not read in time, trying again"),
            }
            // What changes during a look is told before or after its question: a permit is kept for that.
            let _ = tokio::time::timeout(LOOK, self.news.notified()).await;
        }
    }
}

fn revoked(standings: &Standings) -> BTreeSet<PeerId> {
    let revoked = standings.iter().filter(|(_, standing)| standing.is_revoked);
    revoked.map(|(node, _)| PeerId::from(node)).collect()
}
