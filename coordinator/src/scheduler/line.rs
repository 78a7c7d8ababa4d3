//! The line as those who wait in it see it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use flowai_actors::ids::{JobId, UserId};

use super::claims::{Stream, stream};
use super::forecast::Range;
use super::jobs::{Arrival, Job, JobIx, Place as Where};
use super::kinds::Unfit;
use super::lanes::LaneIx;
use super::shares::{UserIx, Virtual};
use super::state::Scheduler;

/// A waiting job's place. A forecast: arrivals and ends of other jobs change it.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub user: UserId,
    pub job: JobId,
    /// 1 starts next.
    pub position: u32,
    pub waits_for: WaitsFor,
    /// `None` when no live node can run it.
    pub starts_in: Option<Range>,
}

/// What has to happen before a job can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// A node becomes free: nobody is ahead.
    Node,
    /// A node that has its model loaded becomes free: sooner than another could load it.
    WarmNode,
    /// Other jobs are served first, its owner's own perhaps.
    Others,
    /// One of its owner's running jobs ends, or nobody else needs the node.
    OwnJobs,
    /// A node that offers the model registers.
    Model,
    /// A node that offers both the model and the keyframe model registers.
    BothModels,
    /// A node with more memory registers: those with the model have too little for this size.
    Memory,
    /// The pause after a failure passes, or another node registers; or the pause after what it is made from could not be read.
    Retry,
    /// The pause of a node that failed such jobs passes, or another node registers.
    PausedNode,
    /// The job that it starts after is done.
    OtherJob,
}

impl WaitsFor {
    /// Every [`WaitsFor::code`].
    pub const CODES: [&'static str; 8] = [
        "capacity",
        "loading",
        "share",
        "your_cap",
        "no_node",
        "no_memory",
        "retrying",
        "dependency",
    ];

    /// As metrics and programs name it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Node => "capacity",
            Self::WarmNode => "loading",
            Self::Others => "share",
            Self::OwnJobs => "your_cap",
            Self::Model | Self::BothModels => "no_node",
            Self::Memory => "no_memory",
            Self::Retry | Self::PausedNode => "retrying",
            Self::OtherJob => "dependency",
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "waits for a free node",
            Self::WarmNode => {
                "waits for a node that has its model loaded: one is free sooner than another could load it"
            }
            Self::Others => "waits for its turn: other jobs are ahead",
            Self::OwnJobs => {
                "waits for one of your running jobs to end: you run as many as your plan allows"
            }
            Self::Model => "waits for a node that offers the model",
            Self::BothModels => {
                "waits for a node that offers both the model and the keyframe model"
            }
            Self::Memory => {
                "waits for a node with more memory: those with the model have too little for this size"
            }
            Self::Retry => "waits a moment before it is tried again",
            Self::PausedNode => {
                "waits for a node: those that could run it failed such jobs, and are tried again after a pause"
            }
            Self::OtherJob => "waits for the job that it starts after",
        }
    }
}

impl From<Unfit> for WaitsFor {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Model => Self::Model,
            Unfit::BothModels => Self::BothModels,
            Unfit::Memory => Self::Memory,
        }
    }
}

impl Scheduler {
    /// The first `most` places, in the order in which the jobs would start were each served as soon as its turn comes.
    pub fn line(&self, most: usize) -> Vec<Place> {
        let mut turns = Turns::new(self);
        let mut firsts = HashMap::new();
        let mut line = Vec::new();
        while line.len() < most {
            let Some((job, position)) = turns.next() else {
                break;
            };
            let kind = self.jobs.get(job).map(|job| job.kind);
            let first = kind.and_then(|kind| {
                let first = || self.first_lane(kind);
                *firsts.entry(kind).or_insert_with(first)
            });
            line.extend(self.place_of(job, position, first));
        }
        line
    }

    /// What a waiting job waits for; `None` for one that runs or is not known.
    pub fn why(&self, id: JobId) -> Option<WaitsFor> {
        let job = self.jobs.by_id(id)?;
        self.waits_for(job, self.first_lane(job.kind))
    }

    fn place_of(&self, ix: JobIx, position: u32, first: Option<LaneIx>) -> Option<Place> {
        let job = self.jobs.get(ix)?;
        Some(Place {
            user: self.shares.get(job.owner)?.id,
            job: job.id,
            position,
            waits_for: self.waits_for(job, first)?,
            starts_in: self.starts_in(job.id),
        })
    }

