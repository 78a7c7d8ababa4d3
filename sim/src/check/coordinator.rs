//! A coordinator's process: what the programs' actors and tasks do around the leader's core and its lease, in this world.

use std::collections::BTreeMap;

use flowai_actors::checkpoint::{CheckpointPlaced, Resume};
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId, Sha256};
use flowai_actors::limits::LEADER_WATCH_MS;
use flowai_actors::link::{PeerId, Role as PeerRole};
use flowai_actors::messages::{
    Assign, AssignAnswer, BeatAnswer, Ended, FirstFrameSource, Holding, Progress, ReadyFile,
    Source, Target, UploadTargetsAnswer,
};
use flowai_actors::spec::RenderSpec;
use flowai_coordinator::core::{
    ANSWER_MS, ASSIGN_DEADLINE, Answer, BUSY_TRIES, Effect, Event, JobModels, NotDelivered,
    NotDispatched, RETRY_FIRST, RETRY_MOST, Renewal, ReplyId, State, TICK, Tenure,
};
use flowai_coordinator::scheduler::Rival;
use flowai_store::journal::{Batch, Change, Unfinished};
use rand::Rng;
use rand::seq::SliceRandom;

use super::checks::Check;
use super::clock::ProcessClock;
use super::node::{Heard as NodeHeard, LeaderAnswer, NodeQuestion};
use super::statements::{Statement, StoreAnswer, StoreCall};
use super::store::CheckpointRow;
use super::world::{Occurrence, World};

/// How long a look at the object store takes that does not answer.
const OBJECTS_PATIENCE_MS: u64 = 5_000;
/// Of a farm whose starts beyond caps are judged.
const CAPS_NODES_MAX: usize = 64;
/// A farm of more nodes than this is not told its line.
const API_NODES_MAX: usize = 64;

/// What a coordinator's process hears.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "most of what waits is of the larger kinds, and is moved once"
)]
pub(super) enum Heard {
    /// Time to look at the lease row, again if an earlier look was not answered.
    Watch {
        token: u64,
    },
    Renew {
        epoch: Epoch,
    },
    RenewDeadline {
        token: u64,
    },
    Tick {
        epoch: Epoch,
    },
    Answered {
        call: StoreCall,
        answer: StoreAnswer,
    },
    /// The database did not take it, as far as anybody can tell.
    Failed(StoreCall),
    /// Time to send a statement again.
    Again(StoreCall),
    /// A task of this term has something to say.
    Happened {
        epoch: Epoch,
        event: Box<Event>,
    },
    Asked {
        from: usize,
        ask: u64,
        question: NodeQuestion,
    },
    Told {
        from: usize,
        progress: Progress,
    },
    Placed {
        from: usize,
        placed: CheckpointPlaced,
    },
    Rang(JobId),
    Dialled {
        from: usize,
    },
    /// A node's answer to an assignment, or that none came in time.
    Given {
        ask: u64,
        answer: Option<AssignAnswer>,
    },
    GiveAgain {
        epoch: Epoch,
        giving: Giving,
    },
}

impl Heard {
    /// Whether it tells a reader something: clocks, leases and sweeps go on all the time.
    pub(super) fn is_news(&self) -> bool {
        match self {
            Self::Watch { .. } | Self::Renew { .. } | Self::RenewDeadline { .. } => false,
            Self::Tick { .. } | Self::Again(_) => false,
            Self::Told { .. } | Self::Placed { .. } => false,
            Self::Asked { question, .. } => !matches!(question, NodeQuestion::Beat(_)),
            Self::Answered { call, .. } | Self::Failed(call) => matches!(
                call.ask,
                Statement::Commit(_) | Statement::Recover | Statement::TakeOver { .. }
            ),
            Self::Given { answer, .. } => answer.is_some(),
            Self::Happened { .. }
            | Self::Rang(_)
            | Self::Dialled { .. }
            | Self::GiveAgain { .. } => true,
        }
    }
}

/// An assignment on its way to its node.
#[derive(Debug, Clone)]
pub(super) struct Giving {
    held: Holding,
    assign: Box<Assign>,
    tries: u32,
}

