//! Watching one job to its end, whatever happens to the connection or the server in between.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::events::{EventStream, RECONNECT_MAX};
use super::{Client, ClientError, Event, Position, Progress, Video};

const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(3);

/// What a watcher is told.
#[derive(Debug, Clone)]
pub enum Update {
    /// The job as it is now: at the beginning, and whenever its state changed. The last one has ended.
    Video(Box<Video>),
    Progress(Progress),
    Position(Position),
    /// The connection is gone; it is being made again.
    Reconnecting,
}

/// A job being watched.
pub struct Watch<'a> {
    client: &'a Client,
    id: String,
    /// The newest durable event that was seen.
    seen: u64,
    stream: Option<EventStream>,
    /// Streams one after the other that were closed before they said anything.
    silent: u32,
    has_ended: bool,
    /// Since when nothing has been heard, and the next wait.
    trouble: Option<(Instant, Duration)>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(client: &'a Client, id: &str) -> Self {
        Self {
            client,
            id: id.to_owned(),
            seen: 0,
            stream: None,
            silent: 0,
            has_ended: false,
            trouble: None,
        }
    }

    /// The next thing to say; `None` after the job's end was said.
    ///
    /// # Errors
    /// A refusal (the job is not the caller's, the credential has ended), or `Unreachable` when the server has been
    /// silent for [`RECONNECT_MAX`].
    pub async fn next(&mut self) -> Result<Option<Update>, ClientError> {
        while !self.has_ended {
            let step = match self.stream.as_mut() {
                None => self.open().await.map(Some),
                Some(stream) => match stream.next().await {
                    Some(Ok(event)) => {
                        self.silent = 0;
                        self.hear(event).await
                    }
                    Some(Err(error)) => Err(error),
                    // Closed in order, as a draining server does, or by a proxy that lets no streams through.
                    None => {
                        self.stream = None;
                        self.pause().await;
                        Ok(None)
                    }
                },
            };
            match step {
                Ok(Some(update)) => {
                    self.trouble = None;
                    return Ok(Some(update));
                }
                Ok(None) => {}
                Err(error) if error.passes().is_some() => {
                    self.stream = None;
                    if self.wait(error).await? {
                        return Ok(Some(Update::Reconnecting));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads the job, and opens its stream behind what the answer already says, so that nothing lies between the two.
    async fn open(&mut self) -> Result<Update, ClientError> {
        let video = self.client.video(&self.id).await?;
        // What was seen before the stream broke is not asked for again, nor is what this answer says.
        self.seen = self.seen.max(video.seq);
        self.has_ended = video.status.is_end();
        if !self.has_ended {
            self.stream = Some(self.client.events(&self.id, self.seen).await?);
        }
        Ok(Update::Video(Box::new(video)))
    }

    async fn hear(&mut self, event: Event) -> Result<Option<Update>, ClientError> {
        match event {
            Event::Changed { seq, .. } => {
                if seq <= self.seen {
                    return Ok(None);
                }
                let video = self.client.video(&self.id).await?;
                self.seen = self.seen.max(seq).max(video.seq);
                self.has_ended = video.status.is_end();
                Ok(Some(Update::Video(Box::new(video))))
            }
            Event::Progress(progress) => Ok(Some(Update::Progress(progress))),
            Event::Position(position) => Ok(Some(Update::Position(position))),
            Event::Resync => {
                self.stream = None;
                Ok(None)
            }
        }
    }

    /// After a stream was closed: at once after one that spoke, and longer and longer after those that did not, where reading the job is
    /// all that is left.
    async fn pause(&mut self) {
        let doubled = RECONNECT_FIRST * (1 << self.silent.min(10));
        if self.silent > 0 {
            tokio::time::sleep(doubled.min(RECONNECT_MOST)).await;
        }
        self.silent += 1;
    }

    /// Waits before the next try. `true`: this trouble is new.
    async fn wait(&mut self, error: ClientError) -> Result<bool, ClientError> {
        let (since, wait) = self
            .trouble
            .unwrap_or_else(|| (Instant::now(), RECONNECT_FIRST));
        if since.elapsed() >= RECONNECT_MAX {
            return Err(error);
        }
        let is_new = self.trouble.is_none();
        self.trouble = Some((since, (wait * 2).min(RECONNECT_MOST)));
        // Full jitter: all the watchers of an api that restarts come back spread out.
        let wait = wait.mul_f64(rand::rng().random::<f64>());
        tokio::time::sleep(wait).await;
        Ok(is_new)
    }
}
