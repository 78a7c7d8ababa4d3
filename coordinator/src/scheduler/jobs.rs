//! The unfinished jobs. A million of them wait in memory, so that what few of them need lies apart ([`Story`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, JobId, Sha256};
use flowai_actors::state::{Class, Tier};

use super::bounds::Bound;
use super::event::Checkpoint;
use super::lanes::LaneIx;
use super::names::ModelIx;
use super::needs::KindIx;
use super::nodes::NodeIx;
use super::shares::UserIx;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct JobIx(u32);

impl JobIx {
    pub(super) const FIRST: Self = Self(0);
}

/// How far somebody has looked through the unfinished jobs.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    at: usize,
    /// Jobs that came later are not looked at.
    seq_max: u64,
}

/// The first eight bytes of an adapter's hash: enough to say where it probably is at hand. Never more is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AdapterKey(u64);

impl From<&Sha256> for AdapterKey {
    fn from(sha256: &Sha256) -> Self {
        let bytes = sha256.as_bytes();
        let head = [
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ];
        Self(u64::from_be_bytes(head))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) owner: UserIx,
    pub(super) kind: KindIx,
    pub(super) tier: Tier,
    pub(super) class: Class,
    /// Baseline GPU-seconds of all of it, whatever an attempt has done.
    pub(super) cost: f64,
    /// Of the clip.
    pub(super) steps: u32,
    pub(super) adapters: Box<[AdapterKey]>,
    /// When it was accepted, or when what it starts after was done.
    pub(super) queued_at: Monotonic,
    /// The same, moved on by what it has run since: its start bound counts from there. A new leader does not know what ran before it, and
    /// takes it for waiting.
    pub(super) waits_since: Monotonic,
    /// In the order of arrival.
    pub(super) seq: u64,
    pub(super) attempt: Attempt,
    /// How often another job was given a node whose turn was this one's.
    pub(super) skips: u16,
    pub(super) place: Place,
    /// What its owner was told at first, seconds from `queued_at`.
    pub(super) quote: Option<Quote>,
    /// Until then it waits for a node that has its model loaded.
    pub(super) hold_until: Monotonic,
    pub(super) story: Option<Box<Story>>,
}

/// The forecast of a start when the job arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quote {
    pub(super) told: Told,
    /// Before calibration, seconds.
    pub(super) base_s: f32,
    pub(super) p90_s: f32,
}

/// What a job waits for by its forecast: those of each kind err in their own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// A node that has its model loaded, for so long at most.
    Hold,
    Turn,
}

impl Told {
    pub(super) const COUNT: usize = Self::Turn as usize + 1;
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Until the job that it starts after is done.
    Parked,
    Lane(LaneIx),
    Running(Holder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) node: NodeIx,
    pub(super) generation: Generation,
    /// For an attempt whose node is not known here yet, when that node's silence becomes its loss.
    pub(super) lost_at: Option<Monotonic>,
}

/// What only a job has that did not go straight from the line to its clip.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    /// Attempts that failed or were lost.
    pub(super) failures: u32,
    pub(super) failed_on: BTreeSet<NodeIx>,
    /// Of them, what the failure may say against the node: that it renders no jobs of this model, or nothing. A new leader does not know it.
    pub(super) speaks_of: BTreeMap<NodeIx, Option<ModelIx>>,
    /// A node called it the job's own fault. A new leader does not know it.
    pub(super) is_called_wrong: bool,
    /// Attempts that were lost because their node died.
    pub(super) node_deaths: u32,
    pub(super) died_on: BTreeSet<NodeIx>,
    /// From when it may go back to a node where it failed. A new leader does not know it: taking over is pause enough.
    pub(super) back_at: Monotonic,
    /// Attempts in a row for which it could not be read. A new leader does not know it.
    pub(super) not_read: u32,
    /// From when it is given to a node again, where it could not be read.
    pub(super) given_from: Option<Monotonic>,
    pub(super) cancel_asked: bool,
    /// Its node was told to stop it and to keep what it has.
    pub(super) stop_asked: bool,
    /// What the next attempt goes on from.
    pub(super) resume: Option<Checkpoint>,
    /// The newest that the present attempt left on its way.
    pub(super) left: Option<Checkpoint>,
    pub(super) preemptions: u32,
    pub(super) preempted_at: Option<Monotonic>,
    /// Times that it left a slow node. A new leader does not know it.
    pub(super) moves: u32,
    pub(super) after: Option<JobId>,
}

/// Since when a job waits; of those since the same time, in which order they came here. That alone would not do: a new leader reads jobs in
/// the order of their ids, which bear the clocks of the apis that took them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival(Monotonic, u64);

