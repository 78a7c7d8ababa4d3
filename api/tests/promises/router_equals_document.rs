//! Goal: the OpenAPI document lists every route, and no route answers with a status that it does not list.
//! Method: every path is asked with every method by three callers, with good and odd ids; a method that the
//! router knows and the document does not, or the other way round, is a failure.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Farm};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_listed_and_answers_as_listed() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let key = farm.with_key(&ada, &["videos", "adapters"]).await;
    let document = farm
        .stranger()
        .get("/openapi.json")
        .await
        .expect(200)
        .json();
    assert_eq!(
        document,
        serde_json::to_value(flowai_api::document()).unwrap()
    );
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 30, "{}", paths.len());
    let mut asked = 0;
    let mut unlisted = BTreeSet::new();
    for (template, operations) in paths {
        for method in METHODS {
            let operation = &operations[method];
            for id in ["0198c0de-0000-7000-8000-000000000000", "x"] {
                let path = ["{id}", "{ticket}"]
                    .iter()
                    .fold(template.clone(), |path, name| path.replace(name, id));
                for caller in [&farm.stranger(), &key, &ada] {
                    let method: Method = method.to_uppercase().parse().unwrap();
                    if path == "/v1/auth/logout" || path == "/v1/auth/logout-all" {
                        // Asked below: it would end Ada's sign-in for the routes after it.
                        continue;
                    }
                    let request = caller.request(method, &path);
                    if path == "/v1/me/events" && caller.token.is_some() && operation.is_object() {
                        continue; // Answers without end; the streams have tests of their own.
                    }
                    let answer = Answer::of(request).await;
                    asked += 1;
                    if operation.is_object() {
                        let status = answer.status.to_string();
                        let is_listed = !operation["responses"][&status].is_null();
                        if !is_listed {
                            unlisted.insert(format!("{} answers {status}", answer.asked));
                        }
                    } else {
                        answer.expect_problem(405, "method_not_allowed");
                    }
                }
            }
        }
    }
    assert!(asked > 800, "{asked}");
    assert!(unlisted.is_empty(), "not in the document: {unlisted:#?}");
    ada.post("/v1/auth/logout-all", &Value::Null)
        .await
        .expect(204);
}

/// So that a change of what clients may rely on is seen in its review.
#[test]
fn the_document_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let document = serde_json::to_string_pretty(&flowai_api::document()).unwrap() + "\n";
    if std::env::var_os("FLOWAI_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &document).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == document,
        "api/openapi.json is out of date: run this test with FLOWAI_WRITE_OPENAPI=1 and look at the difference"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_must_be_open_is_open() {
    let document = serde_json::to_value(flowai_api::document()).unwrap();
    let mut open = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if operation["security"] != json!([{ "bearer": [] }]) {
                open.insert(format!("{method} {path}"));
            }
        }
    }
    let expected = [
        "get /healthz",
        "get /readyz",
        "get /v1/media/{ticket}",
        "get /v1/ws",
        "get /version",
        "post /v1/auth/login",
        "post /v1/auth/refresh",
        "post /v1/auth/signup",
        "post /v1/farm/join",
    ];
    assert_eq!(open, expected.map(str::to_owned).into());

    let farm = Farm::start().await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            if !open.contains(&format!("{method} {path}")) {
                let method = method.to_uppercase().parse().unwrap();
                let path = path.replace("{id}", "0198c0de-0000-7000-8000-000000000000");
                let answer = Answer::of(farm.stranger().request(method, &path)).await;
                assert_eq!(answer.status, 401, "{}", answer.asked);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_document_comes_from_here() {
    let farm = Farm::start().await;
    let stranger = farm.stranger();
    assert_eq!(
        stranger.get("/").await.expect(303).header("location"),
        "/docs/"
    );
    let page = stranger.get("/docs/").await;
    let html = String::from_utf8_lossy(&page.expect(200).body).into_owned();
    assert!(
        html.contains("swagger-ui") && !html.contains("https://"),
        "{html}"
    );
    assert!(
        page.header("content-security-policy")
            .contains("script-src 'self'")
    );
    stranger.get("/docs/swagger-ui-bundle.js").await.expect(200);
}
