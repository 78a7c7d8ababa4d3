//! The accept loop: one task and one deadline a connection, and a bound on strangers. Who has held a place for long without showing who it
//! is makes room; who came just now is let be, or a farm whose nodes all dial at once would finish no handshake.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::limits::LINK_HALF_OPEN_MAX;
use crate::link::stats::Counters;

/// Waits so long after an accept that failed for want of file descriptors or memory: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An honest peer's handshake takes milliseconds.
const LONG: Duration = Duration::from_millis(500);
/// In this time whoever makes room has gone.
const EVICTED_WITHIN: Duration = Duration::from_millis(100);

/// A place among the half-open connections; free again when dropped.
#[derive(Debug)]
pub(in crate::link) struct HalfOpen {
    #[expect(dead_code, reason = "held for its drop")]
    place: OwnedSemaphorePermit,
    strangers: Arc<Strangers>,
    number: u64,
    evicted: CancellationToken,
}

impl HalfOpen {
    /// The handshake, behind which it is known who the other side is. `None` when it takes long and somebody else needs the place.
    pub(in crate::link) async fn know<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        let known = self.evicted.run_until_cancelled(handshake).await;
        self.strangers.forget(self.number);
        known
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.strangers.forget(self.number);
    }
}

/// Those of the half-open connections of whom nothing is known yet, by when they came.
#[derive(Debug, Default)]
struct Strangers(Mutex<BTreeMap<u64, Stranger>>);

#[derive(Debug)]
struct Stranger {
    address: SocketAddr,
    since: Instant,
    evicted: CancellationToken,
}

impl Strangers {
    fn enter(
        self: &Arc<Self>,
        number: u64,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> HalfOpen {
        let evicted = CancellationToken::new();
        let stranger = Stranger {
            address,
            since: Instant::now(),
            evicted: evicted.clone(),
        };
        self.lock().insert(number, stranger);
        HalfOpen {
            place,
            strangers: self.clone(),
            number,
            evicted,
        }
    }

    /// Sends the one away that came first, if that is long ago. Who it was.
    fn evict(&self) -> Option<SocketAddr> {
        let mut strangers = self.lock();
        let first = strangers.first_entry()?;
        if first.get().since.elapsed() < LONG {
            return None;
        }
        let Stranger {
            address, evicted, ..
        } = first.remove();
        evicted.cancel();
        Some(address)
    }

    fn forget(&self, number: u64) {
        self.lock().remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Stranger>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts for ever; `greet` must return at once, having started a task for the connection.
pub(in crate::link) async fn accept_loop(
    listener: TcpListener,
    counters: Arc<Counters>,
    mut greet: impl FnMut(TcpStream, SocketAddr, HalfOpen),
) {
    let half_open = Arc::new(Semaphore::new(LINK_HALF_OPEN_MAX));
    let strangers = Arc::new(Strangers::default());
    for number in 0.. {
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
        let place = match half_open.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let evicted = strangers.evict();
                if counters.refused_half_open.worth_a_line() {
                    let closed = evicted.unwrap_or(address);
                    tracing::warn!(address = %closed, "closed a connection: too many are half open");
                }
                let place = half_open.clone().acquire_owned();
                match evicted {
                    Some(_) => match timeout(EVICTED_WITHIN, place).await {
                        Ok(Ok(place)) => place,
                        Ok(Err(_)) | Err(_) => continue,
                    },
                    None => continue,
                }
            }
        };
        // Small messages must not wait for company; without this option the link is slower but works.
        stream.set_nodelay(true).ok();
        greet(stream, address, strangers.enter(number, address, place));
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
    use std::collections::VecDeque;
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn of_too_many_strangers_one_who_takes_long_makes_room_and_nobody_who_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::default());
        let (greeted, mut accepted) = mpsc::channel(LINK_HALF_OPEN_MAX + 2);
        let accepting = tokio::spawn(accept_loop(
            listener,
            counters.clone(),
            move |stream, _, place| {
                greeted.try_send((stream, place)).unwrap();
            },
        ));
        let mut half_open = VecDeque::new();
        for _ in 0..LINK_HALF_OPEN_MAX {
            let client = TcpStream::connect(address).await.unwrap();
            let (server, place) = timeout(SOON, accepted.recv()).await.unwrap().unwrap();
            half_open.push_back((client, server, place));
        }
        let (_, _, known) = &half_open[0];
        assert_eq!(known.know(async {}).await, Some(()));

        // All came just now: it is the newcomer that goes.
        let mut early = TcpStream::connect(address).await.unwrap();
        let closed = timeout(SOON, early.read(&mut [0])).await.unwrap();
        assert_eq!(closed.unwrap(), 0);
        assert_eq!(counters.snapshot().refused_half_open, 1);

        tokio::time::sleep(LONG).await;
        let (mut silent, server, place) = half_open.remove(1).unwrap();
        let evicted = tokio::spawn(async move {
            let shaken = place.know(std::future::pending::<()>()).await;
            drop((server, place));
            shaken
        });
        let _newcomer = TcpStream::connect(address).await.unwrap();
        let newcomer = timeout(SOON, accepted.recv()).await.unwrap().unwrap();
        assert_eq!(timeout(SOON, evicted).await.unwrap().unwrap(), None);
        let closed = timeout(SOON, silent.read(&mut [0])).await.unwrap();
        assert_eq!(closed.unwrap(), 0);
        assert_eq!(counters.snapshot().refused_half_open, 2);

        // Where everybody is known nobody is sent away for who comes next.
        for (_, _, place) in &half_open {
            assert_eq!(place.know(async {}).await, Some(()));
        }
        newcomer.1.know(async {}).await;
        let mut refused = TcpStream::connect(address).await.unwrap();
        let closed = timeout(SOON, refused.read(&mut [0])).await.unwrap();
        assert_eq!(closed.unwrap(), 0);

        half_open.pop_back();
        let _welcome = TcpStream::connect(address).await.unwrap();
        timeout(SOON, accepted.recv()).await.unwrap().unwrap();
        accepting.abort();
    }
}
