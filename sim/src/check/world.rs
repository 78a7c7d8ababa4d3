//! The world: one queue of what will happen, one time, one source of chance.
//!
//! Whatever a process does takes effect through this queue: a message arrives later, or twice, or never; a statement reaches the
//! database or not. A process that stands still hears nothing and hears everything when it goes on.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use flowai_actors::ids::{JobId, ModelId, Sha256, UserId};
use flowai_actors::state::JobState;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checks::{Broken, Check, Checks};
use super::coordinator::{Coordinator, Heard as CoordinatorHeard};
use super::node::{Heard as NodeHeard, Process, Slot};
use super::plan::{COORDINATORS, Fault, Kind, Plan};
use super::statements::StoreCall;
use super::store::{Moved, Store};
use super::trace::Trace;
use super::users::{ApiCall, Users};

/// Between two looks at everything.
const FULL_LOOK_EVERY: u64 = 2_000;
/// After the last job has ended, late words may still break something.
const AFTERMATH_MS: u64 = 15_000;

/// What will happen.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "most of what waits is of the larger kinds, and is moved once"
)]
pub(super) enum Occurrence {
    Coordinator {
        index: usize,
        process: u32,
        heard: CoordinatorHeard,
    },
    Node {
        process: usize,
        heard: NodeHeard,
    },
    /// A statement reaches the database.
    Store(StoreCall),
    Api(ApiCall),
    /// A user asks for something.
    Wish(usize),
    Begins(Fault),
    Ends(Fault),
    /// A supervisor starts a node's process.
    Starts {
        slot: usize,
    },
    /// An old process goes on beside its successor.
    Thaws {
        process: usize,
    },
    /// Links may have been silent for too long.
    Silence,
    Heals,
}

impl Occurrence {
    /// Its kind and where it happens, as numbers.
    fn place(&self) -> (u8, usize, u64) {
        match self {
            Self::Coordinator { index, process, .. } => (0, *index, u64::from(*process)),
            Self::Node { process, .. } => (1, *process, 0),
            Self::Store(call) => (2, call.index, u64::from(call.process)),
            Self::Api(_) => (3, 0, 0),
            Self::Wish(wish) => (4, *wish, 0),
            Self::Begins(_) => (5, 0, 0),
            Self::Ends(_) => (6, 0, 0),
            Self::Starts { slot } => (7, *slot, 0),
            Self::Thaws { process } => (8, *process, 0),
            Self::Silence => (9, 0, 0),
            Self::Heals => (10, 0, 0),
        }
    }

    /// For a reader; `None` for what goes on all the time.
    fn words(&self) -> Option<String> {
        match self {
            Self::Coordinator { index, heard, .. } => {
                heard.is_news().then(|| format!("c{index}: {heard:?}"))
            }
            Self::Node { process, heard } => heard
                .is_news()
                .then(|| format!("process {process}: {heard:?}")),
            // Rows that move are told by themselves.
            Self::Store(_) | Self::Api(_) | Self::Wish(_) | Self::Silence => None,
            Self::Begins(_)
            | Self::Ends(_)
            | Self::Starts { .. }
            | Self::Thaws { .. }
            | Self::Heals => Some(format!("{self:?}")),
        }
    }
}

struct Entry {
    at_ms: u64,
    /// What was said first happens first.
    turn: u64,
    what: Occurrence,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_ms, self.turn).cmp(&(other.at_ms, other.turn))
    }
}

/// Which ways are cut, and what does not answer.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// By node slot: words to a coordinator, and from one. A count, since faults overlap.
    pub(super) up: BTreeMap<usize, u32>,
    pub(super) down: BTreeMap<usize, u32>,
    pub(super) store: [u32; COORDINATORS],
    pub(super) store_refuses: u32,
    pub(super) objects_refuse: u32,
    /// Users whose rows somebody else has locked, and how many have.
    pub(super) held: BTreeMap<UserId, u32>,
}

impl Cuts {
    /// Whether nothing is cut, refused or held any more: what began before the world was healed may last beyond that.
    fn are_over(&self) -> bool {
        let counts = [&self.up, &self.down]
            .into_iter()
            .flat_map(BTreeMap::values);
        let counts = counts.chain(&self.store).chain(self.held.values());
        let counts = counts.chain([&self.store_refuses, &self.objects_refuse]);
        counts.sum::<u32>() == 0
    }
}

