//! A coordinator's life: stand by, lead a term, stand by again, until it is told to end.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowai_actors::ids::Epoch;
use flowai_actors::kit::{
    OnCancel, OnFailure, RestartBudget, TaskKind, TaskResult, Tasks, Verdict,
};
use flowai_actors::link::{LinkEvents, NodeLink, Standing};
use flowai_store::database::Database;
use flowai_store::objects::Objects;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::autoscaler::Autoscale;
use crate::leader::{ADMISSIONS_AT_ONCE, Ahead, Ear, HeldRows, Leader, Over, Tools};
use crate::lease::{self, Candidate};
use crate::members::Members;
use crate::metrics::record_standing;

/// For the tasks of a term that has ended: none of them has anything to finish.
const TERM_GRACE: Duration = Duration::from_secs(1);

/// Takes up or lays down the lead in the link: whether peers are welcome here.
pub type Stand = Arc<dyn Fn(Standing) + Send + Sync>;

/// Why a coordinator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// A part of the term that it cannot be without has failed.
    #[error("term {epoch} cannot go on: {reason}")]
    Term { epoch: Epoch, reason: String },
}

/// What a coordinator works with.
#[derive(Clone)]
pub struct Coordinator {
    pub database: Database,
    pub objects: Objects,
    pub link: Arc<dyn NodeLink>,
    pub stand: Stand,
    /// This process in the lease row: unique for each start.
    pub holder: String,
    /// Where nodes and api instances reach its link, host:port.
    pub address: String,
    /// Signs certificates of nodes while this coordinator leads; without it no machine can join.
    pub authority: Option<Authority>,
    /// `None`: nobody is asked for nodes.
    pub autoscale: Option<Autoscale>,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("holder", &self.holder)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Where what the link brings goes: to the leader of the present term, to nobody between terms.
type Present = Arc<Mutex<Option<Ear>>>;

#[derive(Debug, Clone, Copy)]
enum CoordinatorTask {
    /// Hands what the link brings to the leader.
    Pump,
    /// Looks at who was revoked and who drains.
    Members,
}

impl TaskKind for CoordinatorTask {
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    fn on_failure(self) -> OnFailure {
        OnFailure::EndProcess
    }
}

impl Coordinator {
    /// Runs until `end` is cancelled; a term that is led then ends at once, so that a standby need not wait for its end.
    ///
    /// # Errors
    /// [`CoordinatorError`]: the process should end and be started again.
    pub async fn run(
        self,
        events: LinkEvents,
        end: CancellationToken,
    ) -> Result<(), CoordinatorError> {
        let present = Present::default();
        let tasks = Tasks::new();
        tasks.spawn(CoordinatorTask::Pump, |_| pump(events, present.clone()));
        let members = Members::default();
        tasks.spawn(CoordinatorTask::Members, |_| {
            let looking = members.clone();
            looking.keep_looking(self.database.clone(), self.link.clone())
        });
        let ran = tokio::select! {
            ran = self.take_turns(&present, &members, &end) => ran,
            failed = tasks.failed() => Err(CoordinatorError::Term {
                epoch: Epoch::ZERO,
                reason: failed.to_string(),
            }),
        };
        tasks.shutdown(TERM_GRACE).await;
        ran
    }

    async fn take_turns(
        &self,
        present: &Present,
        members: &Members,
        end: &CancellationToken,
    ) -> Result<(), CoordinatorError> {
        let mut budget = RestartBudget::default();
        loop {
            let candidate = Candidate {
                holder: self.holder.clone(),
                address: self.address.clone(),
            };
            let won = lease::win(&self.database, &candidate, |view| {
                let leader = view.address.clone().filter(|_| view.is_held);
                (self.stand)(Standing::Standby { leader });
                record_standing(false);
            });
            let Some(term) = end.run_until_cancelled(won).await else {
                return Ok(());
            };
            if let Err(failure) = self.lead(term, present, members, end).await {
                // Each term cuts every link: one that fails at once, over and over, is worse than a process that ends.
                match budget.crashed(Instant::now()) {
                    Verdict::Escalate => return Err(failure),
                    Verdict::RestartAfter(wait) => {
                        tracing::error!(%failure, "term failed; standing again for the lead");
                        end.run_until_cancelled(tokio::time::sleep(wait)).await;
                    }
                }
            }
            if end.is_cancelled() {
                return Ok(());
            }
        }
    }

    async fn lead(
        &self,
        won: lease::Term,
        present: &Present,
        members: &Members,
        end: &CancellationToken,
    ) -> Result<(), CoordinatorError> {
        let epoch = won.epoch;
        tracing::info!(%epoch, "this coordinator leads");
        let tasks = Tasks::new();
        let failed = |reason: String| CoordinatorError::Term { epoch, reason };
        let term = async {
            let tools = Tools {
                database: self.database.clone(),
                objects: self.objects.clone(),
                link: self.link.clone(),
                members: members.clone(),
                ahead: Ahead::default(),
                held_rows: HeldRows::default(),
                admissions: Arc::new(Semaphore::new(ADMISSIONS_AT_ONCE)),
                authority: self.authority.clone(),
            };
            let autoscale = self.autoscale.clone();
            let leader = Leader::start(tools, epoch, tasks.clone(), autoscale).await;
            let leader = leader.map_err(|error| failed(error.to_string()))?;
            set(present, Some(leader.ear()));
            (self.stand)(Standing::Leading);
            tokio::select! {
                over = leader.over() => match over {
                    Over::Fenced => Ok(()),
                    Over::Failed => Err(failed("the leader actor has failed".to_owned())),
                },
                lost = tasks.failed() => Err(failed(lost.to_string())),
            }
        };
        let ended = tokio::select! {
            ended = term => ended,
            lost = lease::hold(&self.database, won, &self.holder) => {
                tracing::warn!(%epoch, ?lost, "the lease is lost");
                Ok(())
            }
            () = end.cancelled() => Ok(()),
        };
        set(present, None);
        (self.stand)(Standing::Standby { leader: None });
        tasks.shutdown(TERM_GRACE).await;
        lease::give_up(&self.database, epoch, &self.holder).await;
        tracing::info!(%epoch, "this coordinator leads no more");
        ended
    }
}

fn set(present: &Present, leader: Option<Ear>) {
    *present.lock().unwrap_or_else(PoisonError::into_inner) = leader;
}

async fn pump(mut events: LinkEvents, present: Present) -> TaskResult {
    while let Some(event) = events.next().await {
        let leader = present
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // Nobody leads: peers have been cut off and ask whoever leads now.
        let Some(leader) = leader else { continue };
        if !leader.hear(event).await {
            tracing::warn!("a message came after the end of the term");
        }
    }
    Ok(())
}
