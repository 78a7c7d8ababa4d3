//! Goal: what is somebody else's is as good as not there, on every route (INV-9).
//! Method: Ada has one of everything; Bob, with a login and with a key, asks for it by its id on each route that takes one, and
//! hears what he hears of an id that was never given out.

use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, wish};

/// Every route that names an object, with its body. `{}` is the id.
const ROUTES: [(&str, &str, &str); 25] = [
    ("GET", "/v1/uploads/{}", "upload"),
    ("DELETE", "/v1/uploads/{}", "upload"),
    ("GET", "/v1/adapters/{}", "adapter"),
    ("DELETE", "/v1/adapters/{}", "adapter"),
    ("GET", "/v1/videos/{}", "video"),
    ("DELETE", "/v1/videos/{}", "video"),
    ("DELETE", "/v1/videos/{}?purge=true", "video"),
    ("GET", "/v1/videos/{}/content", "video"),
    ("GET", "/v1/videos/{}/poster", "video"),
    ("GET", "/v1/videos/{}/preview", "video"),
    ("GET", "/v1/videos/{}/spritesheet", "video"),
    ("GET", "/v1/videos/{}/keyframe", "video"),
    ("POST", "/v1/videos/{}/final", "video"),
    ("GET", "/v1/videos/{}/manifest", "video"),
    ("GET", "/v1/videos/{}/events", "video"),
    ("DELETE", "/v1/api-keys/{}", "key"),
    ("GET", "/openai/v1/videos/{}", "video"),
    ("DELETE", "/openai/v1/videos/{}", "video"),
    ("GET", "/openai/v1/videos/{}/content", "video"),
    (
        "GET",
        "/openai/v1/videos/{}/content?variant=thumbnail",
        "video",
    ),
    ("POST", "/openai/v1/videos/{}/remix", "video"),
    ("POST", "/v1/videos", "upload"),
    ("POST", "/v1/videos", "adapter"),
    ("POST", "/v1/batches", "upload"),
    ("POST", "/v1/adapters", "upload"),
];

async fn ask(caller: &Caller, own_image: &str, route: (&str, &str, &str), id: &str) -> Answer {
    let (method, path, kind) = route;
    let path = path.replace("{}", id);
    let request = caller.request(method.parse::<Method>().unwrap(), &path);
    let body: Option<Value> = match (path.as_str(), kind) {
        ("/v1/videos", "upload") => Some(wish(id)),
        ("/v1/batches", _) => Some(json!({ "videos": [wish(own_image), wish(id)] })),
        ("/v1/videos", _) => {
            let mut wish = wish(own_image);
            wish["adapters"] = json!([{ "id": id }]);
            Some(wish)
        }
        ("/v1/adapters", _) => Some(json!({ "upload": id, "model": "tiny", "name": "mine now" })),
        (path, _) if path.ends_with("/remix") => Some(json!({ "prompt": "mine now" })),
        _ => None,
    };
    Answer::of(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

/// The answer without the id that was asked for and the ids of the request.
fn words(answer: &Answer, id: &str) -> String {
    let mut body = answer.json();
    if let Some(problem) = body.as_object_mut() {
        problem.remove("request_id");
    }
    body.to_string().replace(id, "ID")
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_is_as_good_as_not_there() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let (upload, adapter) = (
        ada.upload("adapter", crate::farm::adapter(1)).await,
        ada.adapter(2).await,
    );
    let waiting = ada.video().await;
    let done = ada.video().await;
    farm.deliver(&done).await;
    let key = ada
        .post(
            "/v1/api-keys",
            &json!({ "name": "k", "scopes": ["videos"] }),
        )
        .await
        .expect(201)
        .id();
    let before = ada.get("/v1/videos").await.json();

    let login = farm.user("bob").await;
    let image = login.picture().await;
    let by_key = farm.with_key(&login, &["videos", "adapters"]).await;
    for bob in [&login, &by_key] {
        for route in ROUTES {
            if route.2 == "key" && bob.token == by_key.token {
                continue; // No key may touch keys, its holder's own included.
            }
            let ids: &[&str] = match route.2 {
                "upload" => &[&upload.id()],
                "adapter" => &[&adapter],
                "key" => &[&key],
                _ => &[&waiting, &done],
            };
            for id in ids {
                let theirs = ask(bob, &image, route, id).await;
                let never = "0198c0de-0000-7000-8000-000000000000";
                let nobodys = ask(bob, &image, route, never).await;
                assert_eq!(theirs.status, 404, "{route:?}: {theirs:?}");
                assert_eq!(nobodys.status, 404, "{route:?}: {nobodys:?}");
                assert_eq!(words(&theirs, id), words(&nobodys, never), "{route:?}");
            }
        }
        for list in ["/v1/videos", "/v1/adapters", "/openai/v1/videos"] {
            assert_eq!(
                bob.get(list).await.expect(200).json()["data"],
                json!([]),
                "{list}"
            );
        }
        // Bob has a picture of his own.
        let listed = bob.get("/v1/uploads").await;
        let listed = listed.expect(200).json().to_string();
        assert!(!listed.contains(&upload.id()), "{listed}");
        // As a place in a list, too.
        let behind = format!("/openai/v1/videos?after={done}");
        assert_eq!(bob.get(&behind).await.expect(200).json()["data"], json!([]));
    }

    // Nothing of Ada's was touched: she still sees all of it, and can use it.
    let without_urls = |list: &Value| {
        let mut list = list.clone();
        for video in list["data"].as_array_mut().unwrap() {
            video["urls"] = Value::Null;
        }
        list
    };
    let after = ada.get("/v1/videos").await.json();
    assert_eq!(without_urls(&after), without_urls(&before));
    for path in [
        format!("/v1/uploads/{}", upload.id()),
        format!("/v1/adapters/{adapter}"),
        format!("/v1/videos/{done}/manifest"),
    ] {
        ada.get(&path).await.expect(200);
    }
    assert_eq!(ada.get("/v1/api-keys").await.json()["data"][0]["id"], key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_somebody_else_is_refused() {
    let farm = Farm::start().await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    for _ in 0..2 {
        ada.video().await;
    }
    let page = ada.get("/v1/videos?limit=1").await.expect(200).json();
    let next = format!(
        "/v1/videos?limit=1&cursor={}",
        page["next_cursor"].as_str().unwrap()
    );
    assert_eq!(
        ada.get(&next).await.expect(200).json()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    bob.get(&next).await.expect_problem(400, "cursor_invalid");
    // Nor does it fit another list of the same caller.
    let other = next.replace("/v1/videos?", "/v1/adapters?");
    ada.get(&other).await.expect_problem(400, "cursor_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_see_the_farm() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let key = farm.with_key(&ada, &["videos"]).await;
    for caller in [&ada, &key] {
        for path in [
            "/v1/farm/nodes",
            "/v1/farm/nodes/n1",
            "/v1/farm/queues",
            "/v1/farm/tokens",
        ] {
            caller.get(path).await.expect_problem(403, "role_required");
        }
    }
    let wish = json!({ "name": "k", "scopes": ["farm"] });
    ada.post("/v1/api-keys", &wish)
        .await
        .expect_problem(403, "role_required");
}
