//! How a node talks to the object store: by presigned URLs that the leader handed out, and in no other way.

use std::time::Duration;

use flowai_actors::kit::Backoff;
use reqwest::StatusCode;
use reqwest::redirect::Policy;

/// A store that does not answer a connect in this time is down.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Silence in the middle of a body.
const READ_DEADLINE: Duration = Duration::from_secs(20);
/// Below this rate a transfer is given up: [`transfer_deadline`].
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// What a transfer may take beside its bytes.
const TRANSFER_MARGIN: Duration = Duration::from_secs(30);
/// A short outage of the store passes within these tries; a longer one is the leader's to judge.
const TRIES_MAX: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Why a request gave nothing. Never holds the URL: it is as good as a credential until it expires.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("object store answered {0}")]
    Status(u16),
    #[error("object store cannot be reached: {0}")]
    Transport(String),
    #[error("object store was slower than {BYTES_PER_SECOND_MIN} bytes a second")]
    Slow,
}

impl HttpError {
    /// Whether the same request may succeed a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 429 | 500..=599),
            Self::Transport(_) | Self::Slow => true,
        }
    }
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::Transport(text)
    }
}

impl From<StatusCode> for HttpError {
    fn from(status: StatusCode) -> Self {
        Self::Status(status.as_u16())
    }
}

/// The client for both directions. Follows no redirect and no proxy setting: a URL leads where the leader meant it to.
///
/// # Errors
/// The TLS library cannot be set up.
pub fn client() -> Result<reqwest::Client, HttpError> {
    let builder = reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
        .read_timeout(READ_DEADLINE);
    Ok(builder.build()?)
}

/// How long a transfer of `bytes` may take.
pub(crate) fn transfer_deadline(bytes: u64) -> Duration {
    TRANSFER_MARGIN + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
}

/// Tries until it succeeds, fails in a way that does not pass, or [`TRIES_MAX`] is reached; gives the last error.
pub(crate) async fn retry<T, E, F>(
    may_pass: impl Fn(&E) -> bool,
    mut transfer: impl FnMut() -> F,
) -> Result<T, E>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut tried = 1;
    loop {
        match transfer().await {
            Err(error) if may_pass(&error) && tried < TRIES_MAX => {
                let wait = backoff.next_wait(&mut rand::rng());
                tracing::warn!(%error, tried, wait_ms = wait.as_millis() as u64, "transfer failed; trying again");
                tokio::time::sleep(wait).await;
                tried += 1;
            }
            result => return result,
        }
    }
}
