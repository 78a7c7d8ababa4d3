//! Goal: api instances that look up the same keys at the same moment all find their holders. Method: two look-ups, in opposite
//! orders, that both wait for the key in the middle.

use std::time::Duration;

use flowai_store::accounts::TokenHash;
use flowai_store::api_keys;
use tokio::time::timeout;

use crate::farm::Farm;

const LONG: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[tokio::test]
async fn two_look_ups_in_opposite_orders_both_find_all_holders() {
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
    farm.run("select from api_key where get_byte(key_hash, 0) = 3 for update")
        .await;
    let looking = [upwards, downwards].map(|hashes| {
        let app = farm.app.clone();
        tokio::spawn(async move { api_keys::by_hashes(&app, &hashes).await })
    });
    let both_wait = async {
        let waiting = "select count(*) from pg_locks where not granted";
        while farm.text(waiting).await != "2" {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    timeout(LONG, both_wait).await.unwrap();
    farm.run("commit").await;
    for found in looking {
        let holders = found.await.unwrap().unwrap();
        assert_eq!(holders.len(), 5);
        assert!(holders.values().all(|holder| holder.user == user));
    }

    let one = api_keys::by_hash(&farm.app, &first).await.unwrap();
    assert_eq!(one.map(|holder| holder.user), Some(user));
    let unknown = api_keys::by_hash(&farm.app, &[9; 32]).await.unwrap();
    assert_eq!(unknown, None);
}
