//! Puts the finished files where the leader said: presigned PUTs, each for exactly the announced bytes, once.
//!
//! An upload may be sent twice when an answer was lost; the store answers 412 to the second, which is success: the URL
//! is signed for these bytes only. Whether the files count is decided elsewhere (invariant 3).

mod error;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use flowai_actors::limits::TARGET_PATIENCE_MS;
use flowai_actors::messages::Target;
use futures::StreamExt as _;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, StatusCode};
use tokio_util::io::ReaderStream;

pub use error::UploadError;

use crate::http::{self, HttpError};
use crate::pulse::Pulse;

/// Sends files by presigned URL. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Uploader {
    client: reqwest::Client,
}

impl Uploader {
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn new() -> Result<Self, HttpError> {
        let client = http::upload_client()?;
        Ok(Self { client })
    }

    /// Sends the file at `path`, trying again for [`TARGET_PATIENCE_MS`] while the store is down.
    ///
    /// # Errors
    /// [`UploadError::Refused`] when another URL is needed, [`UploadError::Http`] when the store stays down.
    pub async fn put(
        &self,
        target: &Target,
        path: &Path,
        pulse: &Pulse,
    ) -> Result<(), UploadError> {
        const PATIENCE: Duration = Duration::from_millis(TARGET_PATIENCE_MS);
        let Target { file, url, headers } = target;
        let send = || self.send(file.file_name(), url, headers, path, pulse);
        http::retry(PATIENCE, pulse, UploadError::again, send).await
    }

    /// Sends a picture of a running job: once, for the next one shows more.
    ///
    /// # Errors
    /// As [`Uploader::put`].
    pub async fn put_preview(
        &self,
        url: &str,
        headers: &[(String, String)],
        webp: Bytes,
    ) -> Result<(), UploadError> {
        let bytes = webp.len() as u64;
        self.request("preview", url, headers, webp.into(), bytes)
            .await
    }

    /// Sends a checkpoint: once, for whoever waits for it asks for a new URL as well.
    ///
    /// # Errors
    /// As [`Uploader::put`].
    pub async fn put_checkpoint(
        &self,
        url: &str,
        headers: &[(String, String)],
        path: &Path,
    ) -> Result<(), UploadError> {
        let pulse = Pulse::unheard();
        self.send("checkpoint", url, headers, path, &pulse).await
    }

    async fn send(
        &self,
        what: &'static str,
        url: &str,
        headers: &[(String, String)],
        path: &Path,
        pulse: &Pulse,
    ) -> Result<(), UploadError> {
        let disk = |source| UploadError::Disk {
            path: path.to_owned(),
            source,
        };
        let file = tokio::fs::File::open(path).await.map_err(disk)?;
        let bytes = file.metadata().await.map_err(disk)?.len();
        let pulse = pulse.clone();
        let body = ReaderStream::new(file).inspect(move |_| pulse.beat());
        self.request(what, url, headers, Body::wrap_stream(body), bytes)
            .await
    }

    async fn request(
        &self,
        what: &'static str,
        url: &str,
        signed: &[(String, String)],
        body: Body,
        bytes: u64,
    ) -> Result<(), UploadError> {
        let http = |source: HttpError| UploadError::Http { what, source };
        let mut headers = headers(signed)?;
        // Without it a stream would go out in chunks of unknown length, which S3 refuses.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        let request = self.client.put(url).headers(headers).body(body);
        let answer = tokio::time::timeout(http::transfer_deadline(bytes), request.send());
        let answer = match answer.await {
            Ok(answer) => answer.map_err(|error| http(error.into()))?,
            Err(_) => return Err(http(HttpError::Slow)),
        };
        match answer.status() {
            status if status.is_success() || status == StatusCode::PRECONDITION_FAILED => Ok(()),
            status if HttpError::from(status).is_outage() => Err(http(status.into())),
            status => Err(UploadError::Refused {
                what,
                status: status.as_u16(),
            }),
        }
    }
}

fn headers(signed: &[(String, String)]) -> Result<HeaderMap, UploadError> {
    let mut headers = HeaderMap::new();
    for (name, value) in signed {
        let refused = || UploadError::Header(name.clone());
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        headers.insert(parsed, HeaderValue::from_str(value).map_err(|_| refused())?);
    }
    Ok(headers)
}