/// How one world ended.
#[derive(Debug)]
pub struct Outcome {
    pub broken: Option<Broken>,
    pub events: u64,
    pub simulated_ms: u64,
    pub jobs: u64,
    pub nodes: u64,
    /// Two runs of one seed have the same.
    pub hash: u64,
    /// The last of what happened, if it was wanted in words.
    pub lines: Vec<String>,
    /// It was cut short by the bound on its steps.
    pub is_cut: bool,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: StdRng,
    pub(super) plan: Plan,
    queue: BinaryHeap<Reverse<Entry>>,
    turns: u64,
    pub(super) steps: u64,
    pub(super) store: Store,
    /// Attempts whose files lie in the object store.
    pub(super) objects: BTreeSet<(JobId, u32)>,
    /// Checkpoints that lie there, by job, attempt and step.
    pub(super) checkpoints: BTreeSet<(JobId, u32, u32)>,
    pub(super) cuts: Cuts,
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) slots: Vec<Slot>,
    pub(super) processes: Vec<Process>,
    pub(super) users: Users,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) is_healed: bool,
    /// Since when one coordinator leads and nothing hinders it.
    pub(super) calm_since: u64,
    /// Running attempts on which nobody works, and since when they were found so.
    pub(super) unworked: BTreeMap<(JobId, u32), u64>,
    seen_epoch: u32,
    pub(super) model: (ModelId, Sha256),
    /// Numbers the questions to leaders.
    pub(super) turn_replies: u64,
}

impl World {
    /// Runs the world of a seed to its end, or for so many steps.
    pub(super) fn run(seed: u64, nodes: Option<usize>, steps_max: u64, trace: Trace) -> Outcome {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = Plan::of(seed, nodes, &mut rng);
        let mut world = Self::new(plan, rng, trace);
        world.begin();
        let is_cut = world.go_on(steps_max);
        if world.checks.broken().is_none() && !is_cut {
            world.look_at_end();
        }
        Outcome {
            broken: world.checks.broken().cloned(),
            events: world.steps,
            simulated_ms: world.now,
            jobs: world.store.rows().count() as u64,
            nodes: world.plan.nodes as u64,
            hash: world.trace.hash(),
            lines: world.trace.into_lines(),
            is_cut,
        }
    }

    fn new(plan: Plan, rng: StdRng, trace: Trace) -> Self {
        let model = ModelId::try_from("tiny".to_owned());
        let model = model.unwrap_or_else(|invalid| unreachable!("{invalid}"));
        Self {
            now: 0,
            rng,
            queue: BinaryHeap::new(),
            turns: 0,
            steps: 0,
            store: Store::default(),
            objects: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
            cuts: Cuts::default(),
            coordinators: Vec::new(),
            slots: Vec::new(),
            processes: Vec::new(),
            users: Users::new(&plan),
            checks: Checks::default(),
            trace,
            is_healed: false,
            calm_since: 0,
            unworked: BTreeMap::new(),
            seen_epoch: 0,
            turn_replies: 0,
            model: (model, Sha256::from_bytes([9; 32])),
            plan,
        }
    }

    fn begin(&mut self) {
        for index in 0..COORDINATORS {
            let clock = self.new_clock();
            self.coordinators.push(Coordinator::new(clock));
            self.start_coordinator(index);
        }
        for node in 0..self.plan.nodes {
            self.slots.push(Slot::new(node));
            self.start_node(node);
        }
        for wish in 0..self.plan.wishes.len() {
            self.at(self.plan.wishes[wish].at_ms, Occurrence::Wish(wish));
        }
        for (at_ms, fault) in self.plan.faults.clone() {
            self.at(at_ms, Occurrence::Begins(fault));
        }
        self.at(self.plan.heal_ms, Occurrence::Heals);
    }

    /// `true` when it was cut short.
    fn go_on(&mut self, steps_max: u64) -> bool {
        let mut quiet_since = None;
        while let Some(Reverse(entry)) = self.queue.pop() {
            if self.steps >= steps_max {
                return true;
            }
            self.now = entry.at_ms;
            self.steps += 1;
            self.happen(entry.what);
            if self.seen_epoch != self.store.leader.epoch {
                (self.seen_epoch, self.calm_since) = (self.store.leader.epoch, self.now);
            }
            self.check_moved();
            if self
                .steps
                .is_multiple_of(FULL_LOOK_EVERY.max(self.plan.wishes.len() as u64))
            {
                self.checks.look_at_all(&self.store);
                self.look_at_waits();
                self.look_at_work();
            }
            if self.checks.broken().is_some() {
                return false;
            }
            let is_quiet = self.is_healed
                && self.cuts.are_over()
                && self.users.have_all()
                && self.store.unfinished().len() == 0;
            quiet_since = if is_quiet {
                quiet_since.or(Some(self.now))
            } else {
                None
            };
            if quiet_since.is_some_and(|since| since + AFTERMATH_MS <= self.now) {
                return false;
            }
            if self.plan.kind == Kind::Overload && self.users.poorest_has_begun(&self.store) {
                return false;
            }
            if self.now >= self.plan.end_ms {
                return false;
            }
        }
        false
    }

