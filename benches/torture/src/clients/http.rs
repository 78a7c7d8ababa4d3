//! A thin client of the HTTP API: one call, one answer, nothing tried again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Of what makes an account, before the run: a password's hash is slow on a busy machine.
const SETUP_DEADLINE: Duration = Duration::from_secs(120);
const PASSWORD: &str = "a long enough password";

/// What came back.
#[derive(Debug)]
pub(crate) enum Answer {
    Said {
        status: StatusCode,
        body: Value,
    },
    /// Nothing, or not all of it.
    Nothing(String),
}

/// One user of the farm. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct User {
    http: reqwest::Client,
    key: String,
    pub(crate) picture: String,
}

impl User {
    /// Makes an account, a key and a picture.
    pub(crate) async fn make(api: &str, name: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(ANSWER_DEADLINE)
            .no_proxy()
            .build()?;
        let email = format!("{name}@example.org");
        let who = json!({ "email": email, "password": PASSWORD });
        let post = |path: &str, body: &Value| http.post(format!("{api}{path}")).json(body);
        said(post("/v1/auth/signup", &who)).await?;
        let login = said(post("/v1/auth/login", &who)).await?;
        let token = text(&login, "access_token")?;
        let wanted = json!({ "name": "torture", "scopes": ["videos"] });
        let key = said(post("/v1/api-keys", &wanted).bearer_auth(token)).await?;
        let key = text(&key, "key")?;
        let form = Form::new()
            .text("purpose", "image")
            .part("file", Part::bytes(picture()?).file_name("picture.png"));
        let upload = http.post(format!("{api}/v1/uploads")).multipart(form);
        let upload = said(upload.bearer_auth(&key)).await?;
        Ok(Self {
            http,
            picture: text(&upload, "id")?,
            key,
        })
    }

    pub(crate) async fn submit(&self, api: &str, key: &str, body: &Value) -> Answer {
        let request = self.request(Method::POST, &format!("{api}/v1/videos"));
        answer(request.header("Idempotency-Key", key).json(body)).await
    }

    pub(crate) async fn cancel(&self, api: &str, job: &str) -> Answer {
        answer(self.request(Method::DELETE, &format!("{api}/v1/videos/{job}"))).await
    }

    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.http.request(method, url).bearer_auth(&self.key)
    }

    /// The head of a request for the user's event stream, for a reader that then reads nothing.
    pub(crate) fn events_request(&self, host: &str) -> String {
        let key = &self.key;
        format!(
            "GET /v1/me/events HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\naccept: text/event-stream\r\n\r\n"
        )
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let heard = async {
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        Ok::<_, reqwest::Error>((status, bytes))
    };
    match heard.await {
        Ok((status, bytes)) => match serde_json::from_slice(&bytes) {
            Ok(body) => Answer::Said { status, body },
            Err(_) if bytes.is_empty() => Answer::Said {
                status,
                body: Value::Null,
            },
            Err(error) => Answer::Nothing(error.to_string()),
        },
        Err(error) => Answer::Nothing(error.without_url().to_string()),
    }
}

async fn said(request: RequestBuilder) -> anyhow::Result<Value> {
    match answer(request.timeout(SETUP_DEADLINE)).await {
        Answer::Said { status, body } => {
            ensure!(status.is_success(), "{status}: {body}");
            Ok(body)
        }
        Answer::Nothing(reason) => anyhow::bail!(reason),
    }
}

fn text(body: &Value, name: &str) -> anyhow::Result<String> {
    let value = body[name].as_str();
    Ok(value
        .with_context(|| format!("no {name} in the answer"))?
        .to_owned())
}

/// A small PNG, a gradient.
fn picture() -> anyhow::Result<Vec<u8>> {
    let pixels = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8, y as u8, 128]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}
