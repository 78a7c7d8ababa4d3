//! Requests and answers: addresses, the credential, deadlines, tries, and what counts as a refusal.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;
use uuid::Uuid;

use super::credentials::Secret;
use super::error::{ClientError, Problem};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer that is no stream comes within this; files in either direction have longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream says at least a comment every 15 s, a download some bytes.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How often a call that may pass a little later is made.
const TRIES: u32 = 4;
/// The wait before the second try; doubles. A `Retry-After` that is longer counts, up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// Sends requests to one farm with one credential. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    http: reqwest::Client,
    base: Url,
    bearer: Option<Secret>,
}

impl Transport {
    pub(super) fn new(base: &Url, bearer: Option<Secret>) -> Result<Self, ClientError> {
        if !matches!(base.scheme(), "http" | "https") {
            return Err(ClientError::Input {
                field: "url",
                detail: format!("must begin with http:// or https:// (got {base})"),
            });
        }
        let accept = HeaderValue::from_static("application/json, */*;q=0.1");
        let http = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(ACCEPT, accept)]))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .user_agent(concat!("flowai/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::Answer {
                url: base.to_string(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            http,
            base: base.clone(),
            bearer,
        })
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The same farm, as somebody else.
    pub(super) fn with_bearer(&self, bearer: Secret) -> Self {
        Self {
            bearer: Some(bearer),
            ..self.clone()
        }
    }

    /// A request to `path`, which begins with `/`.
    ///
    /// # Errors
    /// `NotSignedIn` without a credential: saves a round trip that can only be refused.
    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
    ) -> Result<RequestBuilder, ClientError> {
        let bearer = self
            .bearer
            .as_ref()
            .ok_or_else(|| ClientError::NotSignedIn {
                url: self.base.to_string(),
            })?;
        Ok(self.anonymous(method, path).bearer_auth(bearer.reveal()))
    }

    fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        match path.split_once('?') {
            Some((path, query)) => {
                url.set_path(path);
                url.set_query(Some(query));
            }
            None => url.set_path(&path),
        }
        self.http.request(method, url)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let request = self.request(Method::GET, path)?.timeout(ANSWER_TIMEOUT);
        self.json(self.repeat(request).await?).await
    }

    /// A call with a JSON body whose answer is JSON. Made once: a repeated POST needs a key of its own, see
    /// [`Self::once`].
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let request = self
            .request(Method::POST, path)?
            .json(body)
            .timeout(ANSWER_TIMEOUT);
        self.json(self.send(request).await?).await
    }

    /// A call on nobody's behalf that may be made again.
    pub(super) async fn post_as_nobody(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response, ClientError> {
        let request = self.anonymous(Method::POST, path);
        self.repeat(request.json(body).timeout(ANSWER_TIMEOUT))
            .await
    }

    pub(super) async fn put(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response, ClientError> {
        let request = self.request(Method::PUT, path)?;
        self.repeat(request.json(body).timeout(ANSWER_TIMEOUT))
            .await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Response, ClientError> {
        let request = self.request(Method::DELETE, path)?.timeout(ANSWER_TIMEOUT);
        self.repeat(request).await
    }

    /// Makes a call that must happen once: under a key of its own it may be made again until it is answered.
    pub(super) async fn once<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let request = request.header("Idempotency-Key", Uuid::now_v7().to_string());
        self.json(self.repeat(request).await?).await
    }

    /// Makes an idempotent call until it is answered, a few times.
    pub(super) async fn repeat(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let mut wait = RETRY_FIRST;
        for _ in 1..TRIES {
            // A body that is a stream cannot be sent twice.
            let Some(again) = request.try_clone() else {
                break;
            };
            match self.send(again).await {
                Ok(response) => return Ok(response),
                Err(error) => match error.passes() {
                    None => return Err(error),
                    Some(after) => {
                        tokio::time::sleep(after.unwrap_or(wait).max(wait).min(RETRY_MOST)).await;
                    }
                },
            }
            wait *= 2;
        }
        self.send(request).await
    }

    /// Makes a call once. Any status of 400 and above is an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            return Err(self.refusal(status, response).await);
        }
        Ok(response)
    }

    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<T, ClientError> {
        let bytes = response
            .bytes()
            .await
            .map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer {
            url: self.base.to_string(),
            reason: error.to_string(),
        })
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        // reqwest's own text repeats the URL, which may be a signed one; its innermost cause is what a person can act on.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let reason = if error.is_timeout() {
            "it did not answer in time".to_owned()
        } else {
            cause.to_string()
        };
        ClientError::Unreachable {
            url: self.base.to_string(),
            reason,
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response) -> ClientError {
        let retry_after = retry_after(response.headers());
        let bytes = match response.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return self.unreachable(&error),
        };
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => ClientError::Refused(Box::new(Problem {
                retry_after,
                ..problem
            })),
            // A proxy in between, or no farm at all.
            Err(_) => ClientError::Answer {
                url: self.base.to_string(),
                reason: format!("status {status} without a FlowAI error body"),
            },
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(base: &str) -> Transport {
        Transport::new(&base.parse().unwrap(), Some(Secret::new("flk_x"))).unwrap()
    }

    #[test]
    fn paths_are_put_behind_the_farms_own() {
        let check = |base: &str, path: &str, expected: &str| {
            let request = transport(base).request(Method::GET, path).unwrap();
            assert_eq!(request.build().unwrap().url().as_str(), expected);
        };
        check("http://f.example", "/v1/me", "http://f.example/v1/me");
        check(
            "http://f.example/farm/",
            "/v1/me",
            "http://f.example/farm/v1/me",
        );
        check(
            "http://f.example",
            "/v1/videos?limit=2&cursor=a",
            "http://f.example/v1/videos?limit=2&cursor=a",
        );
    }

    #[test]
    fn other_schemes_and_missing_credentials_are_refused_before_anything_is_sent() {
        let ftp = Transport::new(&"ftp://f.example".parse().unwrap(), None);
        assert!(matches!(ftp, Err(ClientError::Input { field: "url", .. })));
        let nobody = Transport::new(&"http://f.example".parse().unwrap(), None).unwrap();
        assert!(matches!(
            nobody.request(Method::GET, "/v1/me"),
            Err(ClientError::NotSignedIn { .. })
        ));
    }
}