    /// `first`: as [`Self::first_lane`] gives it of the job's kind, which looks at all kinds.
    pub(super) fn waits_for(&self, job: &Job, first: Option<LaneIx>) -> Option<WaitsFor> {
        let (ix, lane) = match job.place {
            Where::Running(_) => return None,
            Where::Parked => return Some(WaitsFor::OtherJob),
            Where::Lane(ix) => (ix, self.lanes.get(ix)?),
        };
        let unfit = self.kinds.unfit(job.kind).map(WaitsFor::from);
        let is_pausing = || {
            let back_at = job.story.as_ref().map(|story| story.back_at);
            let may_not_go_back = back_at.is_some_and(|back_at| back_at > self.now);
            job.paused_s(self.now) > 0.0 || may_not_go_back && !self.has_untried_node(job)
        };
        let has_free = || {
            let mut groups = self.free.groups();
            groups.any(|group| self.kinds.fits(job.kind, group))
        };
        // One of its owner's own is served before it.
        let is_behind = || {
            let head = lane.jobs.front().and_then(|head| self.jobs.get(*head));
            head.is_some_and(|head| head.id != job.id)
        };
        Some(match unfit {
            Some(unfit) => unfit,
            None if lane.entry.is_some_and(|entry| entry.is_capped) => WaitsFor::OwnJobs,
            None if is_pausing() => WaitsFor::Retry,
            None if self.all_pause(job.kind) => WaitsFor::PausedNode,
            None if is_behind() => WaitsFor::Others,
            None if self.now < job.hold_until && has_free() => WaitsFor::WarmNode,
            None if first != Some(ix) => WaitsFor::Others,
            None => WaitsFor::Node,
        })
    }
}

/// Turns to come, were every claim served as soon as its turn comes: each costs the logarithm of the kinds and of the users
/// that had a turn.
struct Turns<'a> {
    scheduler: &'a Scheduler,
    /// The claims of each kind as they are filed, of which the next stands in `coming`.
    filed: Vec<Stream<'a>>,
    coming: BinaryHeap<Reverse<Turn>>,
    /// What each user is served before, virtual seconds, and in which turn last.
    served: HashMap<UserIx, (f64, u64)>,
    turns: u32,
}

/// A lane's job, in the order of turns: what no node can run comes last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    is_unfit: bool,
    finish: Virtual,
    served: u64,
    arrival: Arrival,
    lane: LaneIx,
    /// In the lane.
    at: usize,
    /// Whose next lane may stand once this one had its turn.
    kind: Option<usize>,
}

impl<'a> Turns<'a> {
    fn new(scheduler: &'a Scheduler) -> Self {
        let mut turns = Self {
            scheduler,
            filed: Vec::new(),
            coming: BinaryHeap::new(),
            served: HashMap::new(),
            turns: 0,
        };
        for (_, kind) in scheduler.kinds.waiting() {
            for claims in [&kind.open, &kind.capped] {
                turns.filed.push(stream(claims));
                turns.stand_next(turns.filed.len() - 1);
            }
        }
        turns
    }

    fn stand_next(&mut self, kind: usize) {
        let claim = self.filed.get_mut(kind).and_then(Iterator::next);
        let turn = claim.and_then(|claim| {
            let lane = self.scheduler.lanes.get(claim.lane)?;
            Some(Turn {
                is_unfit: !self.scheduler.kinds.is_offered(lane.kind),
                finish: claim.finish,
                served: claim.served,
                arrival: claim.arrival,
                lane: claim.lane,
                at: 0,
                kind: Some(kind),
            })
        });
        self.coming.extend(turn.map(Reverse));
    }

    /// How the job stands after the turns so far.
    fn turn(&self, ix: LaneIx, at: usize) -> Option<Turn> {
        let scheduler = self.scheduler;
        let lane = scheduler.lanes.get(ix)?;
        let job = scheduler.jobs.get(*lane.jobs.get(at)?)?;
        let user = scheduler.shares.get(lane.user)?;
        // The first stands as it is filed, whatever was learned since of lengths.
        let length = match at {
            0 => lane.entry?.length,
            _ => scheduler.length_of(job),
        };
        let (served_s, served) = self
            .served
            .get(&lane.user)
            .copied()
            .unwrap_or((0.0, user.served));
        Some(Turn {
            is_unfit: !scheduler.kinds.is_offered(lane.kind),
            finish: Virtual(user.tag.0 + served_s + length),
            served,
            arrival: job.arrival(),
            lane: ix,
            at,
            kind: None,
        })
    }

    fn next(&mut self) -> Option<(JobIx, u32)> {
        loop {
            let Reverse(before) = self.coming.pop()?;
            let (ix, at) = (before.lane, before.at);
            if let Some(kind) = before.kind {
                self.stand_next(kind);
            }
            let turn = self.turn(ix, at)?;
            // Another lane of the user was served meanwhile, or before: this one stands further back.
            if (turn.is_unfit, turn.finish, turn.served)
                > (before.is_unfit, before.finish, before.served)
            {
                self.coming.push(Reverse(turn));
                continue;
            }
            let lane = self.scheduler.lanes.get(ix)?;
            let job_ix = *lane.jobs.get(at)?;
            let length = self.scheduler.length_of(self.scheduler.jobs.get(job_ix)?);
            self.turns += 1;
            let (served_s, served) = self.served.entry(lane.user).or_default();
            *served_s += length;
            *served = u64::MAX / 2 + u64::from(self.turns);
            let next = self.turn(ix, at + 1);
            self.coming.extend(next.map(Reverse));
            return Some((job_ix, self.turns));
        }
    }
}