pub(super) struct Coordinator {
    clock: ProcessClock,
    /// Counts the processes: what was meant for an earlier one is not heard.
    pub(super) process: u32,
    pub(super) is_alive: bool,
    pub(super) is_frozen: bool,
    deferred: Vec<Heard>,
    part: Part,
    /// By slot, the process that its link is to.
    pub(super) links: BTreeMap<usize, usize>,
    /// By slot, the newest generation that has dialled.
    generations: BTreeMap<usize, Generation>,
    tokens: u64,
}

enum Part {
    Standby { watching: u64 },
    Leading(Box<Term>),
}

struct Term {
    epoch: Epoch,
    tenure: Tenure,
    /// The renewal that waits for an answer, and when it was asked for.
    renewing: Option<(u64, Monotonic)>,
    /// `None` until the rows are read.
    leader: Option<Leader>,
}

/// The leader's core of one term, with who waits for its answers.
struct Leader {
    state: State,
    start: Monotonic,
    replies: BTreeMap<ReplyId, (usize, u64)>,
    giving: BTreeMap<u64, Giving>,
    /// By slot, the newest generation that this term has admitted.
    admitted: BTreeMap<usize, Generation>,
    /// What ran after the last event: the newest attempt of each job, and its node.
    running: BTreeMap<JobId, (Attempt, NodeId)>,
}

impl Coordinator {
    pub(super) fn new(clock: ProcessClock) -> Self {
        Self {
            clock,
            process: 0,
            is_alive: false,
            is_frozen: false,
            deferred: Vec::new(),
            part: Part::Standby { watching: 0 },
            links: BTreeMap::new(),
            generations: BTreeMap::new(),
            tokens: 0,
        }
    }

    fn term(&mut self) -> Option<&mut Term> {
        match &mut self.part {
            Part::Leading(term) => Some(term),
            Part::Standby { .. } => None,
        }
    }

    fn leader(&mut self) -> Option<&mut Leader> {
        self.term()?.leader.as_mut()
    }

    fn epoch(&self) -> Option<Epoch> {
        match &self.part {
            Part::Leading(term) => Some(term.epoch),
            Part::Standby { .. } => None,
        }
    }

    fn is_leading(&self) -> bool {
        matches!(&self.part, Part::Leading(term) if term.leader.is_some())
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }
}

/// By which name nodes know a coordinator.
pub(super) fn peer(index: usize) -> PeerId {
    let id = PeerId::new(PeerRole::Coordinator, &format!("c{index}"));
    id.unwrap_or_else(|invalid| unreachable!("{invalid}"))
}

impl World {
    /// Coordinators that believe that they lead, with their processes.
    pub(super) fn leading(&self) -> impl Iterator<Item = (usize, u32)> {
        let all = self.coordinators.iter().enumerate();
        let leading =
            all.filter(|(_, coordinator)| coordinator.is_alive && coordinator.is_leading());
        leading.map(|(index, coordinator)| (index, coordinator.process))
    }

    pub(super) fn new_clock(&mut self) -> ProcessClock {
        let drift_max = self.plan.drift_ppm_max;
        let offset_ms = self.rng.random_range(0..1_000_000);
        ProcessClock::new(offset_ms, self.rng.random_range(-drift_max..=drift_max))
    }

    pub(super) fn start_coordinator(&mut self, index: usize) {
        let clock = self.new_clock();
        let coordinator = &mut self.coordinators[index];
        *coordinator = Coordinator {
            process: coordinator.process + 1,
            is_alive: true,
            ..Coordinator::new(clock)
        };
        let wait_ms = self.rng.random_range(0..LEADER_WATCH_MS);
        self.for_coordinator(index, wait_ms, Heard::Watch { token: 0 });
    }

    pub(super) fn kill_coordinator(&mut self, index: usize) {
        let coordinator = &mut self.coordinators[index];
        coordinator.is_alive = false;
        coordinator.deferred.clear();
        coordinator.part = Part::Standby { watching: 0 };
        self.cut_links(index);
    }

