//! A render node's process: what its actor and its tasks do around the node's machine, with an engine of numbers.

use std::collections::BTreeMap;

use flowai_actors::checkpoint::{CheckpointFile, CheckpointPlaced, Resume};
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId, Sha256};
use flowai_actors::limits::{LINK_TLS_MS, REDIAL_MOST_MS};
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{
    AdapterTiers, ArtefactFile, Assign, AssignAnswer, AttemptRef, Beat, BeatAnswer, Ended,
    EndedAnswer, ModelFamily, ModelOffer, Phase, Progress, ReadyFile, Register, Registered,
    UploadTargets, UploadTargetsAnswer,
};
use flowai_actors::spec::SpecLimits;
use flowai_node_machine::failure::{FailureCode, JobFailure};
use flowai_node_machine::{
    Clip, Effect, Ending, Event, NotRendered, NotUploaded, RunId, Standing, State,
};
use rand::Rng;
use rand::seq::SliceRandom;

use super::checks::Check;
use super::clock::ProcessClock;
use super::coordinator::{Heard as CoordinatorHeard, peer};
use super::plan::{COORDINATORS, Nature};
use super::world::{Occurrence, World};

/// As the node's actor has them.
const ASK_DEADLINE_MS: u64 = 5_000;
const BEAT_DEADLINE_MS: u64 = 4_000;
/// Of an upload.
const UPLOAD_MS_MAX: u64 = 3_000;
/// One of so many boundaries leaves a checkpoint.
const CHECKPOINT_EVERY: u32 = 3;
const DEVICE_CLASS: &str = "sim";
/// Until a supervisor has started a process anew.
const RESTART_MS: u64 = 3_000;

/// What a node asks whoever leads.
#[derive(Debug, Clone)]
pub(super) enum NodeQuestion {
    Register(Box<Register>),
    Beat(Box<Beat>),
    Ended(Box<Ended>),
    Targets(UploadTargets),
}

#[derive(Debug, Clone)]
pub(super) enum LeaderAnswer {
    Registered(Registered),
    Beat(BeatAnswer),
    Ended(EndedAnswer),
    Targets(UploadTargetsAnswer),
}

/// What a node's process hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// Time to look for a leader.
    Dial {
        token: u64,
    },
    LinkUp {
        coordinator: usize,
    },
    LinkDown {
        coordinator: usize,
    },
    /// A coordinator does not take the link: it does not lead, or knows a newer process.
    Refused {
        is_stale: bool,
    },
    /// An answer, that there is none, or that the deadline has come.
    Answered {
        ask: u64,
        answer: Option<LeaderAnswer>,
    },
    Assigned {
        from: usize,
        ask: u64,
        assign: Box<Assign>,
    },
    StopAsked {
        at: AttemptRef,
        keep: bool,
    },
    /// The run comes to a step boundary.
    Boundary {
        run: RunId,
    },
    Uploaded {
        run: RunId,
        is_taken: bool,
    },
    /// Nothing more of a run's checkpoints goes to the object store.
    Left {
        run: RunId,
        checkpoint: Option<CheckpointFile>,
    },
    Timer,
    Close,
}

impl Heard {
    /// Whether it tells a reader something: beats and timers go on all the time.
    pub(super) fn is_news(&self) -> bool {
        match self {
            Self::Timer | Self::Dial { .. } | Self::Boundary { .. } => false,
            Self::Answered { answer, .. } => !matches!(
                answer,
                None | Some(LeaderAnswer::Beat(BeatAnswer::Renewed { .. }))
            ),
            Self::LinkUp { .. }
            | Self::LinkDown { .. }
            | Self::Refused { .. }
            | Self::Assigned { .. }
            | Self::StopAsked { .. }
            | Self::Left { .. }
            | Self::Uploaded { .. }
            | Self::Close => true,
        }
    }
}

/// A question that waits.
enum Pending {
    Register {
        from: usize,
        sent_at: Monotonic,
        reported: Option<AttemptRef>,
    },
    Beat {
        from: usize,
        sent_at: Monotonic,
        reported: Option<AttemptRef>,
    },
    Ended {
        run: RunId,
    },
    Targets {
        run: RunId,
    },
}

