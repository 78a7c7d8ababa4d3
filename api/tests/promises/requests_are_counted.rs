//! Goal: nobody can guess passwords or ask without end, one user's haste is not another's, and without Redis strangers are refused
//! while known callers go on.
//! Method: real counts in a real Redis, which is then killed.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, DEADLINE, Farm, Options, PASSWORD};

/// `r=` of the header `RateLimit`.
fn remaining(answer: &Answer) -> u32 {
    let header = answer.header("ratelimit");
    let left = header
        .split("r=")
        .nth(1)
        .unwrap_or_else(|| panic!("{answer:?}"));
    left.split(';').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_one_account_are_few() {
    let farm = Farm::start_with(Options {
        rate_scale: 1,
        ..Options::default()
    })
    .await;
    let stranger = farm.stranger();
    let guess = async |email: &str, password: &str| {
        let credentials = json!({ "email": email, "password": password });
        stranger.post("/v1/auth/login", &credentials).await
    };
    let signup = json!({ "email": "ada@example.org", "password": PASSWORD });
    stranger.post("/v1/auth/signup", &signup).await.expect(202);
    for known in ["ada@example.org", "nobody@example.org"] {
        let mut refused = None;
        for _ in 0..11 {
            let answer = guess(known, "a wrong password").await;
            if answer.status == 429 {
                refused = Some(answer);
                break;
            }
            answer.expect_problem(401, "login_refused");
        }
        // The same for an account that is there and for one that is not.
        let refused = refused.expect("too many guesses are refused");
        refused.expect_problem(429, "rate_limited");
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        // A window, and a tenth of the next: the limit slides.
        assert!((1..=66).contains(&wait), "{wait}");
        assert!(
            refused.header("ratelimit-policy").contains("q=10;w=60"),
            "{refused:?}"
        );
        // The right password does not help now.
        guess(known, PASSWORD)
            .await
            .expect_problem(429, "rate_limited");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_keys_does_not_ask_the_database_for_ever() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let key = farm.with_key(&ada, &["videos"]).await;
    key.get("/v1/videos").await.expect(200);
    let guess = async |number: u32| {
        let token = format!("flk_{number:064}");
        let request = farm.stranger().request(Method::GET, "/v1/videos");
        Answer::of(request.bearer_auth(token)).await
    };
    for number in 0..60 {
        guess(number).await.expect_problem(401, "token_invalid");
    }
    guess(60).await.expect_problem(429, "rate_limited");
    // Who is known goes on, also from there, and when it is looked up again.
    for _ in 0..10 {
        key.get("/v1/videos").await.expect(200);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_haste_is_not_anothers() {
    let farm = Farm::start_with(Options {
        rate_scale: 1,
        ..Options::default()
    })
    .await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let first = ada.get("/v1/me").await;
    assert_eq!(first.header("ratelimit-policy"), "\"reads\";q=1200;w=60");
    let before = remaining(&first);
    let of_bob = remaining(&bob.get("/v1/me").await);
    for _ in 0..5 {
        ada.get("/v1/me").await.expect(200);
    }
    // A key of the same account counts with it.
    let key = farm.with_key(&ada, &["videos"]).await;
    assert!(remaining(&key.get("/v1/videos").await) <= before - 6);
    assert!(remaining(&bob.get("/v1/me").await) >= of_bob - 1);

    // Changes have a count of their own, which ends.
    let mut statuses = Vec::new();
    for _ in 0..310 {
        let answer = ada.delete("/v1/uploads/x").await;
        statuses.push(answer.status);
        if answer.status == 429 {
            answer.expect_problem(429, "rate_limited");
            break;
        }
    }
    assert_eq!(
        statuses.last(),
        Some(&429),
        "{} changes went through",
        statuses.len()
    );
    ada.get("/v1/me").await.expect(200);
    bob.delete("/v1/uploads/x").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_strangers_are_refused_and_known_callers_go_on() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    farm.parts.redis().unwrap().kill().await;
    let credentials = json!({ "email": "ada@example.org", "password": PASSWORD });
    for path in ["/v1/auth/login", "/v1/auth/signup"] {
        let refused = farm.stranger().post(path, &credentials).await;
        refused.expect_problem(503, "dependency_down");
    }
    ada.post("/v1/ws-tickets", &Value::Null)
        .await
        .expect_problem(503, "dependency_down");
    // A new minute begins at most once between the three.
    let mut left = Vec::new();
    for _ in 0..3 {
        let answer = ada.get("/v1/me").await;
        left.push(remaining(answer.expect(200)));
    }
    assert!(
        left.windows(2).any(|pair| pair[1] == pair[0] - 1),
        "{left:?}"
    );
    ada.video().await;
    let ready = Answer::of(farm.stranger().request(Method::GET, "/readyz")).await;
    let ready = ready.expect(503).json();
    assert_eq!(
        (&ready["redis"], &ready["database"]),
        (&json!(false), &json!(true))
    );

    farm.parts.redis().unwrap().restart().await.unwrap();
    let back = tokio::time::timeout(DEADLINE, async {
        while farm
            .stranger()
            .post("/v1/auth/login", &credentials)
            .await
            .status
            != 200
        {}
    });
    back.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_a_render_counts_as_one() {
    let farm = Farm::start_with(Options {
        rate_scale: 1,
        ..Options::default()
    })
    .await;
    let ada = farm.user("ada").await;
    let video = ada.video().await;
    // From one budget, whether what is asked is good or not. A new hour begins at most once between them.
    let mut left = Vec::new();
    for path in [
        "/v1/videos".to_owned(),
        "/v1/batches".to_owned(),
        format!("/v1/videos/{video}/final"),
        "/openai/v1/videos".to_owned(),
        format!("/openai/v1/videos/{video}/remix"),
    ] {
        let answer = ada.post(&path, &json!({})).await;
        let policy = answer.header("ratelimit-policy");
        assert!(policy.contains("q=600;w=3600"), "{path}: {policy:?}");
        left.push(remaining(&answer));
    }
    let counted = left.windows(2).filter(|pair| pair[1] + 1 == pair[0]);
    assert!(counted.count() >= left.len() - 2, "{left:?}");
    let read = ada.get("/v1/videos").await;
    assert!(!read.header("ratelimit-policy").contains("q=600;w=3600"));
}
