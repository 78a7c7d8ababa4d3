//! Who was revoked and who drains, as the rows say: looked at by every coordinator, whether it leads or stands by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::kit::TaskResult;
use flowai_actors::limits::{MEMBERS_ANSWER_MS, MEMBERS_LOOK_MS};
use flowai_actors::link::{NodeLink, PeerId};
use flowai_store::database::{Database, DatabaseError};
use flowai_store::members::{self, Standings};
use tokio::sync::{Mutex, Notify, watch};

const LOOK: Duration = Duration::from_millis(MEMBERS_LOOK_MS);
const ANSWER: Duration = Duration::from_millis(MEMBERS_ANSWER_MS);

/// What the last look found. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    found: Arc<watch::Sender<Standings>>,
    /// Held from the question to what is made of its answer, so that no older answer takes the place of a newer one.
    turn: Arc<Mutex<()>>,
    news: Arc<Notify>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            found: Arc::new(watch::Sender::default()),
            turn: Arc::default(),
            news: Arc::default(),
        }
    }
}

impl Members {
    /// Somebody says that a row has changed: the next look is at once.
    pub(crate) fn look_again(&self) {
        self.news.notify_one();
    }

    /// Looks, and gives what is found now and whatever later looks find that is something else: nothing that is older than the
    /// call.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn follow(
        &self,
        database: &Database,
    ) -> Result<watch::Receiver<Standings>, DatabaseError> {
        self.look(database).await?;
        let mut found = self.found.subscribe();
        found.mark_changed();
        Ok(found)
    }

    async fn look(&self, database: &Database) -> Result<Standings, DatabaseError> {
        let _turn = self.turn.lock().await;
        let standings = members::standings(database).await?;
        self.found.send_if_modified(|known| {
            let is_other = *known != standings;
            known.clone_from(&standings);
            is_other
        });
        Ok(standings)
    }

    /// Looks for ever. While the database does not answer, what was found last holds: who is revoked stays revoked.
    pub(crate) async fn keep_looking(
        self,
        database: Database,
        link: Arc<dyn NodeLink>,
    ) -> TaskResult {
        loop {
            match tokio::time::timeout(ANSWER, self.look(&database)).await {
                Ok(Ok(standings)) => link.bar(revoked(&standings)),
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

#[cfg(test)]
mod tests {
    use flowai_embedded::{Listen, Postgres};
    use flowai_store::database::{RolePasswords, migrate};
    use flowai_store::members::{Drain, Standing};
    use sqlx::{Connection as _, PgConnection};

    use super::*;

    #[tokio::test]
    async fn who_begins_to_follow_is_told_nothing_older() {
        let folder = tempfile::tempdir().unwrap();
        let server = Postgres::start(folder.path(), Listen::Socket)
            .await
            .unwrap();
        let passwords = RolePasswords {
            app: &server.passwords().app,
            coordinator: &server.passwords().coordinator,
        };
        let urls = server.urls();
        migrate(&urls.owner, passwords).await.unwrap();
        let database = Database::connect(&urls.coordinator, 1).await.unwrap();
        let mut owner = PgConnection::connect(&urls.owner).await.unwrap();

        // No look was made before the first, and none between the two.
        let members = Members::default();
        for (statement, drain) in [
            (
                "insert into node_member (node_id, drain) values ('n1', 'lazy')",
                Drain::Lazy,
            ),
            ("update node_member set drain = 'now'", Drain::Now),
        ] {
            sqlx::query(statement).execute(&mut owner).await.unwrap();
            let mut found = members.follow(&database).await.unwrap();
            found.changed().await.unwrap();
            let standing = Standing {
                drain,
                is_revoked: false,
            };
            let expected = Standings::from([("n1".parse().unwrap(), standing)]);
            assert_eq!(*found.borrow_and_update(), expected);
        }
    }
}
