//! The accept loop: one task and one deadline a connection, and a bound on strangers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::LINK_HALF_OPEN_MAX;
use crate::link::stats::Counters;

/// Waits so long after an accept that failed for want of file descriptors or memory: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A place among the half-open connections; free again when dropped.
#[derive(Debug)]
pub(in crate::link) struct HalfOpen(
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

/// Accepts for ever; `greet` must return at once, having started a task for the connection.
pub(in crate::link) async fn accept_loop(
    listener: TcpListener,
    counters: Arc<Counters>,
    mut greet: impl FnMut(TcpStream, SocketAddr, HalfOpen),
) {
    let half_open = Arc::new(Semaphore::new(LINK_HALF_OPEN_MAX));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                if !is_about_one_connection(&error) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let Ok(place) = half_open.clone().try_acquire_owned() else {
            if counters.refused_half_open.worth_a_line() {
                tracing::warn!(%address, "closed a connection: too many are half open");
            }
            continue;
        };
        // Small messages must not wait for company; without this option the link is slower but works.
        stream.set_nodelay(true).ok();
        greet(stream, address, HalfOpen(place));
    }
}

/// Whether the error is the connection's own, so that the next accept may well succeed.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn strangers_beyond_the_bound_are_closed_at_once_until_a_place_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::default());
        let (greeted, mut accepted) = mpsc::channel(LINK_HALF_OPEN_MAX + 1);
        let accepting = tokio::spawn(accept_loop(
            listener,
            counters.clone(),
            move |stream, _, place| {
                greeted.try_send((stream, place)).unwrap();
            },
        ));
        let mut half_open = Vec::new();
        for _ in 0..LINK_HALF_OPEN_MAX {
            let client = TcpStream::connect(address).await.unwrap();
            let server = tokio::time::timeout(LONG, accepted.recv())
                .await
                .unwrap()
                .unwrap();
            half_open.push((client, server));
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        let closed = tokio::time::timeout(LONG, refused.read(&mut [0]))
            .await
            .unwrap();
        assert_eq!(closed.unwrap(), 0);
        assert_eq!(counters.snapshot().refused_half_open, 1);

        half_open.pop();
        let _welcome = TcpStream::connect(address).await.unwrap();
        tokio::time::timeout(LONG, accepted.recv())
            .await
            .unwrap()
            .unwrap();
        accepting.abort();
    }
}
