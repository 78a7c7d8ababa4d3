//! Goal: the leader learns which rows of a batch somebody else holds without waiting for any of them.
//! Method: another connection locks the row of a job, and the stream of another user.

use flowai_actors::ids::{JobId, UserId};
use flowai_store::journal::held_by_others;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::farm::Farm;

#[tokio::test]
async fn held_rows_are_found_at_once() {
    let mut farm = Farm::start().await;
    let other = UserId::generate();
    farm.sign_up(other).await;
    let [held, free] = [farm.queue().await, farm.queue().await];
    let of_other = farm.queue_for(other).await;
    let gone = JobId::generate();
    let all = [held, free, of_other, gone];
    let found = held_by_others(&farm.database, &all).await.unwrap();
    assert!(found.is_empty(), "{found:?}");

    let mut holder = farm.another_owner().await;
    let mut transaction = holder.begin().await.unwrap();
    for lock in [
        format!("select from job_state where job_id = '{held}' for update"),
        format!("select from user_stream where user_id = '{other}' for update"),
    ] {
        let lock = sqlx::query(AssertSqlSafe(lock));
        lock.execute(&mut *transaction).await.unwrap();
    }
    let found = held_by_others(&farm.database, &all).await.unwrap();
    assert_eq!(found, [held, of_other].into());
    transaction.rollback().await.unwrap();
    let found = held_by_others(&farm.database, &all).await.unwrap();
    assert!(found.is_empty(), "{found:?}");
}