    /// It goes on, and hears all at once what it was told meanwhile, in any order.
    pub(super) fn thaw_coordinator(&mut self, index: usize) {
        let coordinator = &mut self.coordinators[index];
        if !std::mem::take(&mut coordinator.is_frozen) {
            return;
        }
        let mut deferred = std::mem::take(&mut coordinator.deferred);
        if !self.is_healed && self.rng.random() {
            deferred.shuffle(&mut self.rng);
        }
        for heard in deferred {
            self.for_coordinator(index, 0, heard);
        }
    }

    /// Whether the process has a link to a coordinator that stands still.
    pub(super) fn links_to_a_frozen_one(&self, process: usize) -> bool {
        let link = self.processes[process].link;
        link.is_some_and(|index| self.coordinators[index].is_frozen)
    }

    /// Something for the present process of a coordinator.
    fn for_coordinator(&mut self, index: usize, after_ms: u64, heard: Heard) {
        let process = self.coordinators[index].process;
        self.after(
            after_ms,
            Occurrence::Coordinator {
                index,
                process,
                heard,
            },
        );
    }

    /// Something for it when its own clock shows this.
    fn when_it_shows(&mut self, index: usize, shown: Monotonic, heard: Heard) {
        let at_ms = self.coordinators[index].clock.world_at(shown);
        let process = self.coordinators[index].process;
        self.at(
            at_ms,
            Occurrence::Coordinator {
                index,
                process,
                heard,
            },
        );
    }

    fn shows(&self, index: usize) -> Monotonic {
        self.coordinators[index].clock.shows(self.now)
    }

    fn cut_links(&mut self, index: usize) {
        for process in std::mem::take(&mut self.coordinators[index].links).into_values() {
            let delay = self.delay();
            let heard = NodeHeard::LinkDown { coordinator: index };
            self.after(delay, Occurrence::Node { process, heard });
        }
    }

    pub(super) fn coordinator_hears(&mut self, index: usize, process: u32, heard: Heard) {
        let coordinator = &mut self.coordinators[index];
        if coordinator.process != process || !coordinator.is_alive {
            return;
        }
        if coordinator.is_frozen {
            coordinator.deferred.push(heard);
            return;
        }
        match heard {
            Heard::Watch { token } => self.watch(index, token),
            Heard::Renew { epoch } => self.renew(index, epoch),
            Heard::RenewDeadline { token } => self.renewed(index, token, Renewal::Unanswered),
            Heard::Tick { epoch } => self.tick(index, epoch),
            Heard::Answered { call, answer } => self.answered(index, call, answer),
            Heard::Failed(call) => self.failed(index, call),
            Heard::Again(call) => self.send_statement(call),
            Heard::Happened { epoch, event } => {
                if self.coordinators[index].epoch() == Some(epoch) {
                    self.lead(index, *event);
                }
            }
            Heard::Asked {
                from,
                ask,
                question,
            } => self.asked(index, from, ask, question),
            Heard::Told { from, progress } => {
                let node = self.processes[from].id.clone();
                self.lead(index, Event::Progress { node, progress });
            }
            Heard::Placed { from, placed } => {
                let node = self.processes[from].id.clone();
                self.lead(index, Event::CheckpointPlaced { node, placed });
            }
            Heard::Rang(job) => self.lead(index, Event::Rang(job)),
            Heard::Dialled { from } => self.dialled(index, from),
            Heard::Given { ask, answer } => self.given(index, ask, answer),
            Heard::GiveAgain { epoch, giving } => {
                if self.coordinators[index].epoch() == Some(epoch) {
                    self.give(index, giving);
                }
            }
        }
    }

    // --- the lease ---

    fn watch(&mut self, index: usize, token: u64) {
        let Part::Standby { watching } = self.coordinators[index].part else {
            return;
        };
        if token < watching {
            return;
        }
        let next = self.coordinators[index].token();
        self.coordinators[index].part = Part::Standby { watching: next };
        self.ask_store(index, None, Statement::Look { token: next });
        let again = Heard::Watch { token: next };
        self.for_coordinator(index, ANSWER_MS + LEADER_WATCH_MS, again);
    }

    /// Whether this look is still waited for.
    fn is_watching(&self, index: usize, token: u64) -> bool {
        matches!(self.coordinators[index].part, Part::Standby { watching } if watching == token)
    }

