//! Goal: an API key is looked up at once, whoever holds its row, and so are those beside it: the api looks many up in one statement.
//! Method: one row that somebody changes and does not let go, as an api does that stands still.

use std::time::Duration;

use flowai_store::accounts::TokenHash;
use flowai_store::api_keys;
use tokio::time::timeout;

use crate::farm::Farm;

/// Well under what a statement may wait for a row.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_row_that_somebody_holds_keeps_no_key_from_being_looked_up() {
    let mut farm = Farm::start().await;
    let user = farm.user;
    farm.run(&format!(
        "insert into api_key (id, owner_id, name, prefix, key_hash, scopes)
         select gen_random_uuid(), '{user}', 'a program', 'abcdefghijkl',
                decode(repeat(lpad(to_hex(n), 2, '0'), 32), 'hex'), '{{}}'
           from generate_series(1, 5) n"
    ))
    .await;
    let upwards: Vec<TokenHash> = (1..=5).map(|n| [n; 32]).collect();
    let downwards: Vec<TokenHash> = upwards.iter().rev().copied().collect();
    let first = upwards[0];

    farm.run("begin").await;
    farm.run("update api_key set revoked_at = now() where get_byte(key_hash, 0) = 3")
        .await;
    for hashes in [&upwards, &downwards] {
        let looking = timeout(SOON, api_keys::by_hashes(&farm.app, hashes));
        let holders = looking.await.unwrap().unwrap();
        assert_eq!(holders.len(), 5);
        assert!(holders.values().all(|holder| holder.user == user));
    }
    let used = "select count(last_used_at) from api_key";
    farm.run("commit").await;
    assert_eq!(farm.text(used).await, "4");
    let looking = api_keys::by_hashes(&farm.app, &upwards);
    assert_eq!(looking.await.unwrap().len(), 4);

    let one = api_keys::by_hash(&farm.app, &first).await.unwrap();
    assert_eq!(one.map(|holder| holder.user), Some(user));
    let unknown = api_keys::by_hash(&farm.app, &[9; 32]).await.unwrap();
    assert_eq!(unknown, None);
}
