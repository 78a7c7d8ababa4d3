//! Connections: migrations as the owner, everything else as a role that row level security binds.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowai_actors::ids::UserId;
use flowai_actors::limits::INTAKE_LANES;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor as _, PgConnection, Postgres,
    SqlSafeStr as _, Transaction,
};
use tokio::time::timeout;

use crate::last_used::LastUsed;

/// A query that runs longer is ended by the server.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// A transaction that is left open is ended by the server, so that a stuck program holds no locks.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "15s";
/// Whether a connection that was unused for longer still stands is asked before it is used. One that was just used is not worth
/// another way to the server and back before each statement; if the server has gone since, the statement says so.
pub(crate) const TRUSTED_UNUSED: Duration = Duration::from_secs(1);
/// How long a caller waits for a free connection before it is told so.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// From the question whether a connection still stands.
pub(crate) const PING_WITHIN: Duration = Duration::from_secs(1);
/// From a question to its answer, the wait for a free connection and a few statements included.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// What keeps a program from its database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(
        "the database address cannot be read; it must look like postgres://user:password@host/database"
    )]
    Address(#[source] sqlx::Error),
    #[error("the database cannot be reached; check DATABASE_URL and that the server runs")]
    Unreachable(#[source] sqlx::Error),
    /// A role that row level security does not bind would show every tenant's rows to every other.
    #[error("role {role} bypasses row level security; connect as flowai_app or flowai_coordinator")]
    Unbound { role: String },
    #[error("a migration failed; nothing of it was kept")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error("the database refused a statement")]
    Query(#[from] sqlx::Error),
    /// Nothing was done.
    #[error("as many requests wait for the database as may, or for as long; try again in a moment")]
    Busy,
    /// What kept a statement for several callers from being carried out: each of them gets it.
    #[error(transparent)]
    OfAll(Arc<DatabaseError>),
}

impl DatabaseError {
    /// Whether the server is away, restarting or at its limit, or had another one first: the same request may succeed in a moment.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Busy => true,
            Self::OfAll(error) => error.is_outage(),
            Self::Query(error) => match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => true,
                sqlx::Error::Database(refusal) => {
                    refusal.code().is_some_and(|code| is_outage_code(&code))
                }
                _ => false,
            },
            Self::Address(_) | Self::Unbound { .. } | Self::Migration(_) => false,
        }
    }

    /// Whether the statement lost against another one, or stood still for too long itself. Nothing was done, and others beside it may well
    /// be carried out.
    pub(crate) fn lost_to_another(&self) -> bool {
        let Self::Query(sqlx::Error::Database(refusal)) = self else {
            return false;
        };
        let code = refusal.code().unwrap_or_default();
        code.starts_with(LOST_RACES) || matches!(&*code, LOCK_TIMED_OUT | STOOD_STILL)
    }
}

/// Of a statement that the same server, or the next one, will take in a moment.
fn is_outage_code(code: &str) -> bool {
    match code.get(..2) {
        // A connection that broke; out of connections or memory; shutting down, starting up or out of time; lost against another
        // transaction.
        Some("08" | "53" | "57" | LOST_RACES) => true,
        // The last one: a server that became a standby.
        _ => matches!(code, LOCK_TIMED_OUT | STOOD_STILL | "25006"),
    }
}

/// The class of transactions that lost against another one.
const LOST_RACES: &str = "40";
/// Of a program that stood still in the middle of a transaction.
const STOOD_STILL: &str = "25P03";
/// The error of a statement that waited for a lock for longer than it may.
const LOCK_TIMED_OUT: &str = "55P03";

/// Whether a statement was refused by the constraint of this name.
pub(crate) fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    error
        .as_database_error()
        .is_some_and(|refusal| refusal.constraint() == Some(constraint))
}

/// What a refusal of one of our own functions says beside its name; empty when it says nothing.
pub(crate) fn detail_of(error: &sqlx::Error) -> String {
    let refusal = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
    let detail = refusal.and_then(|error| error.detail());
    detail.unwrap_or_default().to_owned()
}

