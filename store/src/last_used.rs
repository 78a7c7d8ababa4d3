//! Connections for what is asked all the time, one short statement after the other (docs/adr/0022).
//!
//! A pool gives its connections out in turn, and asks the server after each use whether the connection still stands. Here the one
//! that was used last comes first: its server process has the plans, and its memory lies in a core's cache. What is not answered
//! in time is given up, and the connection with it: a peer that has gone may never say so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::query::QueryAs;
use sqlx::{FromRow, PgConnection, Postgres};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::database::{ACQUIRE_TIMEOUT, STATEMENT_TIMEOUT, TRUSTED_UNUSED, ping, within};

/// From a statement to its answer: the server ends it sooner.
const ANSWERED_WITHIN: Duration = STATEMENT_TIMEOUT.saturating_add(Duration::from_secs(2));
/// As a pool does: a server's process grows with what it has seen.
const KEPT_FOR: Duration = Duration::from_secs(30 * 60);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LastUsed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
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

impl LastUsed {
    /// So many statements at a time, on connections that are taken out of the pool when something is asked.
    pub(crate) fn new(pool: PgPool, most: usize) -> Self {
        Self::answering_within(ANSWERED_WITHIN, pool, most)
    }

    fn answering_within(answered_within: Duration, pool: PgPool, most: usize) -> Self {
        Self(Arc::new(Inner {
            pool,
            answered_within,
            turns: Semaphore::new(most),
            unused: Mutex::default(),
        }))
    }