/// A job in the engine, or one whose clip lies on the disk.
struct Run {
    at: AttemptRef,
    assign: Box<Assign>,
    step: u32,
    nature: Nature,
    step_ms: u64,
    is_paused: bool,
    is_stopped: bool,
    /// What it has done is wanted when it stops.
    is_kept: bool,
    /// At a boundary, until it may go on.
    is_waiting: bool,
    /// Out of the engine.
    is_over: bool,
}

/// A machine with a GPU: one process after the other, and sometimes an old one beside the new.
pub(super) struct Slot {
    id: NodeId,
    pub(super) process: usize,
    generation: Generation,
}

impl Slot {
    pub(super) fn new(number: usize) -> Self {
        let id = NodeId::try_from(format!("n{number}"));
        Self {
            id: id.unwrap_or_else(|invalid| unreachable!("{invalid}")),
            process: 0,
            generation: Generation::ZERO,
        }
    }
}

pub(super) struct Process {
    pub(super) slot: usize,
    pub(super) id: NodeId,
    pub(super) generation: Generation,
    clock: ProcessClock,
    pub(super) is_alive: bool,
    pub(super) is_frozen: bool,
    deferred: Vec<Heard>,
    machine: State,
    runs: BTreeMap<u64, Run>,
    asks: BTreeMap<u64, Pending>,
    tokens: u64,
    dialling: u64,
    timer_at: Option<u64>,
    pub(super) link: Option<usize>,
    /// The term that has said last that it knows the node.
    pub(super) confirmed_by: Epoch,
}

impl Process {
    /// Whether its engine goes on with this attempt.
    pub(super) fn is_at_work_on(&self, job: JobId, attempt: Attempt) -> bool {
        let mut runs = self.runs.values();
        let is_it = |run: &Run| (run.at.job, run.at.attempt) == (job, attempt);
        let goes_on = |run: &Run| !run.is_paused && !run.is_stopped && !run.is_over;
        self.is_alive && !self.is_frozen && runs.any(|run| is_it(run) && goes_on(run))
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }
}

impl World {
    pub(super) fn slot_of(&self, node: &NodeId) -> Option<usize> {
        node.as_str().strip_prefix('n')?.parse().ok()
    }

    pub(super) fn start_node(&mut self, slot: usize) {
        let clock = self.new_clock();
        let process = self.processes.len();
        let known = &mut self.slots[slot];
        known.generation = known.generation.next();
        known.process = process;
        let (id, generation) = (known.id.clone(), known.generation);
        let models = BTreeMap::from([self.model.clone()]);
        self.processes.push(Process {
            slot,
            generation,
            clock,
            is_alive: true,
            is_frozen: false,
            deferred: Vec::new(),
            machine: State::new(id.clone(), generation, models),
            id,
            runs: BTreeMap::new(),
            asks: BTreeMap::new(),
            tokens: 0,
            dialling: 0,
            timer_at: None,
            link: None,
            confirmed_by: Epoch::ZERO,
        });
        let wait_ms = self.rng.random_range(0..1_000);
        self.for_node(process, wait_ms, Heard::Dial { token: 0 });
    }

    /// Its process is gone; the peer learns it from the closed connection.
    pub(super) fn kill_node(&mut self, process: usize) {
        let dead = &mut self.processes[process];
        dead.is_alive = false;
        dead.deferred.clear();
        dead.runs.clear();
        self.unlink(process);
    }

    fn unlink(&mut self, process: usize) {
        let slot = self.processes[process].slot;
        if let Some(coordinator) = self.processes[process].link.take() {
            let links = &mut self.coordinators[coordinator].links;
            if links.get(&slot) == Some(&process) {
                links.remove(&slot);
            }
        }
    }

    /// Cut off or silent for too long: both ends give the link up.
    pub(super) fn break_link(&mut self, process: usize) {
        if let Some(coordinator) = self.processes[process].link {
            self.unlink(process);
            self.for_node(process, 0, Heard::LinkDown { coordinator });
        }
    }

    pub(super) fn thaw_node(&mut self, process: usize) {
        let thawed = &mut self.processes[process];
        if !std::mem::take(&mut thawed.is_frozen) {
            return;
        }
        let mut deferred = std::mem::take(&mut thawed.deferred);
        if !self.is_healed && self.rng.random() {
            deferred.shuffle(&mut self.rng);
        }
        // What is overdue comes first: it is due now whatever else was said.
        self.for_node(process, 0, Heard::Timer);
        for heard in deferred {
            self.for_node(process, 0, heard);
        }
    }

