//! Goal: a caller that is dropped while it opens a transaction, as one is whose client has gone, leaves its connection as it was:
//! what comes next there is a transaction of its own, durable when it is answered. So does one that the server answers too late.
//! Method: one connection; callers dropped after every number of polls, and a server that stands still; then two statements, which are two
//! transactions.

use std::pin::pin;
use std::time::Duration;

use flowai_actors::ids::UserId;
use flowai_store::database::Database;
use futures::poll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::farm::migrated;

/// More than opening takes, so that every place where it waits is among them.
const POLLS_MAX: u32 = 600;

#[tokio::test]
async fn a_dropped_caller_leaves_no_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let server = migrated(folder.path()).await;
    let database = Database::connect(&server.urls().app, 1).await.unwrap();
    for polls in 1..=POLLS_MAX {
        {
            let mut opening = pin!(database.begin_as(UserId::generate()));
            for _ in 0..polls {
                if poll!(opening.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert_ne!(
            transaction(&database).await,
            transaction(&database).await,
            "dropped after {polls} polls"
        );
    }
}

#[tokio::test]
async fn a_begin_that_is_answered_too_late_gives_its_place_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = migrated(folder.path()).await;
    let database = Database::connect(&server.urls().app, 1).await.unwrap();
    let process: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(database.pool())
        .await
        .unwrap();
    // It is asked whether it stands when it comes back, and not again within a second.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let says = |signal| kill(Pid::from_raw(process), signal).unwrap();
    says(Signal::SIGSTOP);
    let begun = database.begin_as(UserId::generate()).await;
    // In time for the question whether the connection stands.
    says(Signal::SIGCONT);
    assert!(begun.unwrap_err().is_outage());
    let (one, other) = (transaction(&database).await, transaction(&database).await);
    assert_ne!(one, other);
    let next: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(
        next, process,
        "the connection stands, and was not thrown away"
    );
}

/// The number of the transaction that a statement is one of.
async fn transaction(database: &Database) -> String {
    let id = sqlx::query_scalar("select pg_current_xact_id()::text").fetch_one(database.pool());
    id.await.unwrap()
}
