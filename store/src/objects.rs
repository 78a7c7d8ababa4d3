//! The artefact store: uploads, adapters, checkpoints and clips in one S3 bucket, any S3 server.
//!
//! Keys are chosen by the farm, never by a caller. A node reads and writes through presigned URLs alone; it holds no
//! credentials.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use flowai_actors::limits::{ADAPTER_BYTES_MAX, DOWNLOAD_URL_MS, UPLOAD_URL_MS};
use tokio::io::AsyncBufRead;

/// The longest key in bytes. S3 allows 1024; the embedded server names files after keys, and this is what fits.
pub const KEY_LENGTH_MAX: usize = 160;
pub const PRESIGNED_GET_TTL_MAX: Duration = Duration::from_millis(DOWNLOAD_URL_MS);
pub const PRESIGNED_PUT_TTL_MAX: Duration = Duration::from_millis(UPLOAD_URL_MS);

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// From a request to the first byte of its answer, the upload included.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// The largest file that is stored may take longer by what it takes at 2 MiB a second. One deadline for all files: the client keeps
/// connections for each deadline that it was told.
const FILE_DEADLINE: Duration =
    ANSWER_DEADLINE.saturating_add(Duration::from_secs(ADAPTER_BYTES_MAX / (2 << 20)));
/// As many as S3 lists and deletes at once.
pub const PAGE_KEYS_MAX: i32 = 1_000;

/// How to reach the bucket.
#[derive(Clone)]
pub struct ObjectsConfig {
    /// `https://…`; `http://` only on loopback.
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl std::fmt::Debug for ObjectsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectsConfig")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// Why an object could not be read or written. Keys are safe to log, URLs are not and never appear.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    #[error("object {key} does not exist")]
    NotFound { key: String },

    #[error("object {key} has {length} bytes, at most {max} are read")]
    TooLarge { key: String, length: u64, max: u64 },

    #[error("a presigned url may live at most {max:?} (got {ttl:?})")]
    Ttl { ttl: Duration, max: Duration },

    /// The caller's own file, before anything was sent.
    #[error("file {path} cannot be read: {reason}")]
    File { path: String, reason: String },

    /// The server is down, refuses the credentials or broke off, after all retries.
    #[error("object store could not {action} {key}: {reason}")]
    Unavailable {
        action: &'static str,
        key: String,
        reason: String,
    },
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// Bytes.
    pub length: u64,
    pub content_type: Option<String>,
}

/// An object that is being read.
#[derive(Debug)]
pub struct Object {
    key: String,
    pub head: ObjectHead,
    body: ByteStream,
}

impl Object {
    /// The bytes as they arrive.
    pub fn into_reader(self) -> impl AsyncBufRead + Send + Unpin {
        self.body.into_async_read()
    }

    /// All bytes, when there are at most `max` of them.
    pub async fn into_bytes(mut self, max: u64) -> Result<Bytes, ObjectsError> {
        let too_large = |length| ObjectsError::TooLarge {
            key: self.key.clone(),
            length,
            max,
        };
        if self.head.length > max {
            return Err(too_large(self.head.length));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk.map_err(|error| ObjectsError::Unavailable {
                action: "read",
                key: self.key.clone(),
                reason: error.to_string(),
            })?;
            bytes.extend_from_slice(&chunk);
            // The length that the server named is not believed.
            if bytes.len() as u64 > max {
                return Err(too_large(bytes.len() as u64));
            }
        }
        Ok(bytes.freeze())
    }
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    pub key: String,
    /// Bytes.
    pub length: u64,
}

/// What a presigned download tells the browser, whatever was stored.
#[derive(Clone, Debug, Default)]
pub struct ResponseHeaders {
    pub content_type: Option<String>,
    /// For example `attachment; filename="clip.mp4"`.
    pub content_disposition: Option<String>,
}

/// What a presigned upload must be, to the byte.
#[derive(Clone, Debug)]
pub struct UploadTerms {
    pub content_type: String,
    /// Bytes.
    pub length: u64,
    pub sha256: [u8; 32],
}

/// A request that its holder may make. It is as good as a credential until it expires: never log it.
#[derive(Clone)]
pub struct Presigned {
    pub url: String,
    /// Must be sent as they are. The length is signed too, but every HTTP client sends that of its own body.
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Presigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presigned").finish_non_exhaustive()
    }
}

impl From<PresignedRequest> for Presigned {
    fn from(request: PresignedRequest) -> Self {
        let headers = request
            .headers()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            url: request.uri().to_owned(),
            headers,
        }
    }
}