    pub(super) fn for_node(&mut self, process: usize, after_ms: u64, heard: Heard) {
        self.after(after_ms, Occurrence::Node { process, heard });
    }

    pub(super) fn node_hears(&mut self, process: usize, heard: Heard) {
        let own = &mut self.processes[process];
        if !own.is_alive {
            return;
        }
        if own.is_frozen {
            own.deferred.push(heard);
            return;
        }
        match heard {
            Heard::Dial { token } => self.dial(process, token),
            Heard::LinkUp { coordinator } => self.link_up(process, coordinator),
            Heard::LinkDown { coordinator } => self.link_down(process, coordinator),
            Heard::Refused { is_stale: true } => self.node(process, Event::Replaced),
            Heard::Refused { is_stale: false } => {
                let token = own.dialling;
                let wait_ms = self.rng.random_range(10..1_000);
                self.for_node(process, wait_ms, Heard::Dial { token });
            }
            Heard::Answered { ask, answer } => self.leader_answered(process, ask, answer),
            Heard::Assigned { from, ask, assign } => self.assigned(process, from, ask, assign),
            Heard::StopAsked { at, keep } => self.node(process, Event::StopAsked { at, keep }),
            Heard::Left { run, checkpoint } => self.node(process, Event::Left { run, checkpoint }),
            Heard::Boundary { run } => self.boundary(process, run),
            Heard::Uploaded { run, is_taken } => self.uploaded(process, run, is_taken),
            Heard::Timer => {
                own.timer_at = None;
                self.node(process, Event::Tick);
            }
            Heard::Close => self.node(process, Event::Close),
        }
    }

    // --- the link ---

    fn dial(&mut self, process: usize, token: u64) {
        let own = &mut self.processes[process];
        if own.link.is_some() || token < own.dialling {
            return;
        }
        let next = own.token();
        own.dialling = next;
        let slot = own.slot;
        let index = self.rng.random_range(0..COORDINATORS);
        self.for_node(process, LINK_TLS_MS, Heard::Dial { token: next });
        if self.cuts.up.get(&slot).is_some_and(|cut| *cut > 0) {
            return;
        }
        let coordinator = &self.coordinators[index];
        if !coordinator.is_alive {
            return self.for_node(process, 10, Heard::Refused { is_stale: false });
        }
        let (to, delay) = (coordinator.process, self.delay());
        let heard = CoordinatorHeard::Dialled { from: process };
        self.after(
            delay,
            Occurrence::Coordinator {
                index,
                process: to,
                heard,
            },
        );
    }

    fn link_up(&mut self, process: usize, coordinator: usize) {
        let slot = self.processes[process].slot;
        let has_another = self.processes[process]
            .link
            .is_some_and(|link| link != coordinator);
        let links = &mut self.coordinators[coordinator].links;
        // It dialled another one meanwhile, and closes this connection.
        if has_another {
            links.retain(|_, linked| *linked != process);
            return;
        }
        // Cut again before both ends had it.
        if links.get(&slot) != Some(&process) {
            let token = self.processes[process].dialling;
            return self.for_node(process, 100, Heard::Dial { token });
        }
        self.processes[process].link = Some(coordinator);
        self.node(process, Event::LinkUp(peer(coordinator)));
    }

    fn link_down(&mut self, process: usize, coordinator: usize) {
        let own = &mut self.processes[process];
        own.link.take_if(|link| *link == coordinator);
        let token = own.dialling;
        self.node(process, Event::LinkDown(peer(coordinator)));
        let wait_ms = self.rng.random_range(0..REDIAL_MOST_MS);
        self.for_node(process, wait_ms, Heard::Dial { token });
    }

    /// A message to a coordinator: it may come late, twice or never.
    fn tell(&mut self, process: usize, index: usize, words: impl Fn() -> CoordinatorHeard) {
        let slot = self.processes[process].slot;
        let is_cut = self.cuts.up.get(&slot).is_some_and(|cut| *cut > 0);
        if is_cut || !self.coordinators[index].is_alive {
            return;
        }
        let to = self.coordinators[index].process;
        for delay_ms in self.ways() {
            let heard = words();
            self.after(
                delay_ms,
                Occurrence::Coordinator {
                    index,
                    process: to,
                    heard,
                },
            );
        }
    }