    fn looked(&mut self, index: usize, token: u64, holder: Option<usize>) {
        if !self.is_watching(index, token) {
            return;
        }
        if holder.is_some() {
            self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
        } else {
            let asked_at = self.shows(index);
            self.ask_store(index, None, Statement::TakeOver { token, asked_at });
        }
    }

    fn took_over(&mut self, index: usize, token: u64, asked_at: Monotonic, won: Option<Epoch>) {
        if !self.is_watching(index, token) {
            return;
        }
        let Some(epoch) = won else {
            return self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
        };
        self.coordinators[index].part = Part::Leading(Box::new(Term {
            epoch,
            tenure: Tenure::asked(asked_at),
            renewing: None,
            leader: None,
        }));
        self.for_coordinator(index, 0, Heard::Renew { epoch });
        self.ask_store(index, Some(epoch), Statement::Recover);
    }

    fn renew(&mut self, index: usize, epoch: Epoch) {
        let now = self.shows(index);
        let token = self.coordinators[index].token();
        let Some(term) = self.coordinators[index]
            .term()
            .filter(|term| term.epoch == epoch)
        else {
            return;
        };
        match term.tenure.ask(now) {
            Err(_) => self.end_term(index),
            Ok(deadline) => {
                term.renewing = Some((token, now));
                self.when_it_shows(index, deadline, Heard::RenewDeadline { token });
                self.ask_store(index, Some(epoch), Statement::Renew { token });
            }
        }
    }

    fn renewed(&mut self, index: usize, token: u64, renewal: Renewal) {
        let now = self.shows(index);
        let Some(term) = self.coordinators[index].term() else {
            return;
        };
        let Some((_, asked_at)) = term.renewing.take_if(|(waiting, _)| *waiting == token) else {
            return;
        };
        let epoch = term.epoch;
        match term.tenure.answered(asked_at, now, renewal) {
            Ok(next) => self.when_it_shows(index, next, Heard::Renew { epoch }),
            Err(_) => self.end_term(index),
        }
    }

    fn end_term(&mut self, index: usize) {
        let Some(epoch) = self.coordinators[index].epoch() else {
            return;
        };
        let token = self.coordinators[index].token();
        self.coordinators[index].part = Part::Standby { watching: token };
        self.cut_links(index);
        self.ask_store(index, None, Statement::GiveUp { epoch });
        self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
    }

    // --- the database ---

    fn ask_store(&mut self, index: usize, term: Option<Epoch>, ask: Statement) {
        let process = self.coordinators[index].process;
        self.send_statement(StoreCall {
            index,
            process,
            term,
            tries: 0,
            ask,
            is_heard: true,
        });
    }

    fn failed(&mut self, index: usize, mut call: StoreCall) {
        match call.ask {
            Statement::Look { token } | Statement::TakeOver { token, .. } => {
                if self.is_watching(index, token) {
                    self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
                }
            }
            Statement::Renew { token } => self.renewed(index, token, Renewal::Unanswered),
            Statement::GiveUp { .. } => {}
            _ if self.coordinators[index].epoch() != call.term => {}
            // The term fails, and its coordinator stands again for the lead.
            Statement::Recover => self.end_term(index),
            Statement::Sources { held, .. } => {
                let reason = "the database did not answer".to_owned();
                self.dispatched(index, held, Err(NotDispatched::NotTaken(reason)));
            }
            _ => {
                let wait_ms = self.backoff(call.tries);
                call.tries += 1;
                self.for_coordinator(index, wait_ms, Heard::Again(call));
            }
        }
    }

    fn backoff(&mut self, tries: u32) -> u64 {
        let most = RETRY_MOST.as_millis() as u64;
        let ceiling = (RETRY_FIRST.as_millis() as u64) << tries.min(16);
        self.rng.random_range(0..=ceiling.min(most))
    }

