//! Connections for what is asked all the time, one short statement after the other (docs/adr/0022).
//!
//! A pool gives its connections out in turn, and asks the server after each use whether the connection still stands. Here the one
//! that was used last comes first: its server process has the plans, and its memory lies in a core's cache. What is not answered
//! in time is given up, and the connection with it: a peer that has gone may never say so.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::QueryAs;
use sqlx::{Connection as _, FromRow, PgConnection, Postgres};
use tokio::sync::Semaphore;

use crate::database::{STATEMENT_TIMEOUT, TRUSTED_UNUSED};

/// So many statements at a time: those of two lanes of submissions, or a batch of the journal and what is read beside it.
pub(crate) const KEPT_MAX: usize = 3;
/// From the question, connecting included. The server ends a statement sooner.
pub(crate) const ANSWERED_WITHIN: Duration =
    STATEMENT_TIMEOUT.saturating_add(Duration::from_secs(2));
/// As a pool does: a server's process grows with what it has seen.
const KEPT_FOR: Duration = Duration::from_secs(30 * 60);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Kept(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: PgConnectOptions,
    answered_within: Duration,
    turns: Semaphore,
    /// The one that was used last is the last.
    unused: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    raw: PgConnection,
    opened_at: Instant,
    used_at: Instant,
}

impl Kept {
    /// Connects when something is asked.
    pub(crate) fn new(options: PgConnectOptions, answered_within: Duration) -> Self {
        Self(Arc::new(Inner {
            options,
            answered_within,
            turns: Semaphore::new(KEPT_MAX),
            unused: Mutex::default(),
        }))
    }

    /// All rows of one statement, which is a transaction of its own.
    ///
    /// # Errors
    /// The server refuses it or is away, or has not answered in time; then, and when the connection broke, it may be carried out all
    /// the same, as it may when the caller is dropped.
    pub(crate) async fn fetch_all<O>(
        &self,
        query: QueryAs<'_, Postgres, O, PgArguments>,
    ) -> Result<Vec<O>, sqlx::Error>
    where
        O: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        within(self.0.answered_within, async {
            let turn = self.0.turns.acquire().await;
            // Nobody closes it.
            let _turn = turn.map_err(|_| sqlx::Error::PoolClosed)?;
            let mut connection = self.connection().await?;
            // Gone with whatever goes wrong or is given up from here on, as only a whole answer leaves it in order.
            let rows = query.fetch_all(&mut connection.raw).await?;
            connection.used_at = Instant::now();
            self.unused().push(connection);
            Ok(rows)
        })
        .await
    }

    async fn connection(&self) -> Result<Connection, sqlx::Error> {
        loop {
            let Some(mut connection) = self.unused().pop() else {
                let raw = PgConnection::connect_with(&self.0.options).await?;
                let now = Instant::now();
                return Ok(Connection {
                    raw,
                    opened_at: now,
                    used_at: now,
                });
            };
            if connection.opened_at.elapsed() > KEPT_FOR {
                continue;
            }
            let is_trusted = connection.used_at.elapsed() <= TRUSTED_UNUSED;
            // The server may have ended since: then another is opened.
            if is_trusted || connection.raw.ping().await.is_ok() {
                return Ok(connection);
            }
        }
    }

    fn unused(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits so long for an answer of the server.
pub(crate) async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let late = |_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(time, answer)
        .await
        .unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use flowai_embedded::{Listen, Postgres as Server};
    use tempfile::TempDir;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    async fn start(answered_within: Duration) -> (TempDir, Server, Kept) {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), Listen::Socket).await.unwrap();
        let options = PgConnectOptions::from_str(&server.urls().owner).unwrap();
        (folder, server, Kept::new(options, answered_within))
    }

    /// Which process of the server answers, after so many seconds.
    async fn process(kept: &Kept, seconds: f64) -> Result<i32, sqlx::Error> {
        let query = sqlx::query_as("select pg_backend_pid() from pg_sleep($1)").bind(seconds);
        let rows: Vec<(i32,)> = kept.fetch_all(query).await?;
        Ok(rows[0].0)
    }

    #[tokio::test]
    async fn the_one_that_was_used_last_is_used_next() {
        let (_folder, _server, kept) = start(ANSWERED_WITHIN).await;
        let (quick, slow) = tokio::join!(process(&kept, 0.0), process(&kept, 0.2));
        let (quick, slow) = (quick.unwrap(), slow.unwrap());
        assert_ne!(quick, slow);
        for _ in 0..3 {
            assert_eq!(process(&kept, 0.0).await.unwrap(), slow);
        }
        assert_eq!(kept.unused().len(), 2);
        let many = (0..4 * KEPT_MAX).map(|_| process(&kept, 0.01));
        for answer in futures::future::join_all(many).await {
            answer.unwrap();
        }
        assert_eq!(kept.unused().len(), KEPT_MAX);
    }

    #[tokio::test]
    async fn one_that_was_given_up_or_refused_is_not_used_again() {
        let (_folder, _server, kept) = start(SHORT).await;
        let first = process(&kept, 0.0).await.unwrap();
        // As many as there may be: none of them keeps its turn.
        for _ in 0..=KEPT_MAX {
            let late = process(&kept, 60.0).await.unwrap_err();
            assert!(
                matches!(&late, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut),
                "{late}"
            );
        }
        let second = process(&kept, 0.0).await.unwrap();
        assert_ne!(first, second);
        // Its caller goes.
        let dropped = tokio::time::timeout(SHORT / 3, process(&kept, 60.0)).await;
        assert!(dropped.is_err());
        let third = process(&kept, 0.0).await.unwrap();
        assert_ne!(second, third);
        let refused = kept
            .fetch_all::<(i32,)>(sqlx::query_as("select 1 / 0"))
            .await;
        assert!(
            matches!(refused, Err(sqlx::Error::Database(_))),
            "{refused:?}"
        );
        process(&kept, 0.0).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_was_started_again_meanwhile_is_asked_as_if_it_had_not() {
        let (_folder, server, kept) = start(ANSWERED_WITHIN).await;
        let before = process(&kept, 0.0).await.unwrap();
        server.restart().await.unwrap();
        tokio::time::sleep(TRUSTED_UNUSED).await;
        assert_ne!(process(&kept, 0.0).await.unwrap(), before);
    }
}
