//! Goal: a caller that is dropped while it opens a transaction, as one is whose client has gone, leaves its connection as it was:
//! what comes next there is a transaction of its own, durable when it is answered.
//! Method: one connection; callers dropped after every number of polls; then two statements, which are two transactions.

use std::pin::pin;

use flowai_actors::ids::UserId;
use flowai_store::database::Database;
use futures::poll;

use crate::farm::migrated;

/// More than opening takes, so that every place where it waits is among them.
const POLLS_MAX: u32 = 600;

#[tokio::test]
async fn a_dropped_caller_leaves_no_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let server = migrated(folder.path()).await;
    let database = Database::connect(&server.urls().app, 1).await.unwrap();
    let transaction = async || -> String {
        let id = sqlx::query_scalar("select pg_current_xact_id()::text").fetch_one(database.pool());
        id.await.unwrap()
    };

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
            transaction().await,
            transaction().await,
            "dropped after {polls} polls"
        );
    }
}
