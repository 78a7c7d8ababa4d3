//! What the leader believes and does next: pure, the time comes with each event.
//!
//! The scheduler decides; this value turns what is heard into its events and its effects into changes of rows, and keeps
//! who has to be told once they are written. Nothing leaves before its commit (INV-4), and a change that the row refuses
//! makes it read the row again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::credits::StepsDone;
use flowai_actors::ids::{Attempt, Epoch, JobId, NodeId, Sha256, UserId};
use flowai_actors::limits::{
    CHECKPOINT_SWEEP_MS, JOB_NO_PROGRESS_MS, RECOVERY_PAGE_JOBS, SWEEP_MS,
};
use flowai_actors::link::PeerId;
use flowai_actors::messages::{
    AttemptRef, EndedAnswer, FarmView, Holding, Live, QueueView, Registered, Verdict,
};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{JobState, Tier};
use flowai_actors::waiting::WhyAnswer;
use flowai_store::journal::{Artefact, Change, Unfinished, Written};
use flowai_store::recovery::JobRow;

use super::checkpoints::Checkpoints;
use super::compare::Comparison;
use super::event::{Answer, Effect, Event, JobModels, NotDispatched, Outcome, ReplyId};
use super::line::{self, Line};
use super::outbox::Outbox;
use super::previews::{self, Previews};
use super::registry::Registry;
use crate::scheduler::{
    self, AttemptEnd, Checkpoint, Event as Heard, Recovered, Scheduler, Shape, WaitingJob,
};
use crate::{cost, metrics};

/// Every so many sweeps all unfinished jobs are looked at, not only the newest.
const THOROUGH_SWEEP_EVERY: u64 = 20;

/// Between the beginnings of two reads: what rings meanwhile is read together. A lone job is read at once.
const READ_INTERVAL_MS: u64 = 10;

/// An attempt that a node holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) holding: Holding,
    /// Its node has said that it works on it.
    pub(super) is_dispatched: bool,
    pub(super) heard_at: Monotonic,
    /// Of the clip, as its node said last: its owner pays for them who cancels it.
    pub(super) steps: Option<StepsDone>,
    /// Beats in a row in which its node did not name it.
    pub(super) unnamed_beats: u32,
    /// What its uploads were signed for in this term.
    pub(super) announced: Option<Announced>,
    pub(super) previews: Previews,
    pub(super) checkpoints: Checkpoints,
    /// The scheduler wants it to stop: whether with a checkpoint. Told again until its end is heard.
    stop: Option<bool>,
}

/// The files of an attempt that become part of what its owner is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) clip: Sha256,
    /// Of a job whose first frame is made from words.
    pub(super) keyframe: Option<Sha256>,
}

/// One term of a leader: whatever happens is applied, and what has to be done about it comes back.
#[derive(Debug)]
pub struct State {
    pub(super) epoch: Epoch,
    pub(super) scheduler: Scheduler,
    pub(super) held: BTreeMap<JobId, Held>,
    pub(super) registry: Registry,
    pub(super) apis: BTreeSet<PeerId>,
    /// Ends that were told and are not written yet, with whoever waits for the answer.
    pub(super) ending: HashMap<(JobId, Attempt), Vec<ReplyId>>,
    /// Nodes that are welcome once their attempt is adopted.
    pub(super) welcomes: HashMap<(JobId, Attempt), ReplyId>,
    /// Unfinished jobs of which checkpoints may lie in the store.
    pub(super) checkpointed: BTreeSet<JobId>,
    next_checkpoint_sweep: Monotonic,
    outbox: Outbox,
    line: Line,
    pub(super) to_read: BTreeSet<JobId>,
    is_reading: bool,
    next_read: Monotonic,
    /// Jobs that changed since the present read began: what it finds of them may be older.
    touched: BTreeSet<JobId>,
    pub(super) comparison: Comparison,
    next_sweep: Monotonic,
    sweeps: u64,
    is_sweeping: bool,
    is_over: bool,
}

