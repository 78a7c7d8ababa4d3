//! Goal: every error is `application/problem+json` with a stable code, the id of its request, and nothing from inside.
//! Method: a table of requests; what programs decide by is compared word for word.

use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Farm, PASSWORD, wish};

#[tokio::test(flavor = "multi_thread")]
async fn each_error_has_its_code() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let stranger = farm.stranger();
    let key = farm.with_key(&ada, &["adapters"]).await;
    let video = ada.video().await;
    let never = "0198c0de-0000-7000-8000-000000000000";
    let done = ada.video().await;
    farm.deliver(&done).await;
    let login = |password: &str| json!({ "email": "ada@example.org", "password": password });
    let cases = [
        (
            &stranger,
            "GET",
            "/v1/nothing".to_owned(),
            Value::Null,
            404,
            "not_found",
        ),
        (
            &stranger,
            "GET",
            "/".to_owned() + &"x".repeat(5_000),
            Value::Null,
            404,
            "not_found",
        ),
        (
            &stranger,
            "PUT",
            "/v1/videos".to_owned(),
            Value::Null,
            405,
            "method_not_allowed",
        ),
        (
            &stranger,
            "GET",
            "/v1/videos".to_owned(),
            Value::Null,
            401,
            "token_missing",
        ),
        (
            &stranger,
            "POST",
            "/v1/auth/login".to_owned(),
            login("wrong"),
            401,
            "login_refused",
        ),
        (
            &stranger,
            "POST",
            "/v1/auth/refresh".to_owned(),
            json!({ "refresh_token": "x" }),
            401,
            "token_invalid",
        ),
        (
            &stranger,
            "POST",
            "/v1/auth/signup".to_owned(),
            json!({ "email": "x", "password": PASSWORD }),
            422,
            "validation_failed",
        ),
        (
            &stranger,
            "GET",
            "/v1/media/x".to_owned(),
            Value::Null,
            404,
            "not_found",
        ),
        (
            &stranger,
            "GET",
            "/v1/ws".to_owned(),
            Value::Null,
            415,
            "media_type_refused",
        ),
        (
            &ada,
            "GET",
            "/v1/videos/x".to_owned(),
            Value::Null,
            404,
            "not_found",
        ),
        (
            &ada,
            "GET",
            format!("/v1/videos/{never}"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            &ada,
            "GET",
            format!("/v1/videos/{video}/content"),
            Value::Null,
            409,
            "state_conflict",
        ),
        (
            &ada,
            "DELETE",
            format!("/v1/videos/{video}?purge=true"),
            Value::Null,
            409,
            "state_conflict",
        ),
        (
            &ada,
            "DELETE",
            format!("/v1/videos/{done}"),
            Value::Null,
            409,
            "already_done",
        ),
        (
            &ada,
            "GET",
            "/v1/videos?limit=0".to_owned(),
            Value::Null,
            422,
            "validation_failed",
        ),
        (
            &ada,
            "GET",
            "/v1/videos?limit=x".to_owned(),
            Value::Null,
            422,
            "validation_failed",
        ),
        (
            &ada,
            "GET",
            "/v1/videos?status=lost".to_owned(),
            Value::Null,
            422,
            "validation_failed",
        ),
        (
            &ada,
            "GET",
            "/v1/videos?page=2".to_owned(),
            Value::Null,
            422,
            "validation_failed",
        ),
        (
            &ada,
            "GET",
            "/v1/videos?cursor=x".to_owned(),
            Value::Null,
            400,
            "cursor_invalid",
        ),
        (
            &ada,
            "GET",
            "/v1/farm/nodes".to_owned(),
            Value::Null,
            403,
            "role_required",
        ),
        (
            &key,
            "GET",
            "/v1/videos".to_owned(),
            Value::Null,
            403,
            "scope_required",
        ),
        (
            &key,
            "POST",
            "/v1/api-keys".to_owned(),
            json!({ "name": "k", "scopes": ["videos"] }),
            403,
            "sign_in_required",
        ),
        (
            &key,
            "POST",
            "/v1/auth/logout".to_owned(),
            Value::Null,
            403,
            "sign_in_required",
        ),
    ];
    for (caller, method, path, body, status, code) in cases {
        let method: Method = method.parse().unwrap();
        let mut request = caller
            .request(method, &path)
            .header("x-request-id", "from-a-test");
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = Answer::of(request).await;
        let problem = answer.expect_problem(status, code);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:flowai:problem:{code}"));
        assert_eq!(problem["instance"], path.split('?').next().unwrap());
        assert_eq!(problem["request_id"], "from-a-test");
        assert_eq!(answer.header("x-request-id"), "from-a-test");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_id_gets_one() {
    let farm = Farm::start().await;
    for sent in [None, Some("two words"), Some(&*"x".repeat(65))] {
        let mut request = farm.stranger().request(Method::GET, "/v1/me");
        if let Some(id) = sent {
            request = request.header("x-request-id", id);
        }
        let answer = Answer::of(request).await;
        let id = answer.expect(401).json()["request_id"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(answer.header("x-request-id"), id);
        assert!(id.parse::<uuid::Uuid>().is_ok(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_errors_are_in_their_form() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let mut bad = wish(&ada.picture().await);
    bad["frames"] = 0.into();
    let missing = farm
        .stranger()
        .get("/openai/v1/videos")
        .await
        .expect(401)
        .json();
    assert_eq!(missing["error"]["code"], "token_missing");
    assert_eq!(missing["error"]["type"], "authentication_error");
    let refused = ada.post("/openai/v1/videos", &bad).await.expect(422).json();
    assert_eq!(refused["error"]["param"], "frames");
    assert_eq!(refused["error"]["type"], "invalid_request_error");
    let absent = ada
        .get("/openai/v1/videos/video_1")
        .await
        .expect(404)
        .json();
    assert_eq!(absent["error"]["code"], "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_inside_stays_inside() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    // Rows that this build cannot read: what a later build might have left.
    let id = ada.video().await;
    farm.run("alter table job disable trigger all").await;
    farm.run(&format!(
        "update job set spec = '{{\"secret\": 1}}' where id = '{id}'"
    ))
    .await;
    let answer = ada.get(&format!("/v1/videos/{id}")).await;
    let problem = answer.expect_problem(500, "internal");
    let text = problem.to_string();
    for inside in ["secret", "sqlx", "column", "missing field"] {
        assert!(!text.contains(inside), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_pages_change_nothing() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let credentials = json!({ "email": "ada@example.org", "password": PASSWORD, "cookie": true });
    let wish = wish(&ada.picture().await);
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        let request = ada
            .request(Method::POST, "/v1/videos")
            .header("origin", origin);
        let answer = Answer::of(request.json(&wish)).await;
        answer.expect_problem(403, "origin_refused");
    }
    assert_eq!(farm.number("select count(*) from job").await, 0);
    let login = farm.stranger().post("/v1/auth/login", &credentials).await;
    assert_eq!(login.expect(200).json().get("refresh_token"), None);
    let cookie = login.header("set-cookie").to_owned();
    let pair = cookie.split(';').next().unwrap();
    let refresh = async |origin: Option<String>| {
        let mut request = farm
            .stranger()
            .request(Method::POST, "/v1/auth/refresh")
            .header("cookie", pair);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        Answer::of(request).await
    };
    refresh(None).await.expect_problem(403, "origin_refused");
    refresh(Some("http://evil.example".to_owned()))
        .await
        .expect_problem(403, "origin_refused");
    refresh(Some(farm.url.origin().ascii_serialization()))
        .await
        .expect(200);
}
