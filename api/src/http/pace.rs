//! How slowly a request's body may come: who sends a byte now and then holds a place, memory and a descriptor meanwhile.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

/// A body may take so long, …
const GRACE: Duration = Duration::from_secs(30);
/// … and longer by a second for every so many bytes that have come: the slowest mobile line.
const BYTES_PER_S_MIN: u64 = 16 * 1024;

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
#[error("the body comes more slowly than {BYTES_PER_S_MIN} bytes a second")]
struct TooSlow;

/// Whether it was for this that a body could not be read.
pub(crate) fn is_too_slow(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<TooSlow>())
}

/// Ends a body that comes too slowly with an error.
pub(crate) async fn keep_pace(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = match body.is_end_stream() {
        true => body,
        false => Body::from_stream(paced(body.into_data_stream())),
    };
    next.run(Request::from_parts(parts, body)).await
}

fn paced<B, E>(
    chunks: impl Stream<Item = Result<B, E>> + Unpin,
) -> impl Stream<Item = Result<B, BodyError>>
where
    B: AsRef<[u8]>,
    E: Into<BodyError>,
{
    let began = Instant::now();
    stream::unfold(Some((chunks, 0_u64)), move |state| async move {
        let (mut chunks, received) = state?;
        let until = began + GRACE + Duration::from_secs(received / BYTES_PER_S_MIN);
        match timeout_at(until, chunks.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => {
                let received = received + chunk.as_ref().len() as u64;
                Some((Ok(chunk), Some((chunks, received))))
            }
            Ok(Some(Err(error))) => Some((Err(error.into()), None)),
            Err(_) => Some((Err(TooSlow.into()), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// How many chunks come of so many, one each `every`, and whether the body ended well.
    async fn come(count: usize, every: Duration, bytes: usize) -> (usize, bool) {
        let chunks = stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok::<_, Infallible>(vec![0_u8; bytes])
        });
        let heard: Vec<_> = paced(Box::pin(chunks)).collect().await;
        let good = heard.iter().filter(|chunk| chunk.is_ok()).count();
        (good, good == heard.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_ended_and_a_slow_line_is_not() {
        let second = Duration::from_secs(1);
        assert_eq!(come(60, 11 * second, 1).await, (2, false));
        let slow = BYTES_PER_S_MIN as usize;
        assert_eq!(come(600, second, slow).await, (600, true));
        assert_eq!(come(3, second, 10).await, (3, true));
    }
}