    fn check_moved(&mut self) {
        let moved = self.store.take_moved();
        if moved.is_empty() {
            return;
        }
        for moved in &moved {
            self.note_moved(moved);
        }
        let objects = &self.objects;
        let is_uploaded = |job, attempt| objects.contains(&(job, attempt));
        self.checks.moved(&self.store, &moved, is_uploaded);
        for Moved { job, to, .. } in moved {
            self.users.moved(job, to);
            if self.plan.kind == Kind::Overload && to == JobState::Running {
                self.ask_again(job);
            }
        }
    }

    fn note_moved(&mut self, moved: &Moved) {
        let row = self.store.row(moved.job);
        let (attempt, epoch) = row.map_or((0, 0), |row| (row.attempt, row.epoch));
        let what = (
            moved.job.as_uuid().as_u128(),
            moved.to.as_str(),
            attempt,
            epoch,
        );
        self.trace.note(self.now, what, || {
            let node = row.and_then(|row| row.node.clone());
            let node = node.map_or(String::new(), |node| format!(" on {node}"));
            let from = moved.from.map_or("new", JobState::as_str);
            let by = moved
                .term
                .map_or("its owner".to_owned(), |term| format!("term {term}"));
            let to = moved.to.as_str();
            format!(
                "rows: {} {from} -> {to}, attempt {attempt}{node}, by {by}",
                moved.job
            )
        });
    }

    fn look_at_end(&mut self) {
        self.checks.look_at_all(&self.store);
        self.look_at_waits();
        if self.plan.kind == Kind::Overload {
            return;
        }
        let left = self.store.unfinished().next();
        let (store, checks) = (&self.store, &mut self.checks);
        checks.require(Check::EveryJobEnds, left.is_none(), || {
            let job = left.unwrap_or_else(|| unreachable!("one is left"));
            let state = store.row(job).map_or("gone", |row| row.state.as_str());
            let attempt = store.row(job).map_or(0, |row| row.attempt);
            format!("{job} is still {state} after {attempt} attempts, long after all was healed")
        });
        self.look_at_nodes_at_end();
        self.users.look_at_end(&self.store, &mut self.checks);
        if matches!(self.plan.kind, Kind::BadNode(_)) {
            self.look_at_bad_node();
        }
        self.compare_memory();
    }

    pub(super) fn at(&mut self, at_ms: u64, what: Occurrence) {
        self.turns += 1;
        self.queue.push(Reverse(Entry {
            at_ms: at_ms.max(self.now),
            turn: self.turns,
            what,
        }));
    }

    pub(super) fn after(&mut self, ms: u64, what: Occurrence) {
        self.at(self.now + ms, what);
    }

    /// Whether something of this chance (in a thousand) happens. Nothing does any more once the world is healed.
    pub(super) fn chance(&mut self, per_mille: u32) -> bool {
        !self.is_healed && per_mille > 0 && self.rng.random_range(0..1_000) < per_mille
    }

    /// How long a message takes.
    pub(super) fn delay(&mut self) -> u64 {
        self.rng.random_range(1..=self.plan.delay_ms_max)
    }

    fn happen(&mut self, what: Occurrence) {
        self.trace.note(self.now, what.place(), || what.words());
        match what {
            Occurrence::Coordinator {
                index,
                process,
                heard,
            } => self.coordinator_hears(index, process, heard),
            Occurrence::Node { process, heard } => self.node_hears(process, heard),
            Occurrence::Store(call) => self.statement(call),
            Occurrence::Api(call) => self.api(call),
            Occurrence::Wish(wish) => self.wish(wish),
            Occurrence::Begins(_) if self.is_healed => {}
            Occurrence::Begins(fault) => self.fault_begins(fault),
            Occurrence::Ends(fault) => self.fault_ends(fault),
            Occurrence::Starts { slot } => {
                if !self.processes[self.slots[slot].process].is_alive {
                    self.start_node(slot);
                }
            }
            Occurrence::Thaws { process } => self.thaw_node(process),
            Occurrence::Silence => self.give_up_silent_links(),
            Occurrence::Heals => self.is_healed = true,
        }
    }
}