/// A stored value that is none of those the column may hold: the schema is newer than this program.
pub(crate) fn not_of(column: &'static str, found: &str) -> DatabaseError {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: format!("unknown value {found:?}").into(),
    }
    .into()
}

/// The passwords that the two roles of the farm's programs get.
#[derive(Clone, Copy)]
pub struct RolePasswords<'a> {
    pub app: &'a str,
    pub coordinator: &'a str,
}

/// Brings the schema up to date as its owner and sets the roles' passwords. May run any number of times, also at once from
/// several programs: migrations hold an advisory lock.
pub async fn migrate(owner_url: &str, passwords: RolePasswords<'_>) -> Result<(), DatabaseError> {
    let options = PgConnectOptions::from_str(owner_url).map_err(DatabaseError::Address)?;
    // Statements with passwords in them go to no log.
    let options = options.disable_statement_logging();
    let mut owner = PgConnection::connect_with(&options)
        .await
        .map_err(DatabaseError::Unreachable)?;
    sqlx::migrate!().run(&mut owner).await?;
    for (role, password) in [
        ("flowai_app", passwords.app),
        ("flowai_coordinator", passwords.coordinator),
    ] {
        // DDL takes no parameters: the server itself quotes name and password.
        let statement: String =
            sqlx::query_scalar("select format('alter role %I password %L', $1::text, $2::text)")
                .bind(role)
                .bind(password)
                .fetch_one(&mut owner)
                .await?;
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut owner)
            .await?;
    }
    owner.close().await?;
    Ok(())
}

/// A transaction on one user's behalf. Dropping it rolls it back.
pub type UserTransaction = Transaction<'static, Postgres>;

/// Ends a transaction for good: only now is anything durable.
pub async fn commit(transaction: UserTransaction) -> Result<(), DatabaseError> {
    Ok(transaction.commit().await?)
}

/// Waits for an answer as long as one can take, and no longer: the peer of a connection may have gone without a word.
///
/// # Errors
/// Those of the question, and an outage when the answer is late; it may be carried out all the same.
pub async fn in_time<T, E: From<DatabaseError>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let answer = timeout(ANSWERED_WITHIN, answer).await;
    answer.unwrap_or_else(|_| Err(DatabaseError::from(late()).into()))
}

/// Waits so long for an answer of the server.
pub(crate) async fn within<T, E: From<sqlx::Error>>(
    time: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let answer = timeout(time, answer).await;
    answer.unwrap_or_else(|_| Err(late().into()))
}

fn late() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

/// # Errors
/// The connection does not stand any more, as far as one can tell.
pub(crate) async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    within(PING_WITHIN, connection.ping()).await
}

/// A pool whose connections are asked whether they stand where they may not, so that one whose peer has gone keeps no place in it: when it
/// was unused for a while, and when somebody is done with it, perhaps in the middle of a question.
pub(crate) fn pool(connections_max: u32, given_up: GivenUp) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, unused| {
            Box::pin(async move {
                if unused.idle_for > TRUSTED_UNUSED {
                    ping(connection).await?;
                }
                Ok(true)
            })
        })
        .after_release(move |connection, _| {
            let is_doubtful = given_up.is_recent();
            Box::pin(async move {
                ping(connection).await?;
                if is_doubtful {
                    within(PING_WITHIN, connection.execute("rollback")).await?;
                }
                Ok(true)
            })
        })
}

/// When a transaction's begin was given up last. Its connection comes back within one if the server was only late, and nobody knows which
/// of those that come back then it is: each is rolled back.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivenUp(Arc<Mutex<Option<Instant>>>);

impl GivenUp {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < STATEMENT_TIMEOUT)
    }
}

/// Connections of one role.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    given_up: GivenUp,
    lease: LastUsed,
    journal: LastUsed,
    frequent: LastUsed,
}