    fn ask(&mut self, process: usize, to: usize, pending: Pending, question: NodeQuestion) {
        let own = &mut self.processes[process];
        let ask = own.token();
        let deadline_ms = match pending {
            Pending::Beat { .. } => BEAT_DEADLINE_MS,
            Pending::Register { .. } | Pending::Ended { .. } | Pending::Targets { .. } => {
                ASK_DEADLINE_MS
            }
        };
        own.asks.insert(ask, pending);
        self.for_node(process, deadline_ms, Heard::Answered { ask, answer: None });
        self.tell(process, to, || CoordinatorHeard::Asked {
            from: process,
            ask,
            question: question.clone(),
        });
    }

    fn leader_answered(&mut self, process: usize, ask: u64, answer: Option<LeaderAnswer>) {
        let own = &mut self.processes[process];
        let Some(pending) = own.asks.remove(&ask) else {
            return;
        };
        if let Some(
            LeaderAnswer::Registered(Registered::Welcome { epoch, .. })
            | LeaderAnswer::Beat(BeatAnswer::Renewed { epoch, .. }),
        ) = &answer
        {
            own.confirmed_by = own.confirmed_by.max(*epoch);
        }
        let event = match (pending, answer) {
            (
                Pending::Register {
                    from,
                    sent_at,
                    reported,
                },
                answer,
            ) => Event::Registered {
                from: peer(from),
                sent_at,
                reported,
                answer: match answer {
                    Some(LeaderAnswer::Registered(answer)) => Some(answer),
                    _ => None,
                },
            },
            (
                Pending::Beat {
                    from,
                    sent_at,
                    reported,
                },
                answer,
            ) => Event::BeatAnswered {
                from: peer(from),
                sent_at,
                reported,
                answer: match answer {
                    Some(LeaderAnswer::Beat(answer)) => Some(answer),
                    _ => None,
                },
            },
            (Pending::Ended { run }, answer) => Event::EndedAnswered {
                run,
                answer: match answer {
                    Some(LeaderAnswer::Ended(answer)) => Some(answer),
                    _ => None,
                },
            },
            (Pending::Targets { run }, answer) => Event::TargetsAnswered {
                run,
                answer: match answer {
                    Some(LeaderAnswer::Targets(answer)) => Some(answer),
                    _ => None,
                },
            },
        };
        self.node(process, event);
    }

    fn assigned(&mut self, process: usize, from: usize, ask: u64, assign: Box<Assign>) {
        for effect in self.step_node(process, Event::Assigned(assign)) {
            match effect {
                Effect::AnswerAssign(answer) => self.answer_assign(process, from, ask, answer),
                effect => self.node_does(process, effect),
            }
        }
        self.set_timer(process);
    }

    fn answer_assign(&mut self, process: usize, to: usize, ask: u64, answer: AssignAnswer) {
        self.tell(process, to, || CoordinatorHeard::Given {
            ask,
            answer: Some(answer.clone()),
        });
    }

    // --- the machine ---

    fn step_node(&mut self, process: usize, event: Event) -> Vec<Effect> {
        let own = &mut self.processes[process];
        own.machine.apply(own.clock.shows(self.now), event)
    }

    fn node(&mut self, process: usize, event: Event) {
        for effect in self.step_node(process, event) {
            self.node_does(process, effect);
        }
        self.set_timer(process);
    }

    fn set_timer(&mut self, process: usize) {
        let own = &mut self.processes[process];
        let Some(due) = own.machine.next_due().filter(|_| own.is_alive) else {
            return;
        };
        let at_ms = own.clock.world_at(due).max(self.now);
        if own.timer_at.is_none_or(|timer_at| at_ms < timer_at) {
            own.timer_at = Some(at_ms);
            self.at(
                at_ms,
                Occurrence::Node {
                    process,
                    heard: Heard::Timer,
                },
            );
        }
    }