impl Story {
    /// Whether the job may go to any node of its kind, like all others.
    fn is_plain(&self) -> bool {
        self.failed_on.is_empty() && self.resume.is_none() && self.given_from.is_none()
    }
}

impl Job {
    /// Seconds until it is given to a node again, where it could not be read.
    pub(super) fn paused_s(&self, now: Monotonic) -> f64 {
        let from = self.story.as_ref().and_then(|story| story.given_from);
        from.map_or(0.0, |from| from.since(now).as_secs_f64())
    }

    pub(super) fn holder(&self) -> Option<&Holder> {
        match &self.place {
            Place::Running(holder) => Some(holder),
            Place::Parked | Place::Lane(_) => None,
        }
    }

    pub(super) fn cancel_asked(&self) -> bool {
        self.story.as_ref().is_some_and(|story| story.cancel_asked)
    }

    pub(super) fn story(&mut self) -> &mut Story {
        self.story.get_or_insert_default()
    }

    /// Baseline GPU-seconds of what is left after the checkpoint that its next attempt goes on from.
    pub(super) fn cost_left(&self) -> f64 {
        let resume = self.story.as_ref().and_then(|story| story.resume.as_ref());
        let done = resume.map_or(0.0, |checkpoint| {
            f64::from(checkpoint.step) / f64::from(self.steps.max(1))
        });
        self.cost * (1.0 - done).max(0.0)
    }

    /// Baseline GPU-seconds of an attempt on a device of the class: another one than the checkpoint's begins anew.
    pub(super) fn cost_on(&self, device_class: &str) -> f64 {
        let resume = self.story.as_ref().and_then(|story| story.resume.as_ref());
        match resume {
            Some(checkpoint) if checkpoint.device_class == device_class => self.cost_left(),
            Some(_) | None => self.cost,
        }
    }

    /// Whether nodes have to be asked one by one if it may go to them.
    pub(super) fn is_choosy(&self) -> bool {
        self.story.as_ref().is_some_and(|story| !story.is_plain())
    }

    pub(super) fn arrival(&self) -> Arrival {
        Arrival(self.queued_at, self.seq)
    }

    /// Its tier's start bound.
    pub(super) fn bound(&self) -> Option<Bound> {
        Bound::of(self.tier, self.class, self.waits_since)
    }
}

/// Jobs by a short number each, which is used again when its job is gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Jobs {
    slots: Vec<Option<Job>>,
    free: Vec<JobIx>,
    by_id: HashMap<JobId, JobIx>,
    arrivals: u64,
}

impl Jobs {
    pub(super) fn find(&self, id: JobId) -> Option<JobIx> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, ix: JobIx) -> Option<&Job> {
        self.slots.get(ix.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, ix: JobIx) -> Option<&mut Job> {
        self.slots.get_mut(ix.0 as usize)?.as_mut()
    }

    pub(super) fn by_id(&self, id: JobId) -> Option<&Job> {
        self.get(self.find(id)?)
    }

    pub(super) fn insert(&mut self, mut job: Job) -> JobIx {
        self.arrivals += 1;
        job.seq = self.arrivals;
        let ix = self.free.pop().unwrap_or(JobIx(self.slots.len() as u32));
        self.by_id.insert(job.id, ix);
        match self.slots.get_mut(ix.0 as usize) {
            Some(slot) => *slot = Some(job),
            None => self.slots.push(Some(job)),
        }
        ix
    }

    pub(super) fn remove(&mut self, ix: JobIx) -> Option<Job> {
        let job = self.slots.get_mut(ix.0 as usize)?.take()?;
        self.by_id.remove(&job.id);
        self.free.push(ix);
        Some(job)
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            at: 0,
            seq_max: self.arrivals,
        }
    }

    pub(super) fn part(
        &self,
        from: Cursor,
        most: usize,
    ) -> (impl Iterator<Item = JobId>, Option<Cursor>) {
        let end = (from.at + most).min(self.slots.len());
        let slots = self.slots.get(from.at..end).unwrap_or_default();
        let jobs = slots
            .iter()
            .flatten()
            .filter(move |job| job.seq <= from.seq_max);
        let next = (end < self.slots.len()).then_some(Cursor { at: end, ..from });
        (jobs.map(|job| job.id), next)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (JobIx, &Job)> {
        let numbered = self.slots.iter().zip(0..);
        numbered.filter_map(|(slot, ix)| Some((JobIx(ix), slot.as_ref()?)))
    }
}
