//! One reader of an event stream: a socket and no more, for what it computes is taken from the cores that the api runs on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use flowai_actors::ids::JobId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

/// The receive buffer of a reader that will not read.
const NARROW_BYTES: u32 = 4_096;
/// Rounds of updates that are remembered of each job.
pub(super) const ROUNDS_MAX: usize = 1_024;

/// When each update was given to the link: of a job by round, microseconds since the first look at this value.
pub(super) struct Published {
    start: Instant,
    count_from: OnceLock<Instant>,
    rounds: HashMap<String, Vec<AtomicU64>>,
}

impl Published {
    pub(super) fn of(jobs: impl Iterator<Item = JobId>) -> Self {
        let rounds = jobs.map(|job| {
            (
                job.to_string(),
                (0..ROUNDS_MAX).map(|_| AtomicU64::new(0)).collect(),
            )
        });
        Self {
            start: Instant::now(),
            count_from: OnceLock::new(),
            rounds: rounds.collect(),
        }
    }

    /// What is published before is not counted.
    pub(super) fn count_from(&self, at: Instant) {
        self.count_from.set(at).ok();
    }

    /// Whether it counts. `at`: when it was to be published, so that a publisher that is late is not forgiven.
    pub(super) fn note(&self, job: JobId, round: u32, at: Instant) -> bool {
        let counts = self.count_from.get().is_some_and(|from| at >= *from);
        let slot = self
            .rounds
            .get(&job.to_string())
            .and_then(|rounds| rounds.get(round as usize));
        if let Some(slot) = slot.filter(|_| counts) {
            slot.store((at - self.start).as_micros() as u64, Ordering::Release);
        }
        counts
    }

    /// How old an update is, ms; `None` when it does not count.
    fn age_ms(&self, job: &str, round: usize) -> Option<f64> {
        let at = self.rounds.get(job)?.get(round)?.load(Ordering::Acquire);
        let now = self.start.elapsed().as_micros() as u64;
        (at > 0).then(|| now.saturating_sub(at) as f64 / 1e3)
    }
}

pub(super) struct Reader {
    socket: TcpStream,
    published: Arc<Published>,
    /// What was read, up to the end of the last whole line.
    text: Vec<u8>,
}

impl Reader {
    /// Returns when the stream has begun.
    pub(super) async fn open(
        address: SocketAddr,
        key: String,
        published: Arc<Published>,
        is_narrow: bool,
    ) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if is_narrow {
            socket.set_recv_buffer_size(NARROW_BYTES)?;
        }
        let mut socket = socket.connect(address).await?;
        let request = format!(
            "GET /v1/me/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\naccept: text/event-stream\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        while !contains(&text, b"event: snapshot") {
            let read = socket.read_buf(&mut text).await?;
            ensure!(
                read > 0,
                "the stream ended: {}",
                String::from_utf8_lossy(&text)
            );
            ensure!(
                text.starts_with(b"HTTP/1.1 200"),
                "answered {}",
                String::from_utf8_lossy(&text)
            );
        }
        text.clear();
        Ok(Self {
            socket,
            published,
            text,
        })
    }

    /// The ages of what comes, ms, until it is over.
    pub(super) async fn read(mut self, mut is_over: watch::Receiver<bool>) -> Result<Vec<f64>> {
        let mut ages = Vec::new();
        loop {
            let read = tokio::select! {
                read = self.socket.read_buf(&mut self.text) => read?,
                _ = is_over.changed() => return Ok(ages),
            };
            ensure!(read > 0, "the stream ended in the middle");
            let Some(end) = self.text.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let lines = std::str::from_utf8(&self.text[..end]).context("not text")?;
            ages.extend(lines.lines().filter_map(|line| self.age_ms(line)));
            self.text.drain(..=end);
        }
    }

    /// Holds the socket and never reads it.
    pub(super) async fn stall(self, mut is_over: watch::Receiver<bool>) -> Result<Vec<f64>> {
        is_over.changed().await?;
        Ok(Vec::new())
    }

    /// Of a line `data: {…,"step":N,…,"video":"…"}`.
    fn age_ms(&self, line: &str) -> Option<f64> {
        let data = line.strip_prefix("data: ")?;
        let (_, rest) = data.split_once("\"step\":")?;
        let (round, _) = rest.split_once([',', '}'])?;
        let (_, rest) = data.split_once("\"video\":\"")?;
        let (job, _) = rest.split_once('"')?;
        self.published.age_ms(job, round.parse().ok()?)
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
