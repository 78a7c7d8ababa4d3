//! What the leader's core wants done, done in this world.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, JobId};
use flowai_actors::messages::{Ended, ReadyFile, Target, UploadTargetsAnswer};
use flowai_coordinator::core::{Answer, Effect, Event, NotDelivered, ReplyId, TICK};
use rand::Rng as _;

use super::Heard;
use crate::check::checks::Check;
use crate::check::node::{Heard as NodeHeard, LeaderAnswer};
use crate::check::statements::{Statement, StoreCall};
use crate::check::world::World;

/// How long a look at the object store takes that does not answer.
const OBJECTS_PATIENCE_MS: u64 = 5_000;
/// A farm of more nodes than this is not told its line.
pub(super) const API_NODES_MAX: usize = 64;

impl World {
    pub(super) fn tick(&mut self, index: usize, epoch: Epoch) {
        if self.coordinators[index].epoch() != Some(epoch) {
            return;
        }
        self.lead(index, Event::Tick);
        let next = self.shows(index).plus_ms(TICK.as_millis() as u64);
        self.when_it_shows(index, next, Heard::Tick { epoch });
    }

    /// One step of the leader's core.
    pub(super) fn lead(&mut self, index: usize, event: Event) {
        let shown = self.shows(index);
        if let Event::Admitted {
            register,
            result: Ok(()),
            ..
        } = &event
        {
            let slot = self.slot_of(&register.node);
            let generation = register.generation;
            if let (Some(slot), Some(leader)) = (slot, self.coordinators[index].leader()) {
                let newest = leader.admitted.entry(slot).or_insert(generation);
                *newest = (*newest).max(generation);
            }
        }
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let since = shown.since(leader.start).as_millis() as u64;
        let arriving: Vec<JobId> = match &event {
            Event::RowsRead { asked, .. } => asked.clone(),
            _ => Vec::new(),
        };
        let effects = leader.state.apply(Monotonic::from_millis(since), event);
        self.check_caps(index, &arriving);
        for effect in effects {
            self.carry_out(index, effect);
        }
    }

    fn carry_out(&mut self, index: usize, effect: Effect) {
        let Some(epoch) = self.coordinators[index].epoch() else {
            return;
        };
        let term = Some(epoch);
        match effect {
            Effect::Answer(reply, answer) => self.answer(index, reply, answer),
            // The asker hears that there is no answer.
            Effect::Decline(reply) => self.reply(index, reply, None),
            Effect::Admit { reply, register } => {
                self.ask_store(index, term, Statement::Admit { reply, register });
            }
            Effect::Commit(batch) => {
                self.check_losses(index, epoch, &batch);
                self.ask_store(index, term, Statement::Commit(batch));
            }
            Effect::Read { jobs, after } => {
                let process = self.coordinators[index].process;
                let call = StoreCall {
                    index,
                    process,
                    term,
                    tries: 0,
                    ask: Statement::Read(jobs),
                    is_heard: true,
                };
                self.for_coordinator(index, after.as_millis() as u64, Heard::Again(call));
            }
            Effect::Sweep { running } => {
                self.ask_store(index, term, Statement::Newcomers { running });
            }
            Effect::SweepAll { after } => {
                self.ask_store(index, term, Statement::SweepAll { after });
            }
            Effect::Compare { after } => {
                self.ask_store(index, term, Statement::Compare { after });
            }
            Effect::Dispatch {
                held,
                models,
                may_resume,
            } => {
                let ask = Statement::Sources {
                    held,
                    models,
                    may_resume,
                };
                self.ask_store(index, term, ask);
            }
            Effect::Stop { node, at, keep } => {
                let process = self
                    .slot_of(&node)
                    .and_then(|slot| self.coordinators[index].links.get(&slot).copied());
                if let Some(process) = process {
                    self.say(index, process, || NodeHeard::StopAsked { at, keep });
                }
            }
            Effect::Verify(ended) => self.verify(index, epoch, ended),
            Effect::LookBack { reply, held } => {
                self.ask_store(index, term, Statement::LookBack { reply, held });
            }
            Effect::Presign { reply, files, .. } => {
                let targets = files.iter().map(target).collect();
                let answer = UploadTargetsAnswer::Targets { targets };
                self.reply(index, reply, Some(LeaderAnswer::Targets(answer)));
            }
            Effect::PresignPreview { reply, .. } | Effect::PresignCheckpoint { reply, .. } => {
                self.reply(index, reply, None);
            }
            Effect::DiscardCheckpoints { job, before } => self.discard_checkpoints(job, before),
            Effect::StepDown => self.end_term(index),
            // Hints to users and nodes, and what is thrown away: nothing here depends on them.
            Effect::Forget
            | Effect::SweepObjects
            | Effect::Foretell { .. }
            | Effect::Hint { .. }
            | Effect::Tell { .. }
            | Effect::TellPreview { .. }
            | Effect::DiscardPreview { .. } => {}
        }
    }

