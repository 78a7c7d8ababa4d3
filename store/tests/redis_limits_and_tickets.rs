//! Goal: a rate limit holds under concurrency, a ticket is good once, and a Redis that is gone is an error in time.
//! Method: the client against the embedded Redis, whose user may run no scripts.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use flowai_embedded::Redis as Server;
use flowai_store::redis::{Rate, RateLimit, Redis, RedisError};

/// So long that no test sees it end.
const HOUR: Duration = Duration::from_secs(3_600);
const DEADLINE: Duration = Duration::from_secs(30);

async fn start() -> (Redis, Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    (redis, server, folder)
}

#[tokio::test]
async fn of_many_at_once_only_the_limit_gets_through() {
    let (redis, _server, _folder) = start().await;
    let limit = RateLimit {
        name: "submit",
        requests_max: 20,
        window: HOUR,
    };
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let redis = redis.clone();
        tasks.spawn(async move { redis.count(&limit, "user-a").await.unwrap() });
    }
    let answers = tasks.join_all().await;
    let allowed = answers
        .iter()
        .filter(|rate| matches!(rate, Rate::Allowed { .. }))
        .count();
    assert_eq!(allowed, 20);

    let refused = redis.count(&limit, "user-a").await.unwrap();
    assert!(
        matches!(refused, Rate::Limited { retry_after } if retry_after <= 2 * HOUR),
        "{refused:?}"
    );
    assert_eq!(
        redis.count(&limit, "user-b").await.unwrap(),
        Rate::Allowed { remaining: 19 }
    );
    let other = RateLimit {
        name: "login",
        ..limit
    };
    assert_eq!(
        redis.count(&other, "user-a").await.unwrap(),
        Rate::Allowed { remaining: 19 }
    );
}

#[tokio::test]
async fn a_limited_subject_is_let_in_again_as_promised() {
    let (redis, _server, _folder) = start().await;
    let limit = RateLimit {
        name: "short",
        requests_max: 2,
        window: Duration::from_millis(300),
    };
    let started = Instant::now();
    let mut allowed = 0;
    while allowed < 6 {
        assert!(
            started.elapsed() < DEADLINE,
            "only {allowed} requests were let in"
        );
        match redis.count(&limit, "a").await.unwrap() {
            Rate::Allowed { .. } => allowed += 1,
            Rate::Limited { retry_after } => tokio::time::sleep(retry_after).await,
        }
    }
    // Six requests at two per window need at least two windows to pass.
    assert!(
        started.elapsed() >= limit.window,
        "the limit let six through in {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_ticket_is_good_once_and_for_its_purpose() {
    let (redis, _server, _folder) = start().await;
    let ticket = redis.issue_ticket("socket", "user-a", HOUR).await.unwrap();
    assert_eq!(ticket.len(), 64);
    assert_eq!(redis.redeem_ticket("reset", &ticket).await.unwrap(), None);
    assert_eq!(
        redis
            .redeem_ticket("socket", &"0".repeat(64))
            .await
            .unwrap(),
        None
    );

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (redis, ticket) = (redis.clone(), ticket.clone());
        tasks.spawn(async move { redis.redeem_ticket("socket", &ticket).await.unwrap() });
    }
    let redeemed: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(redeemed, ["user-a"]);
}

#[tokio::test]
async fn a_ticket_expires() {
    let (redis, _server, _folder) = start().await;
    let ttl = Duration::from_millis(20);
    let expires = async {
        // Each look redeems the ticket it finds, so each needs a new one: a ticket must be found dead after its time.
        loop {
            let ticket = redis.issue_ticket("socket", "user-a", ttl).await.unwrap();
            tokio::time::sleep(2 * ttl).await;
            if redis
                .redeem_ticket("socket", &ticket)
                .await
                .unwrap()
                .is_none()
            {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, expires).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_is_gone_is_an_error_in_time_and_comes_back() {
    let (redis, server, _folder) = start().await;
    redis.ping().await.unwrap();
    server.kill().await;
    let limit = RateLimit {
        name: "login",
        requests_max: 1,
        window: HOUR,
    };
    let asked = Instant::now();
    let refused = redis.count(&limit, "a").await;
    assert!(
        matches!(refused, Err(RedisError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "the caller waited {:?}",
        asked.elapsed()
    );

    server.restart().await.unwrap();
    let back = async { while redis.ping().await.is_err() {} };
    tokio::time::timeout(DEADLINE, back).await.unwrap();
    assert_eq!(
        redis.count(&limit, "a").await.unwrap(),
        Rate::Allowed { remaining: 0 }
    );
}

#[tokio::test]
async fn a_wrong_url_is_refused() {
    assert!(matches!(
        Redis::connect("http://somewhere").await,
        Err(RedisError::Url(_))
    ));
}