    fn answered(&mut self, index: usize, call: StoreCall, answer: StoreAnswer) {
        match answer {
            StoreAnswer::Looked { token, holder } => self.looked(index, token, holder),
            StoreAnswer::TookOver {
                token,
                asked_at,
                won,
            } => self.took_over(index, token, asked_at, won),
            StoreAnswer::Renewed { token, is_newest } => {
                let renewal = if is_newest {
                    Renewal::Renewed
                } else {
                    Renewal::Refused
                };
                self.renewed(index, token, renewal);
            }
            StoreAnswer::Nothing => {}
            _ if call.term.is_none() || self.coordinators[index].epoch() != call.term => {}
            StoreAnswer::Recovered(rows) => {
                let (Some(epoch), start) = (call.term, self.shows(index)) else {
                    return;
                };
                let mut state = State::new(epoch);
                state.recover(Monotonic::default(), rows);
                let running = state.scheduler().unfinished();
                let running = running
                    .filter_map(|(job, attempt, node)| Some((job, (attempt, node?.clone()))));
                let running = running.collect();
                let leader = Leader {
                    state,
                    start,
                    replies: BTreeMap::new(),
                    giving: BTreeMap::new(),
                    admitted: BTreeMap::new(),
                    running,
                };
                if let Some(term) = self.coordinators[index].term() {
                    term.leader = Some(leader);
                }
                if self.plan.nodes <= API_NODES_MAX {
                    let api = PeerId::new(PeerRole::Api, "a");
                    let api = api.unwrap_or_else(|invalid| unreachable!("{invalid}"));
                    self.lead(index, Event::ApiUp(api));
                }
                self.for_coordinator(index, 0, Heard::Tick { epoch });
            }
            StoreAnswer::Happened(event) => self.lead(index, *event),
            StoreAnswer::LookedBack { reply, answer } => {
                self.reply(index, reply, Some(LeaderAnswer::Ended(answer)));
            }
            StoreAnswer::Sources {
                held,
                models,
                spec,
                resume,
            } => match spec {
                Some(spec) => self.give(
                    index,
                    Giving {
                        assign: Box::new(assignment(&held, &models, spec, resume)),
                        held,
                        tries: 0,
                    },
                ),
                None => {
                    let reason = "the job is gone".to_owned();
                    self.dispatched(index, held, Err(NotDispatched::Impossible(reason)));
                }
            },
        }
    }

    // --- the leader ---

    fn tick(&mut self, index: usize, epoch: Epoch) {
        if self.coordinators[index].epoch() != Some(epoch) {
            return;
        }
        self.lead(index, Event::Tick);
        let next = self.shows(index).plus_ms(TICK.as_millis() as u64);
        self.when_it_shows(index, next, Heard::Tick { epoch });
    }

    /// One step of the leader's core.
    fn lead(&mut self, index: usize, event: Event) {
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
            Effect::Sweep {
                running,
                is_thorough,
            } => self.ask_store(
                index,
                term,
                Statement::Newcomers {
                    running,
                    is_thorough,
                },
            ),
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
            | Effect::SweepCheckpoints
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

    /// Whoever runs as many as its tier allows is given another node only where nobody who runs fewer could use it. Jobs that came
    /// with the same event may have come after the start, and so may those that started after another one.
    fn check_caps(&mut self, index: usize, arriving: &[JobId]) {
        // Counting everybody anew with every event is for small farms.
        if self.plan.nodes > CAPS_NODES_MAX {
            return;
        }
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let scheduler = leader.state.scheduler();
        let running: BTreeMap<JobId, (Attempt, NodeId)> = scheduler
            .unfinished()
            .filter_map(|(job, attempt, node)| Some((job, (attempt, node?.clone()))))
            .collect();
        let mut found = None;
        for (job, (attempt, node)) in &running {
            let is_new = leader
                .running
                .get(job)
                .is_none_or(|(before, _)| before < attempt);
            let row = self.store.row(*job);
            let Some(row) = row.filter(|_| is_new) else {
                continue;
            };
            let own = scheduler
                .unfinished()
                .filter(|(_, _, node)| node.is_some())
                .filter(|(other, ..)| scheduler.owner_of(*other) == Some(row.owner))
                .count() as u32;
            if own <= row.tier.running_max() {
                continue;
            }
            let could_run = |rival: &Rival| {
                let came_before = self
                    .store
                    .row(rival.job)
                    .is_some_and(|row| row.after.is_none())
                    && !arriving.contains(&rival.job);
                rival.running < rival.tier.running_max() && rival.user != row.owner && came_before
            };
            let rival = scheduler.rivals_for(node).into_iter().find(could_run);
            found = found.or(rival.map(|rival| (*job, node.clone(), own, rival)));
        }
        leader.running = running;
        self.checks.require(Check::BoundsHeld, found.is_none(), || {
            format!("c{index} starts beyond its user's cap what others could run: {found:?}")
        });
    }

    /// An attempt is taken from a node that fell silent only when that node has stopped by itself: its own lease is shorter.
    fn check_losses(&mut self, index: usize, epoch: Epoch, batch: &Batch) {
        for change in batch.changes() {
            let held = match change {
                Change::Requeue {
                    held,
                    outcome: Unfinished::Lost,
                    ..
                }
                | Change::Quarantine { held, .. } => held,
                _ => continue,
            };
            let Some(slot) = self.slot_of(&held.node) else {
                continue;
            };
            let process = &self.processes[self.slots[slot].process];
            let at_work = process.generation == held.generation
                && process.confirmed_by == epoch
                && process.is_at_work_on(held.at.job, held.at.attempt);
            self.checks.require(Check::Lease, !at_work, || {
                format!(
                    "c{index} takes attempt {} of {} from {}, which works on it and believes in its lease",
                    held.at.attempt, held.at.job, held.node
                )
            });
        }
    }

    fn answer(&mut self, index: usize, reply: ReplyId, answer: Answer) {
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
            Answer::Preview(_) | Answer::Checkpoint(_) | Answer::Why(_) | Answer::Compared(_) => {
                return;
            }
        };
        self.reply(index, reply, Some(answer));
    }