    /// All rows of one statement, which is a transaction of its own.
    ///
    /// # Errors
    /// `PoolTimedOut`: nothing was asked. The server refuses it, or is away, or has not answered in time: then, and when the connection
    /// broke, the statement may be carried out all the same, as it may when the caller is dropped.
    pub(crate) async fn fetch_all<O>(
        &self,
        query: QueryAs<'_, Postgres, O, PgArguments>,
    ) -> Result<Vec<O>, sqlx::Error>
    where
        O: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let turn = timeout(ACQUIRE_TIMEOUT, self.0.turns.acquire()).await;
        let _turn = turn
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        let mut connection = self.connection().await?;
        let answer = query.fetch_all(&mut connection.raw);
        let answer = within(self.0.answered_within, answer).await;
        // Whatever else goes wrong, and a caller who goes, leaves it in the middle of something.
        if answer.as_ref().err().is_none_or(is_refusal) {
            connection.used_at = Instant::now();
            self.unused().push(connection);
        }
        answer
    }

    async fn connection(&self) -> Result<Connection, sqlx::Error> {
        let last = self.unused().pop();
        let last = last.filter(|last| last.opened_at.elapsed() <= KEPT_FOR);
        if let Some(mut last) = last {
            let is_trusted = last.used_at.elapsed() <= TRUSTED_UNUSED;
            if is_trusted || ping(&mut last.raw).await.is_ok() {
                return Ok(last);
            }
            // The others were used before it.
            self.unused().clear();
        }
        let raw = self.0.pool.acquire().await?.detach();
        let now = Instant::now();
        Ok(Connection {
            raw,
            opened_at: now,
            used_at: now,
        })
    }

    fn unused(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server has refused the statement, and takes the next one. Class 57: it is about to go.
fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| !code.starts_with("57"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use flowai_embedded::{Listen, Postgres as Server};
    use sqlx::postgres::PgConnectOptions;
    use tempfile::TempDir;
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, UnixStream};
    use tokio::sync::watch;

    use super::*;
    use crate::database::{GivenUp, PING_WITHIN, pool};

    const MOST: usize = 2;
    const SHORT: Duration = Duration::from_secs(1);

    async fn start(answered_within: Duration) -> (TempDir, Server, LastUsed) {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), Listen::Socket).await.unwrap();
        let options = server.urls().owner.parse().unwrap();
        let pool = pool(4, GivenUp::default())
            .connect_with(options)
            .await
            .unwrap();
        let last_used = LastUsed::answering_within(answered_within, pool, MOST);
        (folder, server, last_used)
    }

    /// Which process of the server answers, after so many seconds.
    async fn process(last_used: &LastUsed, seconds: f64) -> Result<i32, sqlx::Error> {
        let query = sqlx::query_as("select pg_backend_pid() from pg_sleep($1)").bind(seconds);
        let rows: Vec<(i32,)> = last_used.fetch_all(query).await?;
        Ok(rows[0].0)
    }

    #[tokio::test]
    async fn the_one_that_was_used_last_is_used_next() {
        let (_folder, _server, last_used) = start(ANSWERED_WITHIN).await;
        let slow = tokio::spawn({
            let last_used = last_used.clone();
            async move { process(&last_used, 2.0).await.unwrap() }
        });
        tokio::time::sleep(SHORT).await;
        let quick = process(&last_used, 0.0).await.unwrap();
        let slow = slow.await.unwrap();
        assert_ne!(quick, slow);
        for _ in 0..3 {
            assert_eq!(process(&last_used, 0.0).await.unwrap(), slow);
        }
        let many = (0..4 * MOST).map(|_| process(&last_used, 0.01));
        for answer in futures::future::join_all(many).await {
            answer.unwrap();
        }
        assert_eq!(last_used.unused().len(), MOST);
    }

    #[tokio::test]
    async fn one_that_was_given_up_is_not_used_again_and_keeps_no_turn() {
        let (_folder, _server, last_used) = start(SHORT).await;
        let first = process(&last_used, 0.0).await.unwrap();
        for _ in 0..=MOST {
            let late = process(&last_used, 60.0).await.unwrap_err();
            assert!(matches!(&late, sqlx::Error::Io(_)), "{late}");
        }
        let second = process(&last_used, 0.0).await.unwrap();
        assert_ne!(first, second);
        // Its caller goes.
        let dropped = timeout(SHORT / 3, process(&last_used, 60.0)).await;
        assert!(dropped.is_err());
        assert_ne!(process(&last_used, 0.0).await.unwrap(), second);
    }

    #[tokio::test]
    async fn one_whose_statement_was_refused_is_used_again() {
        let (_folder, _server, last_used) = start(ANSWERED_WITHIN).await;
        let before = process(&last_used, 0.0).await.unwrap();
        let refused = sqlx::query_as::<_, (i32,)>("select 1 / 0");
        let refused = last_used.fetch_all(refused).await.unwrap_err();
        assert!(matches!(refused, sqlx::Error::Database(_)), "{refused}");
        assert_eq!(process(&last_used, 0.0).await.unwrap(), before);
        // This one ends the session.
        let ended = sqlx::query_as::<_, (bool,)>("select pg_terminate_backend(pg_backend_pid())");
        last_used.fetch_all(ended).await.unwrap_err();
        assert_ne!(process(&last_used, 0.0).await.unwrap(), before);
    }

    #[tokio::test]
    async fn a_server_that_was_started_again_meanwhile_is_asked_as_if_it_had_not() {
        let (_folder, server, last_used) = start(ANSWERED_WITHIN).await;
        let before = process(&last_used, 0.0).await.unwrap();
        server.restart().await.unwrap();
        tokio::time::sleep(TRUSTED_UNUSED).await;
        assert_ne!(process(&last_used, 0.0).await.unwrap(), before);
    }

    /// Passes connections on to the server, until those that stand are to fall silent; their ends hear nothing of that.
    async fn go_between(socket: PathBuf, silence: watch::Receiver<()>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut server = UnixStream::connect(&socket).await.unwrap();
                let mut silence = silence.clone();
                silence.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = silence.changed() => std::future::pending().await,
                    }
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn connections_that_died_without_a_word_are_replaced() {
        let (_folder, server, _) = start(ANSWERED_WITHIN).await;
        let options: PgConnectOptions = server.urls().owner.parse().unwrap();
        let socket = server
            .socket_folder()
            .join(format!(".s.PGSQL.{}", options.get_port()));
        let (silence, silent) = watch::channel(());
        let port = go_between(socket, silent).await;
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(options.get_username())
            .password(&server.passwords().owner)
            .database(options.get_database().unwrap());
        let pool = pool(4, GivenUp::default())
            .connect_with(options)
            .await
            .unwrap();
        let last_used = LastUsed::new(pool.clone(), MOST);
        let before = process(&last_used, 0.0).await.unwrap();
        // And one more that waits in the pool.
        drop(pool.acquire().await.unwrap());

        tokio::time::sleep(TRUSTED_UNUSED).await;
        silence.send(()).unwrap();
        let patience = 3 * PING_WITHIN;
        let after = timeout(patience, process(&last_used, 0.0)).await;
        assert_ne!(after.unwrap().unwrap(), before);

        // Whoever is dropped while one is silent does not take its place in the pool with it.
        for _ in 0..=pool.options().get_max_connections() {
            let mut held = pool.acquire().await.unwrap();
            silence.send(()).unwrap();
            let asking = sqlx::query("select 1").execute(&mut *held);
            assert!(timeout(SHORT / 10, asking).await.is_err());
        }
    }
}
