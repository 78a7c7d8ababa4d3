//! Somebody who asks, and what they hear.

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::multipart::{Form, Part};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use url::Url;

#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) url: Url,
    pub(crate) token: Option<String>,
    client: Client,
}

impl Caller {
    pub(crate) fn new(url: Url, token: Option<&str>) -> Self {
        let client = Client::builder().redirect(Policy::none()).no_proxy();
        Self {
            url,
            token: token.map(str::to_owned),
            client: client.build().unwrap(),
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.url.join(path).unwrap();
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn upload(&self, purpose: &str, bytes: Vec<u8>) -> Answer {
        let file = Part::bytes(bytes).file_name("../../etc/passwd");
        let form = Form::new()
            .text("purpose", purpose.to_owned())
            .part("file", file);
        Answer::of(self.request(Method::POST, "/v1/uploads").multipart(form)).await
    }

    /// The id of a new picture.
    pub(crate) async fn picture(&self) -> String {
        let upload = self.upload("image", super::picture(64, 48)).await;
        upload.expect(201).id()
    }

    /// The id of a new adapter for `tiny`; equal seeds are equal bytes.
    pub(crate) async fn adapter(&self, seed: u64) -> String {
        let upload = self.upload("adapter", super::adapter(seed)).await;
        let wish = json!({ "upload": upload.expect(201).id(), "model": "tiny", "name": "style" });
        self.post("/v1/adapters", &wish).await.expect(201).id()
    }

    /// The id of a new video that waits.
    pub(crate) async fn video(&self) -> String {
        let wish = super::wish(&self.picture().await);
        self.post("/v1/videos", &wish).await.expect(202).id()
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) asked: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let asked = format!("{} {}", request.method(), request.url().path());
        let response = client.execute(request).await.unwrap();
        Self {
            asked,
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap(),
        }
    }

    /// Panics with the answer when its status is another one.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> &Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}: {body}", self.asked);
        self
    }

    /// Panics unless this is a problem with this status and code.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status).json();
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["code"], code, "{}: {problem}", self.asked);
        problem
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {:?}", self.asked, self.body))
    }

    #[track_caller]
    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }

    /// Empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let name: HeaderName = name.parse().unwrap();
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}
