//! What the leader believes and does next: pure, the time comes with each event.
//!
//! The scheduler decides; this value turns what is heard into its events and its effects into changes of rows, and keeps
//! who has to be told once they are written. Nothing leaves before its commit (INV-4), and a change that the row refuses
//! makes it read the row again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::credits::StepsDone;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId, Sha256};
use flowai_actors::limits::{
    CEILINGS_MAX, CHECKPOINT_SWEEP_MS, JOB_NO_PROGRESS_MS, RECOVERY_PAGE_JOBS,
};
use flowai_actors::link::PeerId;
use flowai_actors::messages::{AttemptRef, EndedAnswer, FarmView, Holding, Live, QueueView, Stage};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::state::Tier;
use flowai_actors::waiting::{Ceilings, WhyAnswer};
use flowai_store::journal::{Artefact, Change, Unfinished};
use flowai_store::members::Standings;
use flowai_store::recovery::JobRow;

use super::checkpoints::Checkpoints;
use super::compare::Comparison;
use super::event::{Answer, Effect, Event, JobModels, ReplyId};
use super::line::{self, Line};
use super::outbox::Outbox;
use super::previews::{self, Previews};
use super::registry::Registry;
use super::sweeps::Sweeps;
use crate::scheduler::{self, AttemptEnd, Event as Heard, Scheduler};

/// Between the beginnings of two reads: what rings meanwhile is read together. A lone job is read at once.
const READ_INTERVAL_MS: u64 = 10;

/// An attempt that a node holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) holding: Holding,
    /// The newest question that was here when it was given. `None` for what an earlier term gave.
    pub(super) given_after: Option<ReplyId>,
    /// Its node has said that it works on it.
    pub(super) is_dispatched: bool,
    /// Its node has said something of it in this term.
    pub(super) is_heard: bool,
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
    pub(super) stop: Option<bool>,
}