/// A client of the bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Objects {
    client: Client,
    bucket: String,
}

impl Objects {
    /// Makes a client; nothing is sent before the first call.
    pub fn new(config: &ObjectsConfig) -> Self {
        let credentials = Credentials::new(
            &config.access_key_id,
            &config.secret_access_key,
            None,
            None,
            "flowai-config",
        );
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .read_timeout(ANSWER_DEADLINE)
            .build();
        let sdk = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&config.endpoint)
            .region(Region::new(config.region.clone()))
            .credentials_provider(credentials)
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .timeout_config(timeouts)
            // Servers other than Amazon's have no host name for each bucket.
            .force_path_style(true)
            .build();
        Self {
            client: Client::from_conf(sdk),
            bucket: config.bucket.clone(),
        }
    }

    /// Whether the bucket is there and the credentials open it.
    pub async fn check(&self) -> Result<(), ObjectsError> {
        let answer = self.client.head_bucket().bucket(&self.bucket).send().await;
        answer
            .map(drop)
            .map_err(failed("open bucket", &self.bucket))
    }

    /// Stores bytes, replacing what was there.
    pub async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        content_type: &str,
    ) -> Result<(), ObjectsError> {
        let body = ByteStream::from(bytes);
        self.put_stream(key, body, content_type, ANSWER_DEADLINE)
            .await
    }

    /// Stores a file without holding it in memory, replacing what was there.
    pub async fn put_file(
        &self,
        key: &str,
        path: &Path,
        content_type: &str,
    ) -> Result<(), ObjectsError> {
        let body = ByteStream::from_path(path).await;
        let body = body.map_err(|error| ObjectsError::File {
            path: path.display().to_string(),
            reason: DisplayErrorContext(error).to_string(),
        })?;
        self.put_stream(key, body, content_type, FILE_DEADLINE)
            .await
    }

    async fn put_stream(
        &self,
        key: &str,
        body: ByteStream,
        content_type: &str,
        deadline: Duration,
    ) -> Result<(), ObjectsError> {
        let timeouts = TimeoutConfig::builder().read_timeout(deadline).build();
        let patient = aws_sdk_s3::config::Builder::new().timeout_config(timeouts);
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type(content_type)
            .body(body)
            .customize()
            .config_override(patient);
        request.send().await.map(drop).map_err(failed("write", key))
    }

    /// Begins to read an object.
    ///
    /// # Errors
    /// [`ObjectsError::NotFound`], [`ObjectsError::Unavailable`].
    pub async fn get(&self, key: &str) -> Result<Object, ObjectsError> {
        self.read(key, None).await
    }

    /// Begins to read bytes `first..=last` of an object, which must have them.
    ///
    /// # Errors
    /// [`ObjectsError::NotFound`], [`ObjectsError::Unavailable`].
    pub async fn get_range(
        &self,
        key: &str,
        first: u64,
        last: u64,
    ) -> Result<Object, ObjectsError> {
        self.read(key, Some(format!("bytes={first}-{last}"))).await
    }

    async fn read(&self, key: &str, range: Option<String>) -> Result<Object, ObjectsError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .set_range(range)
            .send()
            .await
            .map_err(failed("read", key))?;
        let head = ObjectHead {
            length: length(answer.content_length()),
            content_type: answer.content_type().map(str::to_owned),
        };
        Ok(Object {
            key: key.to_owned(),
            head,
            body: answer.body,
        })
    }

    /// What is known of an object; `None` when it does not exist.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectHead>, ObjectsError> {
        let answer = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await;
        match answer.map_err(failed("look at", key)) {
            Ok(answer) => Ok(Some(ObjectHead {
                length: length(answer.content_length()),
                content_type: answer.content_type().map(str::to_owned),
            })),
            Err(ObjectsError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Copies within the bucket, on the server, with the content type: how what was checked gets its final key.
    pub async fn copy(&self, from: &str, to: &str) -> Result<(), ObjectsError> {
        let source = format!("{}/{from}", self.bucket);
        let request = self
            .client
            .copy_object()
            .bucket(&self.bucket)
            .key(to)
            .copy_source(source);
        request.send().await.map(drop).map_err(failed("copy", from))
    }

    /// Removes an object; one that does not exist is removed already.
    pub async fn delete(&self, key: &str) -> Result<(), ObjectsError> {
        let answer = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await;
        match answer.map_err(failed("delete", key)) {
            Ok(_) | Err(ObjectsError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes every object whose key begins with `prefix`, which should end with `/`. Returns how many there were. Safe
    /// to repeat after an error.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64, ObjectsError> {
        let unavailable = |reason: String| ObjectsError::Unavailable {
            action: "delete",
            key: prefix.to_owned(),
            reason,
        };
        let mut deleted = 0;
        loop {
            let page = self.list(prefix, None, PAGE_KEYS_MAX).await?;
            if page.is_empty() {
                return Ok(deleted);
            }
            let keys = page
                .iter()
                .map(|entry| ObjectIdentifier::builder().key(&entry.key).build())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| unavailable(error.to_string()))?;
            let keys = Delete::builder()
                .set_objects(Some(keys))
                .quiet(true)
                .build()
                .map_err(|error| unavailable(error.to_string()))?;
            let answer = self
                .client
                .delete_objects()
                .bucket(&self.bucket)
                .delete(keys)
                .send()
                .await;
            let answer = answer.map_err(failed("delete", prefix))?;
            // Without this a key that cannot be deleted would be listed and tried for ever.
            if let Some(error) = answer.errors().first() {
                return Err(unavailable(
                    error.message().unwrap_or("no reason given").to_owned(),
                ));
            }
            deleted += page.len() as u64;
        }
    }

    /// Objects whose key begins with `prefix`, by key, those behind `after`, at most `limit` of them (1..=[`PAGE_KEYS_MAX`]). Fewer only
    /// when there are no more: a server may tell them in several answers.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: i32,
    ) -> Result<Vec<ObjectEntry>, ObjectsError> {
        let limit = limit.clamp(1, PAGE_KEYS_MAX);
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned));
        let mut answers = request.into_paginator().page_size(limit).send();
        let (limit, mut found) = (limit as usize, Vec::new());
        while found.len() < limit
            && let Some(answer) = answers.next().await
        {
            let answer = answer.map_err(failed("list", prefix))?;
            let entries = answer.contents.into_iter().flatten();
            found.extend(entries.filter_map(|object| {
                Some(ObjectEntry {
                    length: length(object.size),
                    key: object.key?,
                })
            }));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// A URL from which anyone may read this object for `ttl`, whole or in ranges.
    ///
    /// # Errors
    /// [`ObjectsError::Ttl`] beyond [`PRESIGNED_GET_TTL_MAX`].
    pub async fn presign_get(
        &self,
        key: &str,
        ttl: Duration,
        headers: ResponseHeaders,
    ) -> Result<Presigned, ObjectsError> {
        let ttl = lifetime(ttl, PRESIGNED_GET_TTL_MAX)?;
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .set_response_content_type(headers.content_type)
            .set_response_content_disposition(headers.content_disposition);
        request
            .presigned(ttl)
            .await
            .map(Presigned::from)
            .map_err(failed("presign", key))
    }

    /// A URL to which anyone may upload exactly the bytes described, once, for `ttl`.
    ///
    /// # Errors
    /// [`ObjectsError::Ttl`] beyond [`PRESIGNED_PUT_TTL_MAX`].
    pub async fn presign_put(
        &self,
        key: &str,
        ttl: Duration,
        terms: &UploadTerms,
    ) -> Result<Presigned, ObjectsError> {
        let ttl = lifetime(ttl, PRESIGNED_PUT_TTL_MAX)?;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type(&terms.content_type)
            .content_length(i64::try_from(terms.length).unwrap_or(i64::MAX))
            .checksum_sha256(BASE64.encode(terms.sha256))
            .if_none_match("*");
        request
            .presigned(ttl)
            .await
            .map(Presigned::from)
            .map_err(failed("presign", key))
    }
}

fn lifetime(ttl: Duration, max: Duration) -> Result<PresigningConfig, ObjectsError> {
    if ttl > max {
        return Err(ObjectsError::Ttl { ttl, max });
    }
    PresigningConfig::expires_in(ttl).map_err(|_| ObjectsError::Ttl { ttl, max })
}

fn length(reported: Option<i64>) -> u64 {
    reported
        .and_then(|length| u64::try_from(length).ok())
        .unwrap_or(0)
}

/// For `map_err`: what became of a request for `key`.
fn failed<E>(action: &'static str, key: &str) -> impl FnOnce(SdkError<E>) -> ObjectsError
where
    E: std::error::Error + 'static,
{
    let key = key.to_owned();
    move |error| match error
        .raw_response()
        .map(|response| response.status().as_u16())
    {
        Some(404) => ObjectsError::NotFound { key },
        _ => ObjectsError::Unavailable {
            action,
            key,
            reason: DisplayErrorContext(error).to_string(),
        },
    }
}