    fn node_does(&mut self, process: usize, effect: Effect) {
        let own = &mut self.processes[process];
        let sent_at = own.clock.shows(self.now);
        let (node, generation, link) = (own.id.clone(), own.generation, own.link);
        match effect {
            Effect::Register { running, .. } => {
                let pending = |from| Pending::Register {
                    from,
                    sent_at,
                    reported: running,
                };
                let register = self.registration(node, generation, running);
                self.ask_leader(process, link, pending, NodeQuestion::Register(register));
            }
            Effect::Beat { seq, running, .. } => {
                let pending = |from| Pending::Beat {
                    from,
                    sent_at,
                    reported: running,
                };
                let beat = Box::new(Beat {
                    node,
                    generation,
                    seq,
                    running,
                    held_adapters: Vec::new(),
                    adapters: AdapterTiers::default(),
                });
                self.ask_leader(process, link, pending, NodeQuestion::Beat(beat));
            }
            Effect::AskTargets { run, question, .. } => {
                let pending = |_| Pending::Targets { run };
                self.ask_leader(process, link, pending, NodeQuestion::Targets(question));
            }
            Effect::Tell { run, ended, .. } => {
                let pending = |_| Pending::Ended { run };
                self.ask_leader(process, link, pending, NodeQuestion::Ended(ended));
            }
            Effect::SendProgress { progress, .. } => {
                if let Some(to) = link {
                    self.tell(process, to, || told(process, &progress));
                }
            }
            // The leader learns from the end that follows; a stop is asked for again with each beat.
            Effect::AnswerStop(_) | Effect::AnswerAssign(_) | Effect::Prefetch(_) => {}
            Effect::Start { run, assign } => self.begin_run(process, run, assign),
            Effect::Pause(run) => self.control(process, run, |run| run.is_paused = true),
            Effect::Resume(run) => self.control(process, run, |run| run.is_paused = false),
            Effect::Keep(run) => self.control(process, run, |run| {
                run.is_stopped = true;
                run.is_kept = true;
            }),
            Effect::Stop(run) => self.control(process, run, |run| run.is_stopped = true),
            Effect::Forget(run) => self.control(process, run, |run| run.is_stopped = true),
            Effect::Upload { run, .. } => self.upload(process, run),
            Effect::End(ending) => self.end_process(process, ending),
        }
    }

    fn ask_leader(
        &mut self,
        process: usize,
        link: Option<usize>,
        pending: impl FnOnce(usize) -> Pending,
        question: NodeQuestion,
    ) {
        // Without a link the asker hears at once that there is no answer.
        let Some(to) = link else {
            let own = &mut self.processes[process];
            let ask = own.token();
            own.asks.insert(ask, pending(0));
            return self.for_node(process, 1, Heard::Answered { ask, answer: None });
        };
        self.ask(process, to, pending(to), question);
    }

    fn registration(
        &self,
        node: NodeId,
        generation: Generation,
        running: Option<AttemptRef>,
    ) -> Box<Register> {
        let (id, sha256) = self.model.clone();
        Box::new(Register {
            node,
            generation,
            version: "0".to_owned(),
            device_class: DEVICE_CLASS.to_owned(),
            device: "sim".to_owned(),
            memory_bytes: 80 << 30,
            models: vec![ModelOffer {
                id,
                sha256,
                family: ModelFamily::Svd,
                unet_config: serde_json::Value::Null,
                text_encoder_config: None,
                limits: SpecLimits {
                    side_multiple: 8,
                    frames_max: 25,
                },
            }],
            refused_models: Vec::new(),
            running,
        })
    }

    fn end_process(&mut self, process: usize, ending: Ending) {
        self.kill_node(process);
        let slot = self.processes[process].slot;
        // The supervisor starts the machine's process anew, unless a newer one runs already.
        let is_newest = self.slots[slot].process == process;
        if is_newest
            && matches!(
                ending,
                Ending::Closed | Ending::EngineHung | Ending::Replaced
            )
        {
            self.start_node_later(slot);
        }
    }

    pub(super) fn start_node_later(&mut self, slot: usize) {
        let wait_ms = self.rng.random_range(100..RESTART_MS);
        self.after(wait_ms, Occurrence::Starts { slot });
    }

    // --- the engine ---

