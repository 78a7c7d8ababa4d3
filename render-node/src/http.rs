//! How a node talks to the object store: by presigned URLs that the leader handed out, and in no other way.

use std::time::Duration;

use flowai_actors::kit::Backoff;
use reqwest::StatusCode;
use reqwest::redirect::Policy;
use tokio::time::Instant;

use crate::pulse::Pulse;

/// A store that does not answer a connect in this time is down.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Silence of the store: in the middle of a body that it sends, or without a word that it has what is sent to it.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Below this rate a transfer is given up: [`transfer_deadline`].
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// What a transfer may take beside its bytes.
const TRANSFER_MARGIN: Duration = Duration::from_secs(30);
/// Of a transfer that brought something else than it should have: a proxy may garble once, a store has what it has.
const TRIES_MAX: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Whether a transfer that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It would fail in the same way.
    Never,
    /// [`TRIES_MAX`] times in all.
    AFewTimes,
    /// The store is down: until the caller's patience is over.
    UntilItIsBack,
}

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
    /// Whether the store is down or overloaded, so that the same request may succeed later.
    pub fn is_outage(&self) -> bool {
        match self {
            // 409: somebody else writes that very key at this moment, perhaps this node before its connection broke.
            Self::Status(status) => matches!(status, 408 | 409 | 429 | 500..=599),
            Self::Transport(_) | Self::Slow => true,
        }
    }

    pub(crate) fn again(&self) -> Again {
        match self.is_outage() {
            true => Again::UntilItIsBack,
            false => Again::Never,
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

/// The client that fetches. Follows no redirect and no proxy setting: a URL leads where the leader meant it to.
///
/// # Errors
/// The TLS library cannot be set up.
pub fn client() -> Result<reqwest::Client, HttpError> {
    Ok(builder().read_timeout(SILENCE_MAX).build()?)
}

/// The client that sends. Without reqwest's read timeout, which runs while the body goes out and would end every upload that takes
/// longer: a store that takes nothing for [`SILENCE_MAX`] is left by the kernel, a slow one by [`transfer_deadline`].
pub(crate) fn upload_client() -> Result<reqwest::Client, HttpError> {
    Ok(builder().tcp_user_timeout(SILENCE_MAX).build()?)
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
}

/// How long a transfer of `bytes` may take.
pub(crate) fn transfer_deadline(bytes: u64) -> Duration {
    TRANSFER_MARGIN + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
}

/// Tries until it succeeds or [`Again`] says that it is enough; gives the last error. `patience` counts from the first
/// failure. Each try beats the pulse.
pub(crate) async fn retry<T, E, F>(
    patience: Duration,
    pulse: &Pulse,
    again: impl Fn(&E) -> Again,
    mut transfer: impl FnMut() -> F,
) -> Result<T, E>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut down_since = None;
    let (mut tried, mut spoilt) = (1, 0);
    loop {
        pulse.beat();
        let error = match transfer().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let down_since = *down_since.get_or_insert_with(Instant::now);
        let goes_on = match again(&error) {
            Again::Never => false,
            Again::AFewTimes => {
                spoilt += 1;
                spoilt < TRIES_MAX
            }
            Again::UntilItIsBack => down_since.elapsed() < patience,
        };
        if !goes_on {
            return Err(error);
        }
        let wait = backoff.next_wait(&mut rand::rng());
        tracing::warn!(%error, tried, wait_ms = wait.as_millis() as u64, "transfer failed; trying again");
        tokio::time::sleep(wait).await;
        tried += 1;
    }
}