impl Database {
    /// Connects at most `connections_max` times, and beside these once each for the lease and the journal, and [`INTAKE_LANES`] times for what else is asked
    /// all the time.
    ///
    /// # Errors
    /// [`DatabaseError::Unbound`] when the role is a superuser or may bypass row level security.
    pub async fn connect(url: &str, connections_max: u32) -> Result<Self, DatabaseError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(DatabaseError::Address)?
            .options([
                (
                    "statement_timeout",
                    format!("{}s", STATEMENT_TIMEOUT.as_secs()),
                ),
                (
                    "idle_in_transaction_session_timeout",
                    IDLE_IN_TRANSACTION_TIMEOUT.to_owned(),
                ),
                // Every statement is short, or somebody computes beside it: a second process would take that one's core.
                ("max_parallel_workers_per_gather", "0".to_owned()),
            ]);
        // Whoever needs one of these stands in no line with everybody else.
        let given_up = GivenUp::default();
        let apart = self::pool(2 + INTAKE_LANES as u32, given_up.clone())
            .connect_lazy_with(options.clone());
        let pool = pool(connections_max, given_up.clone())
            .connect_with(options)
            .await
            .map_err(DatabaseError::Unreachable)?;
        let (role, is_unbound): (String, bool) = sqlx::query_as(
            "select rolname::text, rolsuper or rolbypassrls from pg_roles where rolname = current_user",
        )
        .fetch_one(&pool)
        .await?;
        if is_unbound {
            return Err(DatabaseError::Unbound { role });
        }
        Ok(Self {
            lease: LastUsed::new(apart.clone(), 1),
            journal: LastUsed::new(apart.clone(), 1),
            frequent: LastUsed::new(apart, INTAKE_LANES),
            pool,
            given_up,
        })
    }

    /// Opens a transaction in which the policies know `user`, and only until its end: the connection goes back to the pool
    /// knowing nobody.
    pub async fn begin_as(&self, user: UserId) -> Result<UserTransaction, DatabaseError> {
        // One way to the server and back instead of two, for every request. A user's id is hex digits and dashes.
        let statement = format!("begin; set local app.user_id = '{user}'");
        Ok(self.begin_by(statement).await?)
    }

    /// Opens a transaction on nobody's behalf.
    pub(crate) async fn begin(&self) -> Result<UserTransaction, sqlx::Error> {
        self.begin_by("begin".to_owned()).await
    }

    /// The answer is waited for also when the caller is dropped, as one is whose client has gone, and for [`STATEMENT_TIMEOUT`] at most.
    /// sqlx 0.9 knows of a transaction from the answer on: without it the connection would go back to the pool within one, and what came
    /// next there would be said to be durable and be rolled back.
    async fn begin_by(&self, statement: String) -> Result<UserTransaction, sqlx::Error> {
        let connection = self.pool.acquire().await?;
        let statement = AssertSqlSafe(statement).into_sql_str();
        let given_up = self.given_up.clone();
        let begun = tokio::spawn(async move {
            let begun = Transaction::begin(connection, Some(statement));
            let mut begun = pin!(begun);
            let answer = timeout(STATEMENT_TIMEOUT, &mut begun).await;
            answer.unwrap_or_else(|_| {
                given_up.now();
                Err(late())
            })
        });
        begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    /// The pool itself, for statements on nobody's behalf.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// For the lease: a leader that cannot renew it in time leads no more.
    pub(crate) fn lease(&self) -> &LastUsed {
        &self.lease
    }

    /// For the journal, which waits for nobody.
    pub(crate) fn journal(&self) -> &LastUsed {
        &self.journal
    }

    /// For what else is asked all the time, on nobody's behalf or by a statement that says itself on whose behalf it acts: the lanes of
    /// submissions ([`crate::videos::Intake::queue`]), or what a leader reads of jobs and for their nodes.
    pub(crate) fn frequent(&self) -> &LastUsed {
        &self.frequent
    }
}
