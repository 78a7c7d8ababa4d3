//! Goal: who cannot pay is told by how much, who can sees each credit that moved, and a retry moves none.
//! Method: an api over the real parts, the leader's end in the hands of the test.

use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, Options, wish};

/// What [`wish`] costs: 50 and a little, rounded up.
const PRICE_MC: i64 = 51;

/// Available, held, and the kinds of what moved, the newest first.
async fn credits(caller: &Caller) -> (i64, i64, Vec<String>) {
    let credits = caller.get("/v1/credits").await.expect(200).json();
    let transactions = credits["transactions"].as_array().unwrap().iter();
    let kinds = transactions.map(|one| one["kind"].as_str().unwrap().to_owned());
    (
        credits["available_mc"].as_i64().unwrap(),
        credits["held_mc"].as_i64().unwrap(),
        kinds.collect(),
    )
}

async fn post_as(caller: &Caller, key: &str, path: &str, body: &Value) -> Answer {
    let request = caller.request(Method::POST, path);
    Answer::of(request.header("Idempotency-Key", key).json(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn insufficient_credits_names_both_amounts() {
    let farm = Farm::start_with(Options {
        gift: 0,
        ..Options::default()
    })
    .await;
    let ada = farm.user("ada").await;
    let root = farm.user("root").await;
    farm.run("update account set role = 'admin' where email = 'root@example.org'")
        .await;
    let wish = wish(&ada.picture().await);
    let refused = ada.post("/v1/videos", &wish).await;
    let problem = refused.expect_problem(402, "insufficient_credits");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("costs 0.051 credits") && detail.contains("and 0 are available"),
        "{detail}"
    );
    assert_eq!(farm.number("select count(*) from job").await, 0);

    // An administrator gives, once; nobody else does.
    let grant = json!({ "email": "Ada@example.org", "amount_mc": 60, "reason": "a demo" });
    let by_ada = ada.post("/v1/credits/grants", &grant).await;
    by_ada.expect_problem(403, "role_required");
    // A key that operates the farm gives nothing; one for credits does not operate it.
    let operates = farm.with_key(&root, &["farm", "videos"]).await;
    let refused = operates.post("/v1/credits/grants", &grant).await;
    let problem = refused.expect_problem(403, "role_required");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("`credits`"), "{detail}");
    assert_eq!(credits(&ada).await, (0, 0, vec![]));
    let gives = farm.with_key(&root, &["credits"]).await;
    let refused = gives.get("/v1/farm/nodes").await;
    refused.expect_problem(403, "role_required");
    let wish_of_ada = json!({ "name": "k", "scopes": ["credits"] });
    let refused = ada.post("/v1/api-keys", &wish_of_ada).await;
    refused.expect_problem(403, "role_required");
    for caller in [&gives, &root] {
        let granted = post_as(caller, "k", "/v1/credits/grants", &grant).await;
        assert_eq!(granted.expect(201).json()["amount_mc"], 60);
    }
    let mut other = grant.clone();
    for (field, value) in [("reason", json!("another")), ("amount_mc", json!(61))] {
        other = grant.clone();
        other[field] = value;
        let reused = post_as(&root, "k", "/v1/credits/grants", &other).await;
        reused.expect_problem(422, "idempotency_key_reused");
    }
    other["email"] = json!("nobody@example.org");
    let unknown = root.post("/v1/credits/grants", &other).await;
    unknown.expect_problem(404, "not_found");
    let nothing = json!({ "email": "ada@example.org", "amount_mc": 0, "reason": " " });
    let problem = root.post("/v1/credits/grants", &nothing).await;
    let problem = problem.expect_problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["pointer"], "/amount_mc");
    assert_eq!(problem["errors"][1]["pointer"], "/reason");
    assert_eq!(credits(&ada).await, (60, 0, vec!["grant".to_owned()]));

    ada.post("/v1/videos", &wish).await.expect(202);
    let problem = ada.post("/v1/videos", &wish).await;
    let problem = problem.expect_problem(402, "insufficient_credits");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("and 0.009 are available"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_is_held_once_and_captured_or_released() {
    const GIFT_MC: i64 = 1_000_000;
    let farm = Farm::start().await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let wish = wish(&ada.picture().await);
    let answers = [
        post_as(&ada, "once", "/v1/videos", &wish).await,
        post_as(&ada, "once", "/v1/videos", &wish).await,
    ];
    let video = answers[0].expect(202).id();
    assert_eq!(answers[1].expect(202).id(), video);
    for answer in &answers {
        let cost = json!({ "price_mc": PRICE_MC, "price_version": 1, "held_mc": PRICE_MC, "captured_mc": 0, "released_mc": 0 });
        assert_eq!(answer.json()["cost"], cost);
    }
    let held = vec!["hold".to_owned(), "gift".to_owned()];
    assert_eq!(credits(&ada).await, (GIFT_MC - PRICE_MC, PRICE_MC, held));

    farm.deliver(&video).await;
    let cost = ada.get(&format!("/v1/videos/{video}")).await.json()["cost"].take();
    assert_eq!(cost["captured_mc"], PRICE_MC);
    assert_eq!(
        (&cost["held_mc"], &cost["released_mc"]),
        (&json!(0), &json!(0))
    );
    let left = GIFT_MC - PRICE_MC;
    let (available, held, kinds) = credits(&ada).await;
    assert_eq!((available, held, kinds[0].as_str()), (left, 0, "capture"));

    let waiting = ada.post("/v1/videos", &wish).await.expect(202).id();
    let path = format!("/v1/videos/{waiting}");
    for _ in 0..2 {
        let cancelled = ada.delete(&path).await.expect(200).json();
        assert_eq!(cancelled["cost"]["released_mc"], PRICE_MC);
    }
    let failing = ada.post("/v1/videos", &wish).await.expect(202).id();
    farm.leader.assign(&failing).await;
    farm.leader.fail(&failing, "bad_input", "no picture").await;
    let (available, held, kinds) = credits(&ada).await;
    assert_eq!((available, held), (left, 0));
    assert_eq!(kinds.iter().filter(|kind| *kind == "release").count(), 2);

    // A draft that is all of its final costs as much. Another one is cheaper, and its purge changes nothing of what it cost.
    let mut draft = wish.clone();
    draft["draft"] = json!(true);
    let whole = ada.post("/v1/videos", &draft).await;
    assert_eq!(whole.expect(202).json()["cost"]["price_mc"], PRICE_MC);
    ada.delete(&format!("/v1/videos/{}", whole.id()))
        .await
        .expect(200);
    draft["steps"] = json!(9);
    let draft = ada.post("/v1/videos", &draft).await;
    assert_eq!(draft.expect(202).json()["cost"]["price_mc"], 26);
    farm.deliver(&draft.id()).await;
    let before = credits(&ada).await;
    let purge = format!("/v1/videos/{}?purge=true", draft.id());
    ada.delete(&purge).await.expect(204);
    assert_eq!(credits(&ada).await, before);

    assert_eq!(credits(&bob).await, (GIFT_MC, 0, vec!["gift".to_owned()]));
    assert_eq!(
        farm.number("select count(*) from ledger_imbalances").await,
        0
    );
}
