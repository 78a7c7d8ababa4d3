//! Goal: a refresh token is good once; two tabs may use the same one at the same time; whoever shows an old one, however old,
//! ends the sign-in for everybody who holds a token of it.
//! Method: time goes by when a test sets a row back.

use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, PASSWORD};

/// Longer than the grace time of ten seconds.
const LATER: &str = "update sign_in set rotated_at = rotated_at - interval '11 seconds'";

async fn log_in(farm: &Farm) -> String {
    farm.user("ada").await;
    let credentials = json!({ "email": "ada@example.org", "password": PASSWORD });
    let tokens = farm.stranger().post("/v1/auth/login", &credentials).await;
    refresh_token(&tokens.expect(200).json()).unwrap()
}

async fn refresh(farm: &Farm, token: &str) -> Answer {
    let body = json!({ "refresh_token": token });
    farm.stranger().post("/v1/auth/refresh", &body).await
}

fn refresh_token(tokens: &Value) -> Option<String> {
    tokens["refresh_token"].as_str().map(str::to_owned)
}

/// Whether the access token of an answer is good.
async fn is_good(farm: &Farm, tokens: &Value) -> bool {
    let caller = Caller::new(farm.url.clone(), tokens["access_token"].as_str());
    caller.get("/v1/me").await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_replaced_by_the_next() {
    let farm = Farm::start().await;
    let mut token = log_in(&farm).await;
    for _ in 0..3 {
        let tokens = refresh(&farm, &token).await.expect(200).json();
        assert!(is_good(&farm, &tokens).await);
        let next = refresh_token(&tokens).unwrap();
        assert_ne!(next, token);
        token = next;
    }
    for forged in ["", "x", &"0".repeat(128), &format!("{token}0")] {
        refresh(&farm, forged)
            .await
            .expect_problem(401, "token_invalid");
    }
    // Strangers' guesses end nothing.
    refresh(&farm, &token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_may_use_the_same_one() {
    let farm = Farm::start().await;
    let first = log_in(&farm).await;
    let second = refresh_token(&refresh(&farm, &first).await.expect(200).json()).unwrap();
    let late = refresh(&farm, &first).await.expect(200).json();
    assert!(is_good(&farm, &late).await);
    assert_eq!(
        refresh_token(&late),
        None,
        "the other tab has the newer one"
    );
    refresh(&farm, &second).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_one_ends_the_sign_in() {
    let farm = Farm::start().await;
    let other = farm.user("ada").await;
    // How often the thief used the stolen token before its owner does.
    for thefts in [1, 2, 3] {
        let stolen = log_in(&farm).await;
        let mut thief = json!({ "refresh_token": stolen });
        for _ in 0..thefts {
            let token = refresh_token(&thief).unwrap();
            thief = refresh(&farm, &token).await.expect(200).json();
            farm.run(LATER).await;
        }
        assert!(is_good(&farm, &thief).await);
        refresh(&farm, &stolen)
            .await
            .expect_problem(401, "token_invalid");
        let newest = refresh_token(&thief).unwrap();
        refresh(&farm, &newest)
            .await
            .expect_problem(401, "token_invalid");
        assert!(!is_good(&farm, &thief).await, "after {thefts} thefts");
    }
    other.get("/v1/me").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_lasts_as_long_as_it_is_used() {
    let farm = Farm::start().await;
    let token = log_in(&farm).await;
    let days_left = "select extract(day from max(expires_at) - now())::bigint from sign_in";
    farm.run("update sign_in set expires_at = now() + interval '1 day'")
        .await;
    let next = refresh_token(&refresh(&farm, &token).await.expect(200).json()).unwrap();
    assert_eq!(farm.number(days_left).await, 29);
    farm.run("update sign_in set expires_at = now() - interval '1 second'")
        .await;
    refresh(&farm, &next)
        .await
        .expect_problem(401, "token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_holds_it_in_a_cookie_that_no_script_reads() {
    let farm = Farm::start().await;
    farm.user("ada").await;
    let credentials = json!({ "email": "ada@example.org", "password": PASSWORD, "cookie": true });
    let tokens = farm.stranger().post("/v1/auth/login", &credentials).await;
    assert_eq!(refresh_token(&tokens.expect(200).json()), None);
    let cookie = tokens.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/v1/auth"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let pair = cookie.split(';').next().unwrap().to_owned();
    let request = farm
        .stranger()
        .request(Method::POST, "/v1/auth/refresh")
        .header("cookie", pair)
        .header("origin", farm.url.origin().ascii_serialization())
        .json(&json!({}));
    let refreshed = Answer::of(request).await;
    assert!(is_good(&farm, &refreshed.expect(200).json()).await);
    assert_ne!(refreshed.header("set-cookie"), "");
}