    fn begin_run(&mut self, process: usize, run: RunId, assign: Box<Assign>) {
        let at = assign.at;
        self.checks.begun(at.job, at.attempt, process);
        let own = &self.processes[process];
        let row = self.store.row(at.job);
        let written = row.and_then(|row| row.attempts.get(at.attempt.get() as usize - 1));
        // A process may begin what its predecessor was given, before the leader knows of the change: nothing comes of it.
        let is_written =
            written.is_some_and(|row| row.node == own.id && row.generation <= own.generation.get());
        self.checks.require(Check::Lease, is_written, || {
            format!(
                "{} begins attempt {} of {}, which no row gives to it",
                own.id, at.attempt, at.job
            )
        });
        let (nature, step_ms) = self.users.nature(at.job);
        let left = assign.resume.as_ref();
        let lies_there = |kept: &&Resume| {
            let key = (at.job, kept.attempt.get(), kept.file.step);
            self.cuts.objects_refuse == 0 && self.checkpoints.contains(&key)
        };
        let step = left.filter(lies_there).map_or(0, |kept| kept.file.step);
        let run_of = Run {
            at,
            assign,
            step,
            nature,
            step_ms,
            is_paused: false,
            is_stopped: false,
            is_kept: false,
            is_waiting: false,
            is_over: false,
        };
        self.processes[process].runs.insert(run.0, run_of);
        let fetch_ms = self.rng.random_range(10..1_000);
        self.for_node(process, fetch_ms, Heard::Boundary { run });
    }

    fn control(&mut self, process: usize, id: RunId, change: impl Fn(&mut Run)) {
        let Some(run) = self.processes[process].runs.get_mut(&id.0) else {
            return;
        };
        change(run);
        let goes_on = run.is_stopped || !run.is_paused;
        if goes_on && std::mem::take(&mut run.is_waiting) {
            self.for_node(process, 1, Heard::Boundary { run: id });
        }
    }

    fn boundary(&mut self, process: usize, id: RunId) {
        let is_flaky_here = self.rng.random_range(0..3) == 0;
        let Some(run) = self.processes[process].runs.get_mut(&id.0) else {
            return;
        };
        if run.is_over {
            return;
        }
        if run.is_stopped {
            run.is_over = true;
            let is_kept = run.is_kept;
            self.rendered(process, id, Err(NotRendered::Stopped));
            if is_kept {
                self.leave_checkpoint(process, id);
            }
            return;
        }
        if run.is_paused {
            run.is_waiting = true;
            return;
        }
        let fail = |code| {
            Err(NotRendered::Failed(JobFailure::new(
                code,
                "the simulator says so",
            )))
        };
        let (step, steps) = (run.step, run.assign.spec.steps);
        match run.nature {
            Nature::Killer if step == steps / 2 => {
                let slot = self.processes[process].slot;
                self.kill_node(process);
                if self.slots[slot].process == process {
                    self.start_node_later(slot);
                }
                return;
            }
            Nature::Hanging if step == 1 => return,
            Nature::Bad => {
                run.is_over = true;
                return self.rendered(process, id, fail(FailureCode::InvalidImage));
            }
            Nature::Flaky if is_flaky_here => {
                run.is_over = true;
                return self.rendered(process, id, fail(FailureCode::EngineFailed));
            }
            _ if step == steps => {
                run.is_over = true;
                let at = run.assign.clone();
                // Nobody is charged for what takes no time.
                let denoise_ms = run.step_ms as f64 * f64::from(steps);
                let clip = self.clip(process, &at, denoise_ms);
                return self.rendered(process, id, Ok(clip));
            }
            _ => {}
        }
        run.step += 1;
        let step_ms = run.step_ms;
        let standing = Standing {
            phase: Phase::Denoising,
            step,
            steps,
            left_s: None,
        };
        self.node(process, Event::Moved { run: id, standing });
        self.checkpoint_on_the_way(process, id);
        self.for_node(process, step_ms, Heard::Boundary { run: id });
    }

    /// A run's newest checkpoint goes to the object store, if that takes it.
    fn place_checkpoint(&mut self, process: usize, id: RunId) -> Option<CheckpointFile> {
        let run = self.processes[process].runs.get(&id.0)?;
        let (at, step, steps) = (run.at, run.step, run.assign.spec.steps);
        let is_taken = self.cuts.objects_refuse == 0 && !self.chance(self.plan.upload_fails);
        let is_some = is_taken && step > 0;
        is_some.then(|| {
            self.checkpoints.insert((at.job, at.attempt.get(), step));
            CheckpointFile {
                sha256: Sha256::from_bytes([3; 32]),
                bytes: 1,
                step,
                steps,
                device_class: DEVICE_CLASS.to_owned(),
                engine: "stand-in 0".to_owned(),
                resumed: Vec::new(),
            }
        })
    }