impl State {
    /// A term that has heard nothing yet.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            scheduler: Scheduler::default(),
            held: BTreeMap::new(),
            registry: Registry::default(),
            apis: BTreeSet::new(),
            ending: HashMap::new(),
            welcomes: HashMap::new(),
            checkpointed: BTreeSet::new(),
            next_checkpoint_sweep: Monotonic::default().plus_ms(CHECKPOINT_SWEEP_MS),
            outbox: Outbox::default(),
            line: Line::default(),
            to_read: BTreeSet::new(),
            is_reading: false,
            next_read: Monotonic::default(),
            touched: BTreeSet::new(),
            comparison: Comparison::default(),
            next_sweep: Monotonic::default(),
            sweeps: 0,
            is_sweeping: false,
            is_over: false,
        }
    }

    /// What it believes of jobs and nodes, to be looked at.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Takes in what another term left unfinished.
    pub fn recover(&mut self, now: Monotonic, rows: Vec<JobRow>) {
        for row in rows {
            self.learn(now, row, &mut Vec::new());
        }
    }

    /// Takes one event in and says what follows. Once the term is over nothing does.
    pub fn apply(&mut self, now: Monotonic, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.is_over {
            return effects;
        }
        match event {
            Event::Rang(job) => drop(self.to_read.insert(job)),
            Event::Swept {
                unfinished,
                cancelled,
            } => self.swept(now, unfinished, cancelled, &mut effects),
            Event::RowsRead { asked, rows } => self.rows_read(now, asked, rows, &mut effects),
            Event::Registering { reply, register } => {
                effects.push(Effect::Admit { reply, register });
            }
            Event::Admitted {
                reply,
                register,
                result,
            } => self.admitted(now, reply, *register, result, &mut effects),
            Event::Beat { reply, beat } => self.beat(now, reply, *beat, &mut effects),
            Event::Progress { node, progress } => {
                self.progress(now, &node, &progress, &mut effects);
            }
            Event::Ended { reply, ended } => self.ended(now, reply, ended, &mut effects),
            Event::Verified { ended, result } => self.verified(now, *ended, result, &mut effects),
            Event::TargetsAsked { reply, question } => {
                self.targets_asked(reply, question, &mut effects);
            }
            Event::PreviewAsked { reply, question } => {
                self.preview_asked(reply, question, &mut effects);
            }
            Event::PreviewPlaced { node, placed } => {
                self.preview_placed(&node, placed, &mut effects);
            }
            Event::CheckpointAsked { reply, question } => {
                self.checkpoint_asked(reply, question, &mut effects);
            }
            Event::CheckpointPlaced { node, placed } => {
                self.checkpoint_placed(now, &node, placed, &mut effects);
            }
            Event::Dispatched { held, result } => self.dispatched(now, held, result, &mut effects),
            Event::Committed(outcomes) => self.committed(now, outcomes, &mut effects),
            Event::Fenced => {
                self.is_over = true;
                effects.push(Effect::StepDown);
                return effects;
            }
            Event::FarmAsked(reply) => {
                let view = Box::new(self.view(now));
                effects.push(Effect::Answer(reply, Answer::Farm(view)));
            }
            Event::WhyAsked { reply, job } => {
                let answer = Answer::Why(self.why(job));
                effects.push(Effect::Answer(reply, answer));
            }
            Event::ApiUp(api) => {
                self.apis.insert(api);
                self.line.tell_all();
            }
            Event::ApiDown(api) => drop(self.apis.remove(&api)),
            Event::CompareAsked(reply) => self.compare_asked(reply),
            Event::Compared(rows) => self.compared(rows, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.flush(now, &mut effects);
        effects
    }

    /// One step of the scheduler; what it decides becomes changes of rows.
    pub(super) fn step(&mut self, now: Monotonic, event: Heard, effects: &mut Vec<Effect>) {
        self.step_with(now, event, None, effects);
    }

    /// `artefact`: what a settle of this step delivers.
    pub(super) fn step_with(
        &mut self,
        now: Monotonic,
        event: Heard,
        mut artefact: Option<Box<Artefact>>,
        effects: &mut Vec<Effect>,
    ) {
        for effect in self.scheduler.step(event, now) {
            self.decide(now, effect, &mut artefact, effects);
        }
    }

    pub(super) fn decide(
        &mut self,
        now: Monotonic,
        effect: scheduler::Effect,
        artefact: &mut Option<Box<Artefact>>,
        effects: &mut Vec<Effect>,
    ) {
        use scheduler::Effect as Decided;
        let change = match effect {
            Decided::Assign {
                job,
                attempt,
                node,
                generation,
            } => {
                let at = AttemptRef {
                    job,
                    attempt,
                    epoch: self.epoch,
                };
                let holding = Holding {
                    at,
                    node,
                    generation,
                };
                let held = Held {
                    holding: holding.clone(),
                    is_dispatched: false,
                    heard_at: now,
                    steps: None,
                    unnamed_beats: 0,
                    announced: None,
                    previews: Previews::default(),
                    checkpoints: Checkpoints::default(),
                    stop: None,
                };
                self.held.insert(job, held);
                Some(Change::Assign(holding))
            }
            Decided::Stop { job, keep, .. } => {
                if let Some(held) = self.held.get_mut(&job) {
                    // Who wants nothing kept has the last word.
                    held.stop = Some(keep && held.stop != Some(false));
                }
                // An assignment that is still on its way is stopped once the node has it.
                effects.extend(self.stop(job));
                None
            }
            Decided::Settle { job, .. } => {
                self.release(job, effects)
                    .zip(artefact.take())
                    .map(|(held, artefact)| Change::Settle {
                        held: held.holding,
                        artefact,
                    })
            }
            Decided::Requeue {
                job,
                outcome,
                reason,
                ..
            } => self.release(job, effects).map(|held| Change::Requeue {
                held: held.holding,
                outcome,
                reason,
                // The leader has heard all of it, the scheduler what matters for the next place.
                checkpoint: held
                    .checkpoints
                    .newest
                    .filter(|_| outcome != Unfinished::Failed),
            }),
            Decided::Fail {
                job,
                attempt,
                code,
                detail,
            } => Some(match self.release(job, effects) {
                Some(held) => Change::Fail {
                    held: held.holding,
                    code,
                    detail,
                },
                None => Change::FailWaiting {
                    job,
                    attempt,
                    code,
                    detail,
                },
            }),
            Decided::Cancel { job, attempt } => {
                let steps = self.held.get(&job).and_then(|held| held.steps);
                Some(match self.release(job, effects) {
                    Some(held) => Change::Cancel {
                        held: held.holding,
                        steps,
                    },
                    None => Change::CancelWaiting { job, attempt },
                })
            }
            Decided::Quarantine {
                job, node_deaths, ..
            } => self.release(job, effects).map(|held| Change::Quarantine {
                held: held.holding,
                detail: format!("{node_deaths} times a node died while it ran this"),
            }),
            // Whoever said it is answered by the one who heard it.
            Decided::Stale { .. } => None,
        };
        if let Some(change) = change {
            self.write(change);
        }
    }

    pub(super) fn write(&mut self, change: Change) {
        self.touched.insert(change.job());
        self.comparison.touch(change.job());
        self.outbox.push(change);
    }

    fn release(&mut self, job: JobId, effects: &mut Vec<Effect>) -> Option<Held> {
        let held = self.held.remove(&job)?;
        effects.extend(previews::discard_all(&held));
        Some(held)
    }

    /// Whether its node is to stop the job, and then whether with a checkpoint.
    pub(super) fn stop_wanted(&self, job: JobId) -> Option<bool> {
        if self.scheduler.is_cancel_asked(job) {
            return Some(false);
        }
        self.held.get(&job)?.stop
    }

    /// Tells the node to stop, once it works on the job.
    pub(super) fn stop(&self, job: JobId) -> Option<Effect> {
        let held = self.held.get(&job).filter(|held| held.is_dispatched)?;
        Some(Effect::Stop {
            node: held.holding.node.clone(),
            at: held.holding.at,
            keep: self.stop_wanted(job).unwrap_or(false),
        })
    }

    /// Takes over an attempt of an earlier term. `false` when it is of this one: nothing has to be written.
    pub(super) fn adopt(&mut self, job: JobId) -> bool {
        let epoch = self.epoch;
        let Some(held) = self.held.get_mut(&job) else {
            return false;
        };
        held.is_dispatched = true;
        if held.holding.at.epoch == epoch {
            return false;
        }
        let before = held.holding.clone();
        // Later changes of this job follow the adoption into the journal, and its row says so by then.
        held.holding.at.epoch = epoch;
        self.write(Change::Adopt(before));
        true
    }

    fn committed(&mut self, now: Monotonic, outcomes: Vec<Outcome>, effects: &mut Vec<Effect>) {
        let Some(batch) = self.outbox.committed() else {
            return;
        };
        let mut users = BTreeSet::new();
        for (change, outcome) in batch.changes().iter().zip(outcomes) {
            if let Outcome::Written(Written::Now(user) | Written::Before(user)) = outcome {
                users.insert(user);
            }
            self.touched.insert(change.job());
            self.comparison.touch(change.job());
            self.written(now, change, outcome, effects);
        }
        if !users.is_empty() && !self.apis.is_empty() {
            effects.push(Effect::Hint {
                to: self.apis.iter().cloned().collect(),
                users: users.into_iter().collect::<Vec<UserId>>(),
            });
        }
    }

    fn written(
        &mut self,
        now: Monotonic,
        change: &Change,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let is_written = matches!(
            outcome,
            Outcome::Written(Written::Now(_) | Written::Before(_))
        );
        if outcome == Outcome::Written(Written::Stale) {
            metrics::record_fenced_write();
        }
        if let Outcome::Refused(reason) = &outcome {
            tracing::error!(job = %change.job(), reason, "database refuses a change");
        }
        match change {
            Change::Assign(held) if is_written => self.assigned(now, held, effects),
            Change::Assign(held) => self.doubt(now, held, effects),
            Change::Adopt(held) => {
                let welcome = self.welcomes.remove(&(held.at.job, held.at.attempt));
                if !is_written {
                    self.doubt(now, held, effects);
                }
                let running = if is_written {
                    Verdict::GoOn
                } else {
                    Verdict::Drop
                };
                let epoch = self.epoch;
                let answer = Answer::Registered(Registered::Welcome { epoch, running });
                effects.extend(welcome.map(|reply| Effect::Answer(reply, answer)));
            }
            // Or the owner ended it without us.
            Change::CancelWaiting { job, .. } => {
                self.discard_checkpoints(*job, effects);
                self.over(now, *job, false, effects);
            }
            Change::FailWaiting { job, .. } if is_written => {
                self.discard_checkpoints(*job, effects);
                self.over(now, *job, false, effects);
            }
            Change::FailWaiting { job, .. } => drop(self.to_read.insert(*job)),
            Change::Keep { held, checkpoint } if is_written => {
                self.superseded(held, checkpoint, effects);
            }
            // Whether the attempt is over is for its end to say.
            Change::Keep { .. } => {}
            Change::Settle { held, .. } if matches!(outcome, Outcome::Refused(_)) => {
                // Whoever waits for the answer gets it when this is written.
                self.write(Change::Fail {
                    held: held.clone(),
                    code: "result_refused".to_owned(),
                    detail: "the node's manifest cannot be stored".to_owned(),
                });
            }
            Change::Settle { held, .. }
            | Change::Requeue { held, .. }
            | Change::Fail { held, .. }
            | Change::Cancel { held, .. }
            | Change::Quarantine { held, .. } => {
                if !is_written {
                    tracing::info!(at = ?held.at, node = %held.node, "stale write is refused");
                    self.to_read.insert(held.at.job);
                } else {
                    self.left_behind(change, effects);
                    if change.ends_job() {
                        let is_done = matches!(change, Change::Settle { .. });
                        self.over(now, held.at.job, is_done, effects);
                    }
                }
                let answer = if is_written {
                    EndedAnswer::Settled
                } else {
                    EndedAnswer::Stale
                };
                self.answer_ended((held.at.job, held.at.attempt), answer, effects);
            }
        }
    }

    /// The end of a job is durable: what was to start after it may, or never will.
    fn over(&mut self, now: Monotonic, job: JobId, is_done: bool, effects: &mut Vec<Effect>) {
        self.step(now, Heard::JobGone { job, is_done }, effects);
    }

    /// An attempt is over: of its job's checkpoints only what the next one may go on from is kept.
    fn left_behind(&mut self, change: &Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Requeue {
                held,
                outcome: Unfinished::Lost | Unfinished::Stopped,
                checkpoint,
                ..
            } => {
                if let Some(newest) = checkpoint {
                    self.superseded(held, newest, effects);
                }
            }
            Change::Requeue {
                held,
                outcome: Unfinished::Failed,
                ..
            } => {
                if self.checkpointed.remove(&held.at.job) {
                    effects.push(Effect::DiscardCheckpoints {
                        job: held.at.job,
                        before: Some((held.at.attempt.next(), 0)),
                    });
                }
            }
            Change::Settle { .. }
            | Change::Fail { .. }
            | Change::FailWaiting { .. }
            | Change::Cancel { .. }
            | Change::Quarantine { .. }
            | Change::CancelWaiting { .. } => self.discard_checkpoints(change.job(), effects),
            Change::Assign(_) | Change::Adopt(_) | Change::Keep { .. } => {}
        }
    }

    /// An assignment is durable: its node is told, if it is still the one.
    fn assigned(&mut self, now: Monotonic, held: &Holding, effects: &mut Vec<Effect>) {
        if !self.is_held(held) {
            return;
        }
        match self.models_on(&held.node, held.at.job) {
            Some(models) => effects.push(Effect::Dispatch {
                held: held.clone(),
                models,
                may_resume: self.checkpointed.contains(&held.at.job),
            }),
            None => {
                let reason = "it no longer offers the model".to_owned();
                let result = Err(NotDispatched::NotTaken(reason));
                self.dispatched(now, held.clone(), result, effects);
            }
        }
    }

    /// The job's models as the node has them; `None` when it offers one of them no longer.
    pub(super) fn models_on(&self, node: &NodeId, job: JobId) -> Option<JobModels> {
        let (clip, keyframe) = self.scheduler.models_of(job)?;
        let keyframe = match keyframe {
            None => None,
            Some(model) => Some(self.registry.model(node, model)?),
        };
        Some(JobModels {
            clip: self.registry.model(node, clip)?,
            keyframe,
        })
    }

    /// The row says something else than what was believed: nothing is believed any more, the row is read.
    fn doubt(&mut self, now: Monotonic, held: &Holding, effects: &mut Vec<Effect>) {
        let job = held.at.job;
        if self.is_held(held) {
            self.release(job, effects);
            self.step(now, Heard::Doubted(job), effects);
        }
        self.to_read.insert(job);
    }

    pub(super) fn is_held(&self, held: &Holding) -> bool {
        let (job, attempt) = (held.at.job, held.at.attempt);
        self.scheduler
            .is_holder(&held.node, held.generation, job, attempt)
    }

    pub(super) fn answer_ended(
        &mut self,
        key: (JobId, Attempt),
        answer: EndedAnswer,
        effects: &mut Vec<Effect>,
    ) {
        let replies = self.ending.remove(&key).unwrap_or_default();
        effects.extend(
            replies
                .into_iter()
                .map(|reply| Effect::Answer(reply, Answer::Ended(answer))),
        );
    }

    fn rows_read(
        &mut self,
        now: Monotonic,
        asked: Vec<JobId>,
        rows: Vec<JobRow>,
        effects: &mut Vec<Effect>,
    ) {
        self.is_reading = false;
        let found: BTreeSet<JobId> = rows.iter().map(|row| row.job).collect();
        let touched = std::mem::take(&mut self.touched);
        for job in asked.into_iter().filter(|job| !found.contains(job)) {
            self.release(job, effects);
            self.discard_checkpoints(job, effects);
            let is_done = false;
            self.step(now, Heard::JobGone { job, is_done }, effects);
        }
        for row in rows {
            if touched.contains(&row.job) || self.outbox.holds(row.job) {
                self.to_read.insert(row.job);
            } else {
                self.learn(now, row, effects);
            }
        }
    }

    /// Brings what is believed of a job in line with its row.
    fn learn(&mut self, now: Monotonic, row: JobRow, effects: &mut Vec<Effect>) {
        let job = row.job;
        if row.state.is_end() {
            self.release(job, effects);
            self.discard_checkpoints(job, effects);
            let is_done = row.state == JobState::Done;
            self.step(now, Heard::JobGone { job, is_done }, effects);
            return;
        }
        let is_cancelled = row.cancel_requested;
        let after = row.after;
        self.disbelieve_drift(now, &row, effects);
        if !self.scheduler.knows(job) {
            // Its owner asked between two tries. The scheduler would give it to a node in the step in which it arrives, its row
            // would refuse that and be read again, and so on for ever.
            if is_cancelled && row.state == JobState::Queued {
                let attempt = row.attempt;
                return self.write(Change::CancelWaiting { job, attempt });
            }
            let Some(event) = self.news_of(now, row) else {
                tracing::warn!(%job, "job was written by another version and waits for it");
                return;
            };
            self.step(now, event, effects);
        }
        if is_cancelled {
            self.step(now, Heard::CancelAsked(job), effects);
        }
        match after {
            Some(after) if after.has_failed => self.over(now, after.job, false, effects),
            // It may have ended since the row was read: its own row says so.
            Some(after) if !self.scheduler.knows(after.job) => drop(self.to_read.insert(after.job)),
            Some(_) | None => {}
        }
    }

    /// What is believed of a job that nothing is on its way for must be what its row says. If it is not, the row counts.
    fn disbelieve_drift(&mut self, now: Monotonic, row: &JobRow, effects: &mut Vec<Effect>) {
        let job = row.job;
        let node = row.held.as_ref().map(|held| &held.node);
        let believed = self.scheduler.believed(job);
        if believed.is_none_or(|believed| believed == (row.attempt, node)) {
            return;
        }
        tracing::error!(%job, ?believed, attempt = %row.attempt, ?node, "memory differs from the row; the row counts");
        metrics::record_drift();
        self.release(job, effects);
        self.step(now, Heard::Doubted(job), effects);
    }

    fn news_of(&mut self, now: Monotonic, row: JobRow) -> Option<Heard> {
        let spec = row.spec?;
        if row.kept.is_some() {
            self.checkpointed.insert(row.job);
        }
        let waiting = WaitingJob {
            job: row.job,
            owner: row.owner,
            tier: row.tier,
            class: row.class,
            model: row.model,
            keyframe_model: spec.keyframe().map(|keyframe| keyframe.model.clone()),
            adapters: adapters_of(&spec),
            shape: Shape {
                frames: spec.frames,
                width: spec.width,
                height: spec.height,
                steps: spec.steps,
            },
            cost: cost::predicted(&spec),
            queued_at: now.minus(row.waited),
            after: row.after.map(|after| after.job),
            preemptions: 0,
            attempt: row.attempt,
            failures: row.failures,
            failed_on: row.failed_on,
            node_deaths: row.node_deaths,
            died_on: row.died_on,
            resume: row.kept.map(|kept| Checkpoint {
                device_class: kept.device_class,
                step: kept.step,
            }),
        };
        let Some(holding) = row.held.filter(|_| row.state == JobState::Running) else {
            return Some(Heard::JobArrived(waiting));
        };
        let recovered = Recovered {
            waiting,
            node: holding.node.clone(),
            generation: holding.generation,
            cancel_requested: row.cancel_requested,
        };
        let held = Held {
            holding,
            is_dispatched: false,
            heard_at: now,
            steps: None,
            unnamed_beats: 0,
            announced: None,
            previews: Previews::default(),
            checkpoints: Checkpoints::default(),
            stop: None,
        };
        self.held.insert(row.job, held);
        Some(Heard::JobRecovered(recovered))
    }

    fn swept(
        &mut self,
        now: Monotonic,
        unfinished: Vec<JobId>,
        cancelled: Vec<JobId>,
        effects: &mut Vec<Effect>,
    ) {
        self.is_sweeping = false;
        let scheduler = &self.scheduler;
        self.to_read
            .extend(unfinished.into_iter().filter(|job| !scheduler.knows(*job)));
        for job in cancelled {
            self.step(now, Heard::CancelAsked(job), effects);
        }
    }

    fn tick(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        self.step(now, Heard::Tick, effects);
        // What its node does not have yet waits for the journal, which the lease bounds, then for the dispatch, which asks a
        // bounded number of times; what another term gave waits for its node to come back, which the scheduler bounds.
        let stuck: Vec<Holding> = self
            .held
            .values()
            .filter(|held| held.is_dispatched)
            .filter(|held| held.heard_at.plus_ms(JOB_NO_PROGRESS_MS) <= now)
            .map(|held| held.holding.clone())
            .collect();
        for held in stuck {
            effects.extend(self.stop(held.at.job));
            let end = AttemptEnd::Failed {
                code: "no_progress".to_owned(),
                detail: format!(
                    "{} reported none for {} s",
                    held.node,
                    JOB_NO_PROGRESS_MS / 1_000
                ),
                retryable: true,
            };
            self.step(now, end_of(&held, end), effects);
        }
        self.registry.forget_silent(now);
        if self.next_checkpoint_sweep <= now {
            self.next_checkpoint_sweep = now.plus_ms(CHECKPOINT_SWEEP_MS);
            effects.push(Effect::SweepCheckpoints);
        }
        self.begin_comparison(now, effects);
        #[cfg(feature = "planted-bugs")]
        if planted::is(Bug::DoorbellOnly) {
            return;
        }
        if self.is_sweeping || now < self.next_sweep {
            return;
        }
        self.is_sweeping = true;
        self.next_sweep = now.plus_ms(SWEEP_MS);
        self.sweeps += 1;
        let is_thorough = self.sweeps.is_multiple_of(THOROUGH_SWEEP_EVERY);
        effects.push(Effect::Sweep {
            running: self.held.keys().copied().collect(),
            is_thorough,
        });
        if is_thorough {
            effects.push(Effect::Forget);
        }
    }

    /// Sends on what has gathered: the next batch, the next rows to read, news of the line.
    fn flush(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        effects.extend(self.outbox.next_batch().map(Effect::Commit));
        if !self.is_reading {
            let outbox = &self.outbox;
            let ripe = self.to_read.iter().filter(|job| !outbox.holds(**job));
            let jobs: Vec<JobId> = ripe.take(RECOVERY_PAGE_JOBS as usize).copied().collect();
            if !jobs.is_empty() {
                self.to_read.retain(|job| jobs.binary_search(job).is_err());
                let after = self.next_read.since(now);
                self.next_read = self.next_read.max(now).plus_ms(READ_INTERVAL_MS);
                self.is_reading = true;
                self.touched.clear();
                effects.push(Effect::Read { jobs, after });
            }
        }
        if !self.apis.is_empty() {
            let news = self.line.news(&self.scheduler, now);
            effects.extend(news.into_iter().map(|live| self.tell(live)));
        }
    }

    pub(super) fn tell(&self, live: Live) -> Effect {
        Effect::Tell {
            to: self.apis.iter().cloned().collect(),
            live,
        }
    }

    fn why(&self, job: JobId) -> WhyAnswer {
        let Some(waits_for) = self.scheduler.why(job) else {
            return WhyAnswer::NotWaiting;
        };
        WhyAnswer::Waits {
            position: self.line.position(job),
            waits: line::waits(waits_for, self.scheduler.starts_in(job)),
        }
    }

    fn view(&self, now: Monotonic) -> FarmView {
        let queue = |tier| {
            let (queued, running) = self.scheduler.load(tier);
            QueueView {
                tier,
                queued,
                running,
            }
        };
        let running_on = |node: &NodeId| {
            let (job, attempt) = self.scheduler.running_on(node)?;
            let epoch = self.epoch;
            Some(AttemptRef {
                job,
                attempt,
                epoch,
            })
        };
        FarmView {
            epoch: Some(self.epoch),
            nodes: self.registry.views(now, running_on),
            queues: Tier::ALL.into_iter().map(queue).collect(),
        }
    }
}

/// Of both stages.
fn adapters_of(spec: &RenderSpec) -> Vec<Sha256> {
    let stages = spec.stages().flat_map(|(_, adapters)| adapters);
    stages.map(|used| used.sha256).collect()
}

pub(super) fn end_of(held: &Holding, end: AttemptEnd) -> Heard {
    Heard::Ended {
        node: held.node.clone(),
        generation: held.generation,
        job: held.at.job,
        attempt: held.at.attempt,
        end,
    }
}
