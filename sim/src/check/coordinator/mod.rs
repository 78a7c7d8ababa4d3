//! A coordinator's process: what the programs' actors and tasks do around the leader's core and its lease, in this world.

mod asking;
mod judging;
mod leading;
mod lease;
mod nodes;

use std::collections::BTreeMap;

use flowai_actors::checkpoint::CheckpointPlaced;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId};
use flowai_actors::limits::LEADER_WATCH_MS;
use flowai_actors::link::{PeerId, Role as PeerRole};
use flowai_actors::messages::{Assign, AssignAnswer, Holding, Progress};
use flowai_coordinator::core::{Event, Renewal, ReplyId, State, Tenure};
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::clock::ProcessClock;
use super::node::{Heard as NodeHeard, NodeQuestion};
use super::statements::{Statement, StoreAnswer, StoreCall};
use super::world::{Occurrence, World};

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
    /// A node's link has gone.
    Unlinked {
        node: NodeId,
        generation: Generation,
    },
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
            | Self::Unlinked { .. }
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

    pub(in crate::check) fn epoch(&self) -> Option<Epoch> {
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
    pub(super) fn for_coordinator(&mut self, index: usize, after_ms: u64, heard: Heard) {
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
            Heard::Unlinked { node, generation } => {
                self.lead(index, Event::NodeDown { node, generation });
            }
            Heard::Dialled { from } => self.dialled(index, from),
            Heard::Given { ask, answer } => self.given(index, ask, answer),
            Heard::GiveAgain { epoch, giving } => {
                if self.coordinators[index].epoch() == Some(epoch) {
                    self.give(index, giving);
                }
            }
        }
    }
}