    /// A run that was to keep what is done has come to its boundary.
    fn leave_checkpoint(&mut self, process: usize, run: RunId) {
        let checkpoint = self.place_checkpoint(process, run);
        let wait_ms = self.rng.random_range(10..UPLOAD_MS_MAX);
        self.for_node(process, wait_ms, Heard::Left { run, checkpoint });
    }

    /// Now and then a run that goes on leaves one on its way.
    fn checkpoint_on_the_way(&mut self, process: usize, run: RunId) {
        if self.rng.random_range(0..CHECKPOINT_EVERY) > 0 {
            return;
        }
        let Some(file) = self.place_checkpoint(process, run) else {
            return;
        };
        let own = &self.processes[process];
        let (Some(to), Some(run)) = (own.link, own.runs.get(&run.0)) else {
            return;
        };
        let placed = CheckpointPlaced { at: run.at, file };
        self.tell(process, to, || CoordinatorHeard::Placed {
            from: process,
            placed: placed.clone(),
        });
    }

    fn rendered(&mut self, process: usize, run: RunId, result: Result<Clip, NotRendered>) {
        self.node(process, Event::Rendered { run, result });
    }

    fn clip(&self, process: usize, assign: &Assign, denoise_ms: f64) -> Clip {
        let own = &self.processes[process];
        let at = assign.at;
        let mut hash = [0; 32];
        hash[..16].copy_from_slice(&at.job.as_uuid().into_bytes());
        hash[16..20].copy_from_slice(&at.attempt.get().to_be_bytes());
        let sha256 = Sha256::from_bytes(hash);
        let file = |file: ArtefactFile| ReadyFile {
            file,
            sha256,
            bytes: 1,
        };
        Clip {
            files: ArtefactFile::of_render(false)
                .into_iter()
                .map(file)
                .collect(),
            manifest: Box::new(Manifest {
                manifest_version: Manifest::VERSION,
                job: at.job,
                attempt: at.attempt,
                epoch: at.epoch,
                node: own.id.clone(),
                generation: own.generation,
                spec: assign.spec.clone(),
                model_sha256: assign.model_sha256,
                adapters: Vec::new(),
                keyframe: None,
                resumed: Vec::new(),
                engine: EngineInfo {
                    name: "stand-in".to_owned(),
                    version: "0".to_owned(),
                    libtorch: None,
                    encoder: "none".to_owned(),
                    dtype: "float32".to_owned(),
                    noise_dtype: "float32".to_owned(),
                },
                device_class: DEVICE_CLASS.to_owned(),
                clip_sha256: sha256,
                clip_bytes: 1,
                timings_ms: StageTimings {
                    denoise: denoise_ms,
                    ..StageTimings::default()
                },
            }),
        }
    }

    fn upload(&mut self, process: usize, run: RunId) {
        let is_taken = self.cuts.objects_refuse == 0 && !self.chance(self.plan.upload_fails);
        let wait_ms = self.rng.random_range(10..UPLOAD_MS_MAX);
        self.for_node(process, wait_ms, Heard::Uploaded { run, is_taken });
    }

    fn uploaded(&mut self, process: usize, id: RunId, is_taken: bool) {
        let Some(run) = self.processes[process].runs.get(&id.0) else {
            return;
        };
        let at = run.at;
        let result = if is_taken {
            self.objects.insert((at.job, at.attempt.get()));
            Ok(1.0)
        } else if run.is_stopped {
            Err(NotUploaded::Stopped)
        } else if self.rng.random() {
            Err(NotUploaded::Expired("the simulator says so".to_owned()))
        } else {
            let failure = JobFailure::new(FailureCode::UploadFailed, "the simulator says so");
            Err(NotUploaded::Unreachable(failure))
        };
        self.node(process, Event::Uploaded { run: id, result });
    }
}

fn told(from: usize, progress: &Progress) -> CoordinatorHeard {
    CoordinatorHeard::Told {
        from,
        progress: progress.clone(),
    }
}