impl Held {
    /// One of which nothing was heard yet.
    pub(super) fn new(holding: Holding, now: Monotonic) -> Self {
        Self {
            holding,
            given_after: None,
            is_dispatched: false,
            is_heard: false,
            heard_at: now,
            steps: None,
            unnamed_beats: 0,
            announced: None,
            previews: Previews::default(),
            checkpoints: Checkpoints::default(),
            stop: None,
        }
    }
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
    pub(super) next_checkpoint_sweep: Monotonic,
    pub(super) outbox: Outbox,
    pub(super) line: Line,
    pub(super) to_read: BTreeSet<JobId>,
    pub(super) is_reading: bool,
    pub(super) next_read: Monotonic,
    /// Jobs that changed since the present read began: what it finds of them may be older.
    pub(super) touched: BTreeSet<JobId>,
    pub(super) comparison: Comparison,
    pub(super) sweeps: Sweeps,
    pub(super) is_over: bool,
    /// Of all that nodes have asked.
    pub(super) newest_question: ReplyId,
    /// Of nodes whose link has gone, by their names: the process, and the newest question by then.
    pub(super) unlinked: BTreeMap<NodeId, (Generation, ReplyId)>,
    /// What operators want of nodes.
    pub(super) members: Standings,
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
            sweeps: Sweeps::default(),
            is_over: false,
            newest_question: ReplyId::default(),
            unlinked: BTreeMap::new(),
            members: Standings::default(),
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
        if let Some((node, reply)) = event.said_by().filter(|(node, _)| self.is_revoked(node)) {
            tracing::warn!(%node, "a revoked node was not heard");
            return reply.map(Effect::Decline).into_iter().collect();
        }
        if let Some((_, Some(reply))) = event.said_by() {
            self.newest_question = self.newest_question.max(reply);
        }
        match event {
            Event::Rang(job) => drop(self.to_read.insert(job)),
            Event::Swept {
                newcomers,
                cancelled,
            } => self.swept(now, newcomers, cancelled, &mut effects),
            Event::SweptAll(page) => self.swept_all(now, page, &mut effects),
            Event::RowsRead { asked, rows } => self.rows_read(now, asked, rows, &mut effects),
            Event::MembersRead(standings) => self.members_read(now, standings, &mut effects),
            Event::Registering { reply, register } => {
                effects.push(Effect::Admit { reply, register });
            }
            Event::Admitted {
                reply,
                register,
                result,
            } => self.admitted(now, reply, *register, result, &mut effects),
            Event::NotAdmitted(reply) => effects.push(Effect::Decline(reply)),
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
            Event::NodeDown { node, generation } => {
                let newest = self.newest_question;
                self.unlinked.insert(node.clone(), (generation, newest));
                let heard = Heard::NodeUnlinked { node, generation };
                self.step(now, heard, &mut effects);
            }
            Event::Dispatched { held, result } => self.dispatched(now, held, result, &mut effects),
            Event::Committed(outcomes) => self.committed(now, outcomes, &mut effects),
            Event::Fenced => {
                self.is_over = true;
                effects.push(Effect::StepDown);
                return effects;
            }
            Event::FarmAsked { reply, after } => {
                let view = Box::new(self.view(now, after.as_ref()));
                effects.push(Effect::Answer(reply, Answer::Farm(view)));
            }
            Event::WhyAsked { reply, job } => {
                let answer = Answer::Why(self.why(job));
                effects.push(Effect::Answer(reply, answer));
            }
            Event::CeilingsAsked(reply) => {
                let mut ceilings = self.scheduler.ceilings();
                ceilings.truncate(CEILINGS_MAX);
                let answer = Answer::Ceilings(Ceilings { ceilings });
                effects.push(Effect::Answer(reply, answer));
            }
            Event::DrainWanted { node, how } => self.drain_wanted(now, node, how, &mut effects),
            Event::ApiUp(api) => {
                self.apis.insert(api);
                self.line.tell_all();
            }
            Event::ApiDown(api) => drop(self.apis.remove(&api)),
            Event::CompareAsked(reply) => self.compare_asked(reply),
            Event::Compared(rows) => self.compared(now, rows, &mut effects),
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
                    given_after: Some(self.newest_question),
                    ..Held::new(holding.clone(), now)
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

    pub(super) fn release(&mut self, job: JobId, effects: &mut Vec<Effect>) -> Option<Held> {
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
                stage: Stage::Clip,
            };
            self.step(now, end_of(&held, end), effects);
        }
        self.registry.forget_silent(now);
        if self.next_checkpoint_sweep <= now {
            self.next_checkpoint_sweep = now.plus_ms(CHECKPOINT_SWEEP_MS);
            effects.push(Effect::SweepObjects);
        }
        #[cfg(feature = "planted-bugs")]
        if planted::is(Bug::DoorbellOnly) {
            return;
        }
        self.go_on_comparing(now, effects);
        self.sweep(now, effects);
    }

    /// Sends on what has gathered: the next batch, the next rows to read, news of the line.
    pub(super) fn flush(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        effects.extend(self.outbox.next_batch(now).map(Effect::Commit));
        self.end_verification(now, effects);
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

    pub(super) fn why(&self, job: JobId) -> WhyAnswer {
        let Some(waits_for) = self.scheduler.why(job) else {
            return WhyAnswer::NotWaiting;
        };
        WhyAnswer::Waits {
            position: self.line.position(job),
            waits: line::waits(waits_for, self.scheduler.starts_in(job)),
        }
    }

    /// Of the nodes, those behind `after`.
    pub(super) fn view(&self, now: Monotonic, after: Option<&NodeId>) -> FarmView {
        let queue = |tier| {
            let (queued, running) = self.scheduler.load(tier);
            QueueView {
                tier,
                queued,
                running,
            }
        };
        let scheduler = &self.scheduler;
        let (nodes, next_after) = self.registry.views(after, now, self.epoch, scheduler);
        FarmView {
            epoch: Some(self.epoch),
            nodes,
            next_after,
            queues: Tier::ALL.into_iter().map(queue).collect(),
        }
    }
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