    /// A lease is renewed by its holder only.
    fn check_renewal(&mut self, index: usize, reply: ReplyId, answer: BeatAnswer) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let Some((process, _)) = leader.replies.get(&reply) else {
            return;
        };
        let process = &self.processes[*process];
        let newest = leader.admitted.get(&process.slot).copied();
        let is_renewed = matches!(answer, BeatAnswer::Renewed { .. });
        let is_old = newest.is_some_and(|newest| process.generation < newest);
        self.checks
            .require(Check::Lease, !(is_renewed && is_old), || {
                format!(
                    "a beat of generation {} of {} renews the lease of generation {newest:?}",
                    process.generation, process.id
                )
            });
    }

    fn reply(&mut self, index: usize, reply: ReplyId, answer: Option<LeaderAnswer>) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let Some((process, ask)) = leader.replies.remove(&reply) else {
            return;
        };
        self.say(index, process, || NodeHeard::Answered {
            ask,
            answer: answer.clone(),
        });
    }

    /// A message to a node's process: it may come late, twice or never.
    pub(super) fn say(&mut self, index: usize, process: usize, words: impl Fn() -> NodeHeard) {
        let slot = self.processes[process].slot;
        if !self.coordinators[index].is_alive
            || self.cuts.down.get(&slot).is_some_and(|cut| *cut > 0)
        {
            return;
        }
        for delay_ms in self.ways() {
            let heard = words();
            self.after(delay_ms, Occurrence::Node { process, heard });
        }
    }

    /// After how long each copy of a message arrives.
    pub(super) fn ways(&mut self) -> Vec<u64> {
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

    // --- nodes ---

    fn asked(&mut self, index: usize, from: usize, ask: u64, question: NodeQuestion) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        self.turn_replies += 1;
        let reply = ReplyId(self.turn_replies);
        leader.replies.insert(reply, (from, ask));
        let event = match question {
            NodeQuestion::Register(register) => Event::Registering { reply, register },
            NodeQuestion::Beat(beat) => Event::Beat { reply, beat },
            NodeQuestion::Ended(ended) => Event::Ended { reply, ended },
            NodeQuestion::Targets(question) => Event::TargetsAsked { reply, question },
        };
        self.lead(index, event);
    }

    fn dialled(&mut self, index: usize, from: usize) {
        let (slot, generation) = (self.processes[from].slot, self.processes[from].generation);
        let coordinator = &mut self.coordinators[index];
        if !coordinator.is_leading() {
            return self.say(index, from, || NodeHeard::Refused { is_stale: false });
        }
        let newest = coordinator.generations.entry(slot).or_insert(generation);
        if *newest > generation {
            return self.say(index, from, || NodeHeard::Refused { is_stale: true });
        }
        *newest = generation;
        if let Some(before) = coordinator
            .links
            .insert(slot, from)
            .filter(|before| *before != from)
        {
            self.say(index, before, || NodeHeard::LinkDown { coordinator: index });
        }
        let delay = self.delay();
        let heard = NodeHeard::LinkUp { coordinator: index };
        self.after(
            delay,
            Occurrence::Node {
                process: from,
                heard,
            },
        );
    }

    fn give(&mut self, index: usize, giving: Giving) {
        let slot = self.slot_of(&giving.held.node);
        let process = slot.and_then(|slot| self.coordinators[index].links.get(&slot).copied());
        let Some(process) = process else {
            let reason = "no link to it".to_owned();
            return self.dispatched(index, giving.held, Err(NotDispatched::NotTaken(reason)));
        };
        let ask = self.coordinators[index].token();
        let assign = giving.assign.clone();
        if let Some(leader) = self.coordinators[index].leader() {
            leader.giving.insert(ask, giving);
        }
        self.say(index, process, || NodeHeard::Assigned {
            from: index,
            ask,
            assign: assign.clone(),
        });
        let deadline_ms = ASSIGN_DEADLINE.as_millis() as u64;
        self.for_coordinator(index, deadline_ms, Heard::Given { ask, answer: None });
    }

    fn given(&mut self, index: usize, ask: u64, answer: Option<AssignAnswer>) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let Some(mut giving) = leader.giving.remove(&ask) else {
            return;
        };
        let not_taken = |reason: String| Err(NotDispatched::NotTaken(reason));
        let result = match answer {
            Some(AssignAnswer::Accepted) => Ok(()),
            Some(AssignAnswer::Refused { reason }) => not_taken(reason),
            None => not_taken("it did not answer".to_owned()),
            Some(AssignAnswer::Busy { .. }) if giving.tries + 1 >= BUSY_TRIES => {
                not_taken("it stays busy".to_owned())
            }
            Some(AssignAnswer::Busy { .. }) => {
                let Some(epoch) = self.coordinators[index].epoch() else {
                    return;
                };
                let wait_ms = self.backoff(giving.tries);
                giving.tries += 1;
                return self.for_coordinator(index, wait_ms, Heard::GiveAgain { epoch, giving });
            }
        };
        self.dispatched(index, giving.held, result);
    }

    fn dispatched(&mut self, index: usize, held: Holding, result: Result<(), NotDispatched>) {
        self.lead(index, Event::Dispatched { held, result });
    }

    /// Asks who leads at the end what it still holds in memory.
    pub(super) fn compare_memory(&mut self) {
        let newest = self.store.leader.epoch;
        for index in 0..self.coordinators.len() {
            if self.coordinators[index].epoch() == Some(Epoch::new(newest)) {
                self.turn_replies += 1;
                self.lead(index, Event::FarmAsked(ReplyId(self.turn_replies)));
            }
        }
    }

    fn memory_holds(&mut self, index: usize, jobs: u32) {
        let left = self.store.unfinished().len();
        self.checks
            .require(Check::EveryJobEnds, jobs as usize == left, || {
                format!("c{index} holds {jobs} jobs in memory, the database {left}")
            });
    }
}

fn assignment(
    held: &Holding,
    models: &JobModels,
    spec: RenderSpec,
    resume: Option<CheckpointRow>,
) -> Assign {
    let source = Source {
        sha256: Sha256::from_bytes([1; 32]),
        bytes: 1,
        url: String::new(),
    };
    let resume = resume.map(|kept| Resume {
        file: kept.file,
        attempt: Attempt::new(kept.attempt),
        source: source.clone(),
    });
    Assign {
        at: held.at,
        spec,
        model_sha256: models.clip.sha256,
        first_frame: FirstFrameSource::Image(source),
        adapters: Vec::new(),
        resume,
    }
}

fn target(ready: &ReadyFile) -> Target {
    Target {
        file: ready.file,
        url: String::new(),
        headers: Vec::new(),
    }
}
