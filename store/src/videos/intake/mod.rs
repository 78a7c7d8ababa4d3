//! Where submissions gather: those that come while a statement is under way go into the next one together. One that comes alone
//! waits for nobody (docs/adr/0021).

mod gathering;
mod request;
mod statement;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowai_actors::limits::INTAKE_LANES;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::gathering::{Gathering, Outcome, Waiting};
use self::request::Request;
use super::{NewVideo, Queueing};
use crate::database::{ACQUIRE_TIMEOUT, Database, DatabaseError};
use crate::idempotency::NamedRequest;

/// Queues videos on behalf of their owners. Cheap to clone; all clones gather together.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    database: Database,
    queued_scale: u32,
    gathering: Mutex<Gathering>,
    lanes: Arc<Semaphore>,
}

impl Intake {
    /// `queued_scale` multiplies how many jobs of a user may wait, for load tests.
    pub fn new(database: Database, queued_scale: u32) -> Self {
        Self(Arc::new(Inner {
            database,
            queued_scale,
            gathering: Mutex::default(),
            lanes: Arc::new(Semaphore::new(INTAKE_LANES)),
        }))
    }

    /// Writes jobs of one owner, all of them or none: each with its state, its first event and the hold of its price, and the answer that a
    /// request of this name gets again. What is `Queued` is durable. Events have the order of `videos`; the first one's owner counts for
    /// all. It is carried out also when the caller is dropped.
    ///
    /// # Errors
    /// [`DatabaseError::Busy`] when it waited for five seconds or as many wait as may; then nothing was queued.
    pub async fn queue(
        &self,
        videos: &[NewVideo<'_>],
        named: Option<&NamedRequest<'_>>,
        answer: (u16, &serde_json::Value),
    ) -> Result<Queueing, DatabaseError> {
        let Some(request) = Request::new(videos, named, answer) else {
            return Ok(Queueing::Queued);
        };
        let pushed = self.gathering().push(request);
        let (place, mut outcome) = pushed.ok_or(DatabaseError::Busy)?;
        self.open_lane();
        let outcome = match timeout(ACQUIRE_TIMEOUT, &mut outcome).await {
            Ok(outcome) => outcome,
            Err(_) if self.gathering().withdraw(place) => return Err(DatabaseError::Busy),
            Err(_) => outcome.await,
        };
        outcome.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed.into()))
    }

    /// Requests that wait for a statement.
    pub fn waiting(&self) -> usize {
        self.gathering().waiting()
    }

    fn gathering(&self) -> MutexGuard<'_, Gathering> {
        let gathering = self.0.gathering.lock();
        gathering.unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a lane, unless as many are open as may be.
    fn open_lane(&self) {
        if let Ok(lane) = self.0.lanes.clone().try_acquire_owned() {
            tokio::spawn(self.clone().work(lane));
        }
    }

    async fn work(self, lane: OwnedSemaphorePermit) {
        loop {
            let group = self.gathering().take();
            if group.is_empty() {
                break;
            }
            let owners: Vec<_> = group.iter().map(|waiting| waiting.request.owner).collect();
            // A panic ends no lane; whoever waited for it is told.
            let written = AssertUnwindSafe(self.write(group)).catch_unwind();
            if written.await.is_err() {
                tracing::error!("a panic kept submissions from being written");
            }
            let mut gathering = self.gathering();
            owners.into_iter().for_each(|owner| gathering.done(owner));
        }
        drop(lane);
        // What came since it looked found no lane to open.
        if self.gathering().is_due() {
            self.open_lane();
        }
    }

    async fn write(&self, group: Vec<Waiting>) {
        if group.len() > 1 {
            let requests: Vec<&Request> = group.iter().map(|waiting| &waiting.request).collect();
            match self.submit(&requests).await {
                Ok(outcomes) => {
                    let told = group.into_iter().zip(outcomes);
                    return told.for_each(|(waiting, outcome)| waiting.tell(outcome));
                }
                Err(error) if is_of_all(&error) => return tell_all(group, error),
                // One of them is why none was queued.
                Err(_) => {}
            }
        }
        let mut rest = group.into_iter();
        while let Some(waiting) = rest.next() {
            match self.alone(&waiting.request).await {
                Err(error) if is_of_all(&error) => {
                    return tell_all([waiting].into_iter().chain(rest), error);
                }
                outcome => waiting.tell(outcome),
            }
        }
    }

    async fn alone(&self, request: &Request) -> Outcome {
        match self.submit(&[request]).await {
            Ok(outcomes) => outcomes.into_iter().next().unwrap_or_else(unanswered),
            Err(error) => statement::missing(&error).ok_or(error),
        }
    }

    /// An outcome for each.
    async fn submit(&self, requests: &[&Request]) -> Result<Vec<Outcome>, DatabaseError> {
        let inner = &self.0;
        let mut outcomes = statement::submit(&inner.database, inner.queued_scale, requests).await?;
        outcomes.resize_with(requests.len(), unanswered);
        Ok(outcomes)
    }
}

/// It was written, and what became of it was not said.
fn unanswered() -> Outcome {
    Err(sqlx::Error::RowNotFound.into())
}

/// Whether the server is away, so that each request alone would fail as well.
fn is_of_all(error: &DatabaseError) -> bool {
    error.is_outage() && !error.lost_to_another()
}

fn tell_all(group: impl IntoIterator<Item = Waiting>, error: DatabaseError) {
    let error = Arc::new(error);
    for waiting in group {
        waiting.tell(Err(DatabaseError::OfAll(error.clone())));
    }
}
