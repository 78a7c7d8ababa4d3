//! Goal: the program serves what the database knows while nobody leads, says that it is not ready, and ends in order.
//! Method: the real program with real parts and a coordinator's address at which nobody listens.

use reqwest::Method;
use serde_json::json;

use crate::farm::{
    Answer, Caller, PASSWORD, Program, Sse, offer_model, start_parts, tiny_offer, wish,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_knows_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let parts = start_parts(folder.path()).await;
    let owner = sqlx::PgPool::connect(&parts.database().owner)
        .await
        .unwrap();
    offer_model(&owner, "n1", &tiny_offer("tiny")).await;
    let program = Program::new(&parts, folder.path()).start().await;

    let stranger = Caller::new(program.url.clone(), None);
    stranger.get("/healthz").await.expect(204);
    let ready = stranger.get("/readyz").await.expect(503).json();
    let expected = json!({ "ready": false, "draining": false, "database": true, "redis": true,
        "object_store": true, "leader": false });
    assert_eq!(ready, expected);
    let version = stranger.get("/version").await.expect(200).json();
    assert_eq!(version["name"], "flowai-api");

    let credentials = json!({ "email": "ada@example.org", "password": PASSWORD });
    stranger
        .post("/v1/auth/signup", &credentials)
        .await
        .expect(202);
    let tokens = stranger
        .post("/v1/auth/login", &credentials)
        .await
        .expect(200)
        .json();
    let ada = Caller::new(program.url.clone(), tokens["access_token"].as_str());
    let id = ada
        .post("/v1/videos", &wish(&ada.picture().await))
        .await
        .expect(202)
        .id();
    let mut stream = Sse::open(&ada, "/v1/me/events", None).await;
    stream.expect("snapshot").await;
    let waited = ada
        .request(Method::GET, &format!("/v1/videos/{id}"))
        .header("prefer", "wait=1");
    let waited = Answer::of(waited).await;
    assert_eq!(waited.expect(200).json()["status"], "queued");
    assert_eq!(waited.header("preference-applied"), "wait=1");
    ada.delete(&format!("/v1/videos/{id}")).await.expect(200);
    stream.expect("cancelled").await;
    sqlx::query("update account set role = 'admin'")
        .execute(&owner)
        .await
        .unwrap();
    ada.get("/v1/farm/nodes")
        .await
        .expect_problem(503, "dependency_down");

    program.terminate();
    stream.expect("resync").await;
    assert_eq!(stream.next().await, None);
    let log = program.end().await;
    for secret in [
        PASSWORD,
        ada.token.as_deref().unwrap(),
        "ada@example.org",
        "eyJ",
    ] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
    assert!(log.contains("/v1/videos/{id}") && !log.contains(&format!("/v1/videos/{id}")));
}
