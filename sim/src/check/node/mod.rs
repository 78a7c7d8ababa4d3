//! A render node's process: what its actor and its tasks do around the node's machine, with an engine of numbers.

mod engine;
mod link;

use std::collections::BTreeMap;

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, JobId, NodeId};
use flowai_actors::messages::{
    AdapterTiers, Assign, AttemptRef, Beat, BeatAnswer, Ended, EndedAnswer, Register, Registered,
    UploadTargets, UploadTargetsAnswer,
};
use flowai_node_machine::{Effect, Ending, Event, RunId, State};
use link::told;
use rand::Rng as _;
use rand::seq::SliceRandom as _;
use serde::Serialize;

use super::clock::ProcessClock;
use super::coordinator::Heard as CoordinatorHeard;
use super::plan::Nature;
use super::world::{Occurrence, World};

const DEVICE_CLASS: &str = "sim";

/// As the program has them, for a node that was told to end: until its job is given up as it is, and until its end is.
const CLOSING_MS: u64 = 27_000;
const LAST_WORD_MS: u64 = 3_000;

/// Until a supervisor has started a process anew.
const RESTART_MS: u64 = 3_000;

/// What a node asks whoever leads. On the wire the kind says which, and the body stands alone.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum NodeQuestion {
    Register(Box<Register>),
    Beat(Box<Beat>),
    Ended(Box<Ended>),
    Targets(UploadTargets),
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
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
    /// It was to end, and its job came to no boundary in time.
    Abandon,
    /// Nobody heard its last word in time.
    GivesUp,
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
            | Self::Close
            | Self::Abandon
            | Self::GivesUp => true,
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
    /// Steps done.
    step: u32,
    /// The next one is at work.
    is_stepping: bool,
    /// It was said that its steps begin.
    has_begun: bool,
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
    /// The process that ran here last, if one has.
    fn before(&self) -> Option<usize> {
        (self.generation != Generation::ZERO).then_some(self.process)
    }

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
    pub(super) machine: State,
    runs: BTreeMap<u64, Run>,
    asks: BTreeMap<u64, Pending>,
    tokens: u64,
    dialling: u64,
    timer_at: Option<u64>,
    pub(super) link: Option<usize>,
    /// Since when nobody hears of it.
    pub(super) gone_at: Option<u64>,
}

impl Process {
    /// Whether its engine goes on with this attempt.
    pub(super) fn is_at_work_on(&self, job: JobId, attempt: Attempt) -> bool {
        let mut runs = self.runs.values();
        let is_it = |run: &Run| (run.at.job, run.at.attempt) == (job, attempt);
        let goes_on = |run: &Run| !run.is_paused && !run.is_stopped && !run.is_over;
        self.is_alive && !self.is_frozen && runs.any(|run| is_it(run) && goes_on(run))
    }

    /// Whether no run is in its engine, or waits there.
    pub(super) fn is_engine_free(&self) -> bool {
        self.runs.values().all(|run| run.is_over)
    }

    /// Whether a run in its engine comes to no boundary any more.
    pub(super) fn engine_hangs(&self) -> bool {
        let mut runs = self.runs.values();
        runs.any(|run| run.nature == Nature::Hanging && !run.is_over)
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
        if let Some(before) = self.slots[slot].before() {
            self.check_missed(before);
        }
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
            gone_at: None,
        });
        let wait_ms = self.rng.random_range(0..1_000);
        self.for_node(process, wait_ms, Heard::Dial { token: 0 });
    }

    /// Its process is gone; the peer learns it from the closed connection.
    pub(super) fn kill_node(&mut self, process: usize) {
        let now = self.now;
        let dead = &mut self.processes[process];
        dead.is_alive = false;
        dead.gone_at.get_or_insert(now);
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
                let own = &self.processes[process];
                let heard = CoordinatorHeard::Unlinked {
                    node: own.id.clone(),
                    generation: own.generation,
                };
                let delay = self.delay();
                self.for_coordinator(coordinator, delay, heard);
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

    pub(super) fn freeze_node(&mut self, process: usize) {
        let now = self.now;
        let frozen = &mut self.processes[process];
        frozen.is_frozen = frozen.is_alive;
        frozen.gone_at.get_or_insert(now);
    }

    pub(super) fn thaw_node(&mut self, process: usize) {
        if !self.processes[process].is_frozen {
            return;
        }
        self.check_missed(process);
        let thawed = &mut self.processes[process];
        thawed.is_frozen = false;
        if thawed.is_alive {
            thawed.gone_at = None;
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
            Heard::Close => {
                self.for_node(process, CLOSING_MS, Heard::Abandon);
                self.node(process, Event::Close);
            }
            Heard::Abandon => {
                self.for_node(process, LAST_WORD_MS, Heard::GivesUp);
                self.node(process, Event::Abandon);
            }
            Heard::GivesUp => self.end_process(process, Ending::Closed),
        }
    }

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
            Effect::Beat {
                seq,
                running,
                is_closing,
                ..
            } => {
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
                    is_closing,
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

    fn end_process(&mut self, process: usize, ending: Ending) {
        if ending == Ending::EngineHung {
            self.check_hung(process);
        }
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
}
