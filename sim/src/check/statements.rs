//! A coordinator's statements on their way to the database: they may not arrive, be refused, be written without anybody
//! knowing, or be written after they were sent again.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Epoch, JobId, UserId};
use flowai_actors::messages::{EndedAnswer, Holding, Register};
use flowai_actors::spec::RenderSpec;
use flowai_coordinator::core::{Event, JobModels, NEWCOMER_AGE, Outcome, ReplyId};
use flowai_store::journal::{Batch, Change};
use flowai_store::recovery::JobRow;
use rand::Rng;

use super::coordinator::Heard;
use super::store::{CheckpointRow, Store};
use super::world::{Occurrence, World};

/// A statement on a way that is cut hangs about so long.
const HANGS_MS: u64 = 6_000;
/// A transaction whose client is gone may still commit so much later.
const LINGERS_MS: u64 = 4_000;

#[derive(Debug, Clone)]
pub(super) struct StoreCall {
    pub(super) index: usize,
    pub(super) process: u32,
    /// Under which term it is asked; `None` for what is asked between terms.
    pub(super) term: Option<Epoch>,
    pub(super) tries: u32,
    pub(super) ask: Statement,
    /// `false` when its client has given up on the connection.
    pub(super) is_heard: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Statement {
    Look {
        token: u64,
    },
    TakeOver {
        token: u64,
        asked_at: Monotonic,
    },
    Renew {
        token: u64,
    },
    GiveUp {
        epoch: Epoch,
    },
    Recover,
    Commit(Arc<Batch>),
    Read(Vec<JobId>),
    /// A page of the comparison.
    Compare {
        after: Option<JobId>,
    },
    /// The first half of a sweep.
    Newcomers {
        running: Vec<JobId>,
    },
    /// The second.
    CancelRequests {
        running: Vec<JobId>,
        newcomers: Vec<JobId>,
    },
    /// A page of a thorough sweep.
    SweepAll {
        after: Option<JobId>,
    },
    Admit {
        reply: ReplyId,
        register: Box<Register>,
    },
    LookBack {
        reply: ReplyId,
        held: Holding,
    },
    /// What an assignment is made from.
    Sources {
        held: Holding,
        models: JobModels,
        may_resume: bool,
    },
}

#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "most of what waits is of the larger kinds, and is moved once"
)]
pub(super) enum StoreAnswer {
    Looked {
        token: u64,
        holder: Option<usize>,
    },
    TookOver {
        token: u64,
        asked_at: Monotonic,
        won: Option<Epoch>,
    },
    Renewed {
        token: u64,
        is_newest: bool,
    },
    Nothing,
    Recovered(Vec<JobRow>),
    Happened(Box<Event>),
    LookedBack {
        reply: ReplyId,
        answer: EndedAnswer,
    },
    Sources {
        held: Holding,
        models: JobModels,
        spec: Option<RenderSpec>,
        resume: Option<CheckpointRow>,
    },
}

impl World {
    pub(super) fn send_statement(&mut self, call: StoreCall) {
        let delay = self.delay();
        let failed = |world: &mut Self, after_ms, call: StoreCall| {
            let (index, process) = (call.index, call.process);
            let heard = Heard::Failed(call);
            world.after(
                after_ms,
                Occurrence::Coordinator {
                    index,
                    process,
                    heard,
                },
            );
        };
        if self.cuts.store[call.index] > 0 {
            let hangs_ms = self.rng.random_range(HANGS_MS / 2..HANGS_MS * 2);
            return failed(self, hangs_ms, call);
        }
        if self.cuts.store_refuses > 0 || self.chance(self.plan.statement_refused) {
            return failed(self, delay, call);
        }
        if self.chance(self.plan.commit_unknown) {
            // Its client hears of a broken connection, and the transaction commits at once or a good while later.
            let lingers_ms = if self.rng.random() {
                0
            } else {
                self.rng.random_range(0..LINGERS_MS)
            };
            let unheard = StoreCall {
                is_heard: false,
                ..call.clone()
            };
            self.after(delay + lingers_ms, Occurrence::Store(unheard));
            return failed(self, 2 * delay, call);
        }
        self.after(delay, Occurrence::Store(call));
    }

