//! Where submissions gather: those that come while a statement is under way go into the next one together. One that comes alone
//! waits for nobody.

mod gathering;
mod request;
mod statement;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flowai_actors::limits::INTAKE_LANES;
use tokio::sync::Semaphore;

use self::gathering::{Gathering, Group, Told, Waiting};
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
    /// request of this name gets again. What is `Queued` is durable. Events have the order of `videos`; the first one's owner and price list
    /// count for all. It is carried out also when the caller is dropped.
    pub async fn queue(
        &self,
        videos: &[NewVideo<'_>],
        named: Option<&NamedRequest<'_>>,
        answer: (u16, &serde_json::Value),
    ) -> Result<Queueing, DatabaseError> {
        let Some(request) = Request::new(videos, named, answer) else {
            return Ok(Queueing::Queued);
        };
        let (waiting, told) = Waiting::new(request, Instant::now());
        self.with(|gathering| gathering.push(waiting));
        self.open_lane();
        let unknown = || Err(sqlx::Error::WorkerCrashed.into());
        told.await.unwrap_or_else(|_| unknown())
    }

    fn with<T>(&self, what: impl FnOnce(&mut Gathering) -> T) -> T {
        what(
            &mut self
                .0
                .gathering
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Opens a lane for what waits, unless as many are open as may be.
    fn open_lane(&self) {
        let Ok(lane) = self.0.lanes.clone().try_acquire_owned() else {
            return;
        };
        let intake = self.clone();
        tokio::spawn(async move {
            while !intake.with(|gathering| gathering.is_empty()) {
                let group =
                    intake.with(|gathering| gathering.take(Instant::now(), ACQUIRE_TIMEOUT));
                intake.submit(group).await;
            }
            drop(lane);
            // What came since it looked found no lane to open.
            if !intake.with(|gathering| gathering.is_empty()) {
                intake.open_lane();
            }
        });
    }

    async fn submit(&self, group: Group) {
        for waiting in group.late {
            waiting.tell(Err(sqlx::Error::PoolTimedOut.into()));
        }
        let requests: Vec<&Request> = group
            .requests
            .iter()
            .map(|waiting| &waiting.request)
            .collect();
        let told = self.carry_out(&requests).await;
        for (waiting, told) in group.requests.into_iter().zip(told) {
            waiting.tell(told);
        }
    }

    async fn carry_out(&self, requests: &[&Request]) -> Vec<Told> {
        match requests {
            [] => return Vec::new(),
            [request] => return vec![self.alone(request).await],
            _ => {}
        }
        match self.together(requests).await {
            Ok(queueings) => queueings.into_iter().map(Ok).collect(),
            // Another try would be another one of all.
            Err(error) if error.is_outage() => {
                let error = Arc::new(error);
                let told = || Err(DatabaseError::OfAll(error.clone()));
                requests.iter().map(|_| told()).collect()
            }
            // One of them is why none was queued.
            Err(_) => {
                let mut told = Vec::with_capacity(requests.len());
                for request in requests {
                    told.push(self.alone(request).await);
                }
                told
            }
        }
    }

    async fn together(&self, requests: &[&Request]) -> Result<Vec<Queueing>, DatabaseError> {
        statement::submit(&self.0.database, self.0.queued_scale, requests).await
    }

    async fn alone(&self, request: &Request) -> Result<Queueing, DatabaseError> {
        match self.together(&[request]).await {
            Ok(mut queueings) => queueings
                .pop()
                .ok_or_else(|| sqlx::Error::RowNotFound.into()),
            Err(error) => statement::missing(&error).ok_or(error),
        }
    }
}