    /// A hint: what it throws away costs steps at most.
    fn discard_checkpoints(&mut self, job: JobId, before: Option<(Attempt, u32)>) {
        if self.cuts.objects_refuse > 0 {
            return;
        }
        let before = before.map(|(attempt, step)| (attempt.get(), step));
        if before.is_none() {
            self.store.forget_checkpoint(job);
        }
        self.checkpoints.retain(|(of, attempt, step)| {
            *of != job || before.is_some_and(|before| (*attempt, *step) >= before)
        });
    }

    fn verify(&mut self, index: usize, epoch: Epoch, ended: Box<Ended>) {
        let key = (ended.at.job, ended.at.attempt.get());
        let (after_ms, result) = if self.cuts.objects_refuse > 0 {
            let reason = "the store does not answer".to_owned();
            (OBJECTS_PATIENCE_MS, Err(NotDelivered::Unanswered(reason)))
        } else if self.objects.contains(&key) {
            (self.delay(), Ok(()))
        } else {
            let reason = "clip.mp4 does not lie in the object store".to_owned();
            (self.delay(), Err(NotDelivered::Missing(reason)))
        };
        let event = Box::new(Event::Verified { ended, result });
        self.for_coordinator(index, after_ms, Heard::Happened { epoch, event });
    }

    pub(super) fn answer(&mut self, index: usize, reply: ReplyId, answer: Answer) {
        let answer = match answer {
            Answer::Registered(answer) => LeaderAnswer::Registered(answer),
            Answer::Beat(answer) => {
                self.check_renewal(index, reply, answer);
                LeaderAnswer::Beat(answer)
            }
            Answer::Ended(answer) => LeaderAnswer::Ended(answer),
            Answer::Targets(answer) => LeaderAnswer::Targets(answer),
            Answer::Farm(view) => {
                let waits = view
                    .queues
                    .iter()
                    .map(|queue| queue.queued + queue.running)
                    .sum();
                return self.memory_holds(index, waits);
            }
            // Nobody here asks for these.
            Answer::Preview(_)
            | Answer::Checkpoint(_)
            | Answer::Why(_)
            | Answer::Compared(_)
            | Answer::Ceilings(_) => {
                return;
            }
        };
        self.reply(index, reply, Some(answer));
    }

    pub(super) fn reply(&mut self, index: usize, reply: ReplyId, answer: Option<LeaderAnswer>) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let Some((process, ask)) = leader.replies.remove(&reply) else {
            return;
        };
        if let Some(answer) = &answer {
            self.checks.sent(answer);
        }
        self.say(index, process, || NodeHeard::Answered {
            ask,
            answer: answer.clone(),
        });
    }

    /// After how long each copy of a message arrives.
    pub(in crate::check) fn ways(&mut self) -> Vec<u64> {
        let copies = match (
            self.chance(self.plan.message_lost),
            self.chance(self.plan.message_doubled),
        ) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        let mut delays = Vec::with_capacity(copies);
        for _ in 0..copies {
            let late = if self.chance(self.plan.message_late) {
                self.rng.random_range(0..self.plan.late_ms_max)
            } else {
                0
            };
            delays.push(self.delay() + late);
        }
        delays
    }

    fn memory_holds(&mut self, index: usize, jobs: u32) {
        let left = self.store.unfinished().len();
        self.checks
            .require(Check::EveryJobEnds, jobs as usize == left, || {
                format!("c{index} holds {jobs} jobs in memory, the database {left}")
            });
    }
}

fn target(ready: &ReadyFile) -> Target {
    Target {
        file: ready.file,
        url: String::new(),
        headers: Vec::new(),
    }
}