    /// A statement is carried out, in one moment.
    pub(super) fn statement(&mut self, call: StoreCall) {
        let answer = match self.execute(&call) {
            Ok(answer) => answer,
            // The second half of a sweep follows the first.
            Err(ask) => {
                return self.send_statement(StoreCall {
                    tries: 0,
                    ask: *ask,
                    ..call
                });
            }
        };
        if call.is_heard {
            let delay = self.delay();
            let (index, process) = (call.index, call.process);
            let heard = Heard::Answered { call, answer };
            self.after(
                delay,
                Occurrence::Coordinator {
                    index,
                    process,
                    heard,
                },
            );
        }
    }

    /// # Errors
    /// The statement that follows this one.
    fn execute(&mut self, call: &StoreCall) -> Result<StoreAnswer, Box<Statement>> {
        let now = self.now;
        let store = &mut self.store;
        let happened = |event| Ok(StoreAnswer::Happened(Box::new(event)));
        let epoch = call.term.unwrap_or(Epoch::ZERO);
        match &call.ask {
            Statement::Look { token } => Ok(StoreAnswer::Looked {
                token: *token,
                holder: store.look(now),
            }),
            Statement::TakeOver { token, asked_at } => Ok(StoreAnswer::TookOver {
                token: *token,
                asked_at: *asked_at,
                won: store.take_over(now, call.index),
            }),
            Statement::Renew { token } => Ok(StoreAnswer::Renewed {
                token: *token,
                is_newest: store.renew(now, epoch),
            }),
            Statement::GiveUp { epoch } => {
                store.give_up(now, *epoch);
                Ok(StoreAnswer::Nothing)
            }
            Statement::Recover => Ok(StoreAnswer::Recovered(store.recover(now))),
            Statement::Commit(batch) => happened(commit(store, &self.cuts.held, epoch, batch)),
            Statement::Read(jobs) => happened(Event::RowsRead {
                asked: jobs.clone(),
                rows: store.jobs(now, jobs),
            }),
            Statement::Compare { after } => {
                happened(Event::Compared(store.unfinished_rows(*after)))
            }
            Statement::Newcomers { running } => {
                if !call.is_heard {
                    return Ok(StoreAnswer::Nothing);
                }
                Err(Box::new(Statement::CancelRequests {
                    running: running.clone(),
                    newcomers: store.newcomers(now, NEWCOMER_AGE.as_millis() as u64),
                }))
            }
            Statement::CancelRequests { running, newcomers } => happened(Event::Swept {
                newcomers: newcomers.clone(),
                cancelled: store.cancel_requests(running),
            }),
            Statement::SweepAll { after } => {
                happened(Event::SweptAll(store.unfinished_ids(*after).collect()))
            }
            Statement::Admit { reply, register } => happened(Event::Admitted {
                reply: *reply,
                register: register.clone(),
                result: store.register(&register.node, register.generation),
            }),
            Statement::LookBack { reply, held } => Ok(StoreAnswer::LookedBack {
                reply: *reply,
                answer: if store.was_settled(held) {
                    EndedAnswer::Settled
                } else {
                    EndedAnswer::Stale
                },
            }),
            Statement::Sources {
                held,
                models,
                may_resume,
            } => Ok(StoreAnswer::Sources {
                held: held.clone(),
                models: models.clone(),
                spec: store.row(held.at.job).map(|row| (*row.spec).clone()),
                resume: store
                    .row(held.at.job)
                    .filter(|_| *may_resume)
                    .and_then(|row| row.checkpoint.clone()),
            }),
        }
    }
}

/// Writes what nobody else has locked, as the leader's task does.
fn commit(store: &mut Store, held: &BTreeMap<UserId, u32>, epoch: Epoch, batch: &Batch) -> Event {
    let is_held = |change: &Change| {
        let row = store.row(change.job());
        row.is_some_and(|row| held.get(&row.owner).is_some_and(|count| *count > 0))
    };
    let mut free = Batch::default();
    for change in batch.changes().iter().filter(|change| !is_held(change)) {
        // A part of what fitted fits.
        drop(free.push(change.clone()));
    }
    let Ok(written) = store.commit(epoch, &free) else {
        return Event::Fenced;
    };
    let mut written = written.into_iter();
    let outcome = |change: &Change| match free.holds(change.job()) {
        true => Outcome::Written(written.next().expect("an outcome for each change")),
        false => Outcome::Blocked,
    };
    Event::Committed(batch.changes().iter().map(outcome).collect())
}
