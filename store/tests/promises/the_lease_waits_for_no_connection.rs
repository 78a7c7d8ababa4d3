//! Goal: a leader renews its lease however many others wait for a connection, as all nodes of a farm do after a takeover.
//! Method: every connection of the pool is taken.

use std::time::Duration;

use flowai_store::leader;
use tokio::time::timeout;

use crate::farm::{FIRST, Farm};

#[tokio::test]
async fn the_lease_waits_for_no_connection() {
    let farm = Farm::start().await;
    let pool = farm.database.pool();
    let mut taken = Vec::new();
    while let Ok(Ok(connection)) = timeout(Duration::from_millis(200), pool.acquire()).await {
        taken.push(connection);
    }
    assert!(!taken.is_empty());
    let renewed = timeout(
        Duration::from_secs(2),
        leader::renew(&farm.database, FIRST, "c1"),
    )
    .await;
    assert!(renewed.expect("it waits for nobody").unwrap());
    let view = timeout(Duration::from_secs(2), leader::look(&farm.database)).await;
    assert!(view.expect("it waits for nobody").unwrap().is_held);
}
