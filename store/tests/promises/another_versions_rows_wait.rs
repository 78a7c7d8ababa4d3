//! Goal: a row with a name that only a newer version knows waits for that version, and keeps nobody else's from being read.
//! Method: the tier of one user is none that this version knows.

use flowai_actors::ids::UserId;
use flowai_store::recovery;

use crate::farm::Farm;

#[tokio::test]
async fn another_versions_rows_wait() {
    let mut farm = Farm::start().await;
    let other = UserId::generate();
    farm.sign_up(other).await;
    let (known, unknown) = (farm.queue().await, farm.queue_for(other).await);
    farm.run("alter table account drop constraint account_tier_check")
        .await;
    farm.run(&format!(
        "update account set tier = 'of tomorrow' where id = '{other}'"
    ))
    .await;
    let found = recovery::jobs(&farm.database, &[known, unknown])
        .await
        .unwrap();
    let read: Vec<_> = found.rows.iter().map(|row| row.job).collect();
    assert_eq!((read, found.unread), (vec![known], vec![unknown]));
    let now = recovery::now(&farm.database).await.unwrap();
    let found = recovery::unfinished(&farm.database, None, None, now)
        .await
        .unwrap();
    assert_eq!((found.rows.len(), found.unread), (1, vec![unknown]));
}
