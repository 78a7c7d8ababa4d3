//! One way of one connection.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

use super::toxic::{Hold, Toxic};

/// Read at once; also all that a held connection keeps here, the rest waits in the kernel.
const CHUNK_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    Server,
    Client,
}

impl Towards {
    fn is_held(self, toxic: &Toxic) -> bool {
        match toxic.holds {
            Hold::Nothing => false,
            Hold::ToServer => self == Self::Server,
            Hold::ToClient => self == Self::Client,
            Hold::Both => true,
        }
    }
}

/// Carries bytes, and the end of them, as the toxic lets it.
pub(super) async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    towards: Towards,
    mut toxic: watch::Receiver<Toxic>,
    harm: &AtomicU64,
) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK_BYTES];
    // Counted while answers are cut short.
    let mut answered = 0;
    loop {
        let read = from.read(&mut bytes).await?;
        if towards.is_held(&toxic.borrow()) {
            harm.fetch_add(1, Ordering::Relaxed);
            let free = toxic.wait_for(|toxic| !towards.is_held(toxic)).await;
            free.map_err(io::Error::other)?;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        let present = *toxic.borrow();
        let wait = wait_of(&present, read);
        if !wait.is_zero() {
            harm.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
        }
        let passing = match present.answer_bytes_max {
            Some(max) if towards == Towards::Client => {
                let left = usize::try_from(max.saturating_sub(answered)).unwrap_or(usize::MAX);
                answered += read as u64;
                left.min(read)
            }
            Some(_) | None => read,
        };
        to.write_all(&bytes[..passing]).await?;
        if passing < read {
            harm.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other("cut short"));
        }
    }
}

fn wait_of(toxic: &Toxic, bytes: usize) -> Duration {
    let jitter = toxic.jitter.mul_f64(rand::rng().random_range(0.0..=1.0));
    let slow = toxic.rate_max.map_or(Duration::ZERO, |rate| {
        Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
    });
    toxic.delay + jitter + slow
}

/// Resolves when the connection is to be broken off.
pub(super) async fn broken_off(mut toxic: watch::Receiver<Toxic>, harm: &AtomicU64) {
    let cuts = toxic.borrow().cuts;
    if toxic.wait_for(|toxic| toxic.cuts != cuts).await.is_ok() {
        harm.fetch_add(1, Ordering::Relaxed);
    }
}
