//! Goal: the farm's Redis user can count, keep tickets and publish, and can do nothing that would let a break-in spread.
//! Method: each command on a real server; the error must be Redis' own refusal.
#![allow(clippy::unwrap_used)]

mod support;

use flowai_embedded::Redis;

#[tokio::test]
async fn what_the_farm_needs_is_allowed_and_the_rest_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Redis::start(folder.path()).await.unwrap();
    let mut connection = support::redis(server.url()).await;

    let mut check = async |command: &str, allowed: bool| {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        for word in words {
            cmd.arg(word);
        }
        match cmd.query_async::<redis::Value>(&mut connection).await {
            Ok(_) => assert!(allowed, "{command} was allowed"),
            Err(error) => {
                assert!(!allowed, "{command} was refused: {error}");
                assert_eq!(error.code(), Some("NOPERM"), "{command}: {error}");
            }
        }
    };
    for needed in [
        "SET ticket:a 1 NX EX 30",
        "GETDEL ticket:a",
        "INCR rate:a",
        "EXPIRE rate:a 10 NX",
        "TTL rate:a",
        "MGET rate:a rate:b",
        "DEL rate:a",
        "PUBLISH hints 1",
        "PING",
    ] {
        check(needed, true).await;
    }
    for dangerous in [
        "EVAL return 0",
        "EVALSHA 0 0",
        "FUNCTION LIST",
        "FCALL f 0",
        "SCRIPT FLUSH",
        "CONFIG GET *",
        "KEYS *",
        "FLUSHALL",
        "ACL LIST",
        "SHUTDOWN NOSAVE",
        "MODULE LIST",
        "REPLICAOF NO ONE",
        "SAVE",
    ] {
        check(dangerous, false).await;
    }
}

#[tokio::test]
async fn a_killed_redis_comes_back_empty_at_the_same_address() {
    let folder = tempfile::tempdir().unwrap();
    let server = Redis::start(folder.path()).await.unwrap();
    let url = server.url().to_owned();
    let mut connection = support::redis(&url).await;
    redis::cmd("SET")
        .arg("a")
        .arg(1)
        .query_async::<()>(&mut connection)
        .await
        .unwrap();

    server.kill().await;
    server.restart().await.unwrap();

    let mut connection = support::redis(&url).await;
    let value: Option<i32> = redis::cmd("GET")
        .arg("a")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(value, None);
}
