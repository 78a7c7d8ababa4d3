//! Requests and answers: addresses, the credential, deadlines, tries, and what counts as a refusal.

use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{ClientBuilder, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::{Host, Url};
use uuid::Uuid;

use super::credentials::Secret;
use super::error::{ClientError, Problem};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer that is no stream comes within this; files in either direction have longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream says at least a comment every 15 s, a download some bytes.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// A file goes to the farm, or is checked and copied there, within this: a little longer than the farm itself works at a request.
const FILE_TIMEOUT: Duration = Duration::from_secs(16 * 60);
/// How often a call that may pass a little later is made.
const TRIES: u32 = 4;
/// The wait before the second try; doubles. A `Retry-After` that is longer counts, up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// A farm that may have got a call, and is started again meanwhile, is waited for so long.
const ANSWER_AWAITED: Duration = Duration::from_secs(60);

/// Sends requests to one farm with one credential. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    http: reqwest::Client,
    /// Without the limit on silence, which reqwest keeps while a body goes out and while the farm works.
    patient: reqwest::Client,
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
        let built = |builder: ClientBuilder| {
            // What stays on this machine is nobody's business on the way.
            let builder = match is_this_machine(base) {
                true => builder.no_proxy(),
                false => builder,
            };
            builder.build().map_err(|error| ClientError::Answer {
                url: base.to_string(),
                reason: error.to_string(),
            })
        };
        Ok(Self {
            http: built(builder().read_timeout(SILENCE_MAX))?,
            patient: built(builder())?,
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
        let request = self.http.request(method, self.url_of(path));
        Ok(request.bearer_auth(self.bearer()?.reveal()))
    }

    /// A POST that sends a file, or has one checked: it may take [`FILE_TIMEOUT`].
    ///
    /// # Errors
    /// As [`Self::request`].
    pub(super) fn file_request(&self, path: &str) -> Result<RequestBuilder, ClientError> {
        let request = self.patient.post(self.url_of(path)).timeout(FILE_TIMEOUT);
        Ok(request.bearer_auth(self.bearer()?.reveal()))
    }

    fn bearer(&self) -> Result<&Secret, ClientError> {
        self.bearer
            .as_ref()
            .ok_or_else(|| ClientError::NotSignedIn {
                url: self.base.to_string(),
            })
    }

    fn url_of(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        match path.split_once('?') {
            Some((path, query)) => {
                url.set_path(path);
                url.set_query(Some(query));
            }
            None => url.set_path(&path),
        }
        url
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
        let request = self.http.post(self.url_of(path));
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
    ///
    /// # Errors
    /// `Unsure` when the farm may have it, and did not say so for [`ANSWER_AWAITED`].
    pub(super) async fn once<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let request = request.header("Idempotency-Key", Uuid::now_v7().to_string());
        self.until_known(request, ANSWER_AWAITED).await
    }

    /// A few times, and for as long as `patience` once the farm may have got the call.
    async fn until_known<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let began = Instant::now();
        let (mut tries, mut wait, mut is_sent) = (1, RETRY_FIRST, false);
        // A body that is a stream cannot be sent twice.
        while let Some(again) = request.try_clone() {
            let answer = match self.send(again).await {
                Ok(response) => self.json(response).await,
                Err(error) => Err(error),
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            is_sent |= matches!(error, ClientError::Unreachable { is_sent: true, .. });
            let has_time = tries < TRIES || (is_sent && began.elapsed() < patience);
            let Some(after) = error.passes().filter(|_| has_time) else {
                return Err(match is_sent && !error.is_verdict() {
                    true => ClientError::Unsure {
                        last: Box::new(error),
                    },
                    false => error,
                });
            };
            tokio::time::sleep(after.unwrap_or(wait).max(wait).min(RETRY_MOST)).await;
            tries += 1;
            wait *= 2;
        }
        self.json(self.send(request).await?).await
    }

    /// Makes an idempotent call until it is answered, a few times. Its body is none that is a stream.
    pub(super) async fn repeat(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let again = || request.try_clone().ok_or_else(|| self.not_repeated());
        self.repeat_while(again, ClientError::passes).await
    }

    /// Makes a call, anew for each try, until the farm is sure to have got it, a few times.
    pub(super) async fn send_until_taken(
        &self,
        request: impl Fn() -> Result<RequestBuilder, ClientError>,
    ) -> Result<Response, ClientError> {
        let untaken = |error: &ClientError| error.passes().filter(|_| !error.may_be_taken());
        self.repeat_while(request, untaken).await
    }

    async fn repeat_while(
        &self,
        request: impl Fn() -> Result<RequestBuilder, ClientError>,
        passes: impl Fn(&ClientError) -> Option<Option<Duration>>,
    ) -> Result<Response, ClientError> {
        let mut wait = RETRY_FIRST;
        for _ in 1..TRIES {
            match self.send(request()?).await {
                Ok(response) => return Ok(response),
                Err(error) => match passes(&error) {
                    None => return Err(error),
                    Some(after) => {
                        tokio::time::sleep(after.unwrap_or(wait).max(wait).min(RETRY_MOST)).await;
                    }
                },
            }
            wait *= 2;
        }
        self.send(request()?).await
    }

    fn not_repeated(&self) -> ClientError {
        ClientError::Answer {
            url: self.base.to_string(),
            reason: "the call cannot be made again".to_owned(),
        }
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
        if status.is_redirection() {
            let to = response.headers().get(LOCATION);
            let to = to.and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            return Err(ClientError::Answer {
                url: self.base.to_string(),
                reason: format!("it sends calls on to {to}; give the farm's own address"),
            });
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
            is_sent: !error.is_connect(),
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
            // A proxy whose farm does not answer.
            Err(_) if matches!(status.as_u16(), 502..=504) => ClientError::Unreachable {
                url: self.base.to_string(),
                reason: format!("a proxy in front of it answers {status}"),
                is_sent: true,
            },
            // A proxy in between, or no farm at all.
            Err(_) => ClientError::Answer {
                url: self.base.to_string(),
                reason: format!("status {status} without a FlowAI error body"),
            },
        }
    }
}

fn builder() -> ClientBuilder {
    let accept = HeaderValue::from_static("application/json, */*;q=0.1");
    reqwest::Client::builder()
        .default_headers(HeaderMap::from_iter([(ACCEPT, accept)]))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(Policy::custom(to_a_file))
        .user_agent(concat!("flowai/", env!("CARGO_PKG_VERSION")))
}

/// The farm's answer to who asks for a clip is a signed link. Nothing else is followed: a credential would go along, and a call with a
/// body would become one without.
fn to_a_file(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_of_a_file = match attempt.previous() {
        [asked] => asked.path().ends_with("/content"),
        _ => false,
    };
    match is_of_a_file {
        true => attempt.follow(),
        false => attempt.stop(),
    }
}

/// Whether the address is one of this machine, which nobody else can listen to.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

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

    #[tokio::test]
    async fn no_call_is_sent_on_to_another_address() {
        let base = farm(
            0,
            &["301 Moved Permanently\r\nlocation: http://127.0.0.1:1/v1/videos"],
        );
        let refused = once(&base, Duration::ZERO).await.unwrap_err();
        assert!(
            refused.to_string().contains("http://127.0.0.1:1/v1/videos"),
            "{refused}"
        );
        assert!(matches!(refused, ClientError::Answer { .. }), "{refused:?}");
    }

    /// Hangs up on the first calls, after it has read them, and gives these answers to the next.
    fn farm(hang_ups: usize, answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let silent = std::iter::repeat_n(None, hang_ups);
            for answer in silent.chain(answers.iter().map(Some)) {
                let (mut stream, _) = listener.accept().unwrap();
                let mut bytes = [0; 4_096];
                let mut read = Vec::new();
                while !read.ends_with(b"{}") {
                    let count = stream.read(&mut bytes).unwrap();
                    read.extend_from_slice(&bytes[..count]);
                }
                if let Some(answer) = answer {
                    let head = "content-length: 2\r\nconnection: close\r\n\r\n{}";
                    write!(stream, "HTTP/1.1 {answer}\r\n{head}").unwrap();
                }
            }
        });
        base
    }

    async fn once(base: &str, patience: Duration) -> Result<serde_json::Value, ClientError> {
        let transport = transport(base);
        let request = transport.request(Method::POST, "/v1/videos").unwrap();
        let request = request.json(&serde_json::json!({}));
        transport.until_known(request, patience).await
    }

    #[tokio::test]
    async fn what_may_have_arrived_is_asked_for_until_it_is_known() {
        let patient = Duration::from_secs(30);
        let base = farm(1, &["502 Bad Gateway", "202 Accepted"]);
        assert_eq!(once(&base, patient).await.unwrap(), serde_json::json!({}));

        // Two kinds of proxies whose farm is away.
        let base = farm(
            0,
            &["503 Service Unavailable", "504 Gateway Timeout", "200 OK"],
        );
        assert!(once(&base, patient).await.is_ok());

        // The farm is gone for good after the first.
        let base = farm(1, &[]);
        let unsure = once(&base, Duration::ZERO).await.unwrap_err();
        assert!(matches!(unsure, ClientError::Unsure { .. }), "{unsure:?}");
        assert!(unsure.to_string().contains("flowai jobs"), "{unsure}");

        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", nobody.local_addr().unwrap());
        drop(nobody);
        let refused = once(&base, patient).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Unreachable { is_sent: false, .. }),
            "{refused:?}"
        );
    }

    /// The clock is moved on while the farm has read half of the file.
    #[tokio::test]
    async fn a_file_may_take_longer_than_a_stream_is_silent() {
        const HALF: usize = 4 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (half_read, half) = tokio::sync::oneshot::channel();
        let (go_on, told) = std::sync::mpsc::channel();
        let farm = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; HALF];
            stream.read_exact(&mut bytes).unwrap();
            half_read.send(()).unwrap();
            told.recv().unwrap();
            stream.read_exact(&mut bytes).unwrap();
            stream
                .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}")
                .unwrap();
            // What is left of the file: a connection that is closed before it was read is broken off.
            stream.read_to_end(&mut Vec::new()).ok();
        });
        let transport = transport(&base);
        let request = transport.file_request("/v1/uploads").unwrap();
        let sending = tokio::spawn(async move {
            let answer = transport.send(request.body(vec![7; 2 * HALF])).await?;
            transport.json::<serde_json::Value>(answer).await
        });
        half.await.unwrap();
        tokio::time::pause();
        tokio::time::advance(2 * SILENCE_MAX).await;
        tokio::time::resume();
        go_on.send(()).unwrap();
        assert_eq!(sending.await.unwrap().unwrap(), serde_json::json!({}));
        farm.join().unwrap();
    }
}
