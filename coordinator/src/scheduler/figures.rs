//! What operators and autoscalers watch.

use std::collections::{BTreeMap, BTreeSet};

use flowai_actors::state::Tier;

use super::forecast::Range;
use super::jobs::Place;
use super::lanes::{LaneIx, Tiers};
use super::line::WaitsFor;
use super::names::ClassIx;
use super::needs::KindIx;
use super::state::Scheduler;

/// The farm's queue in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Waiting jobs by what they wait for ([`WaitsFor::code`]), those behind another of the same user counted with it.
    pub waiting: BTreeMap<(Tier, &'static str), u64>,
    pub running: [u32; Tier::ALL.len()],
    /// Of each device class with a node that takes work.
    pub classes: BTreeMap<String, ClassFigures>,
    /// Starts that the start bound made.
    pub forced_starts: u64,
    /// Attempts that were stopped for others.
    pub preemptions: u64,
    /// Share of the jobs that started inside the promised p90; `None` before the first start.
    pub inside_p90: Option<f64>,
}

/// The nodes of one device class.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassFigures {
    /// Those that take work, free or not.
    pub nodes: u32,
    /// Of them, those without a job.
    pub idle: u32,
    /// Of all, those that are slow.
    pub slow: u32,
    /// Of all, those that are given no jobs of some model for now.
    pub distrusted: u32,
    /// GPU-seconds of all waiting jobs that could run here, as this class would take for them.
    pub backlog_s: f64,
    /// Until a job that came now would start, by tier.
    pub wait: [Option<Range>; Tier::ALL.len()],
}

#[derive(Debug, Default)]
struct Counts(BTreeMap<(Tier, &'static str), u64>);

impl Counts {
    fn add(&mut self, waits_for: WaitsFor, jobs: Tiers) {
        for tier in Tier::ALL {
            let count = self.0.entry((tier, waits_for.code())).or_default();
            *count += u64::from(jobs.of(tier));
        }
    }

    fn remove(&mut self, waits_for: WaitsFor, jobs: Tiers) {
        for tier in Tier::ALL {
            let count = self.0.entry((tier, waits_for.code())).or_default();
            *count -= u64::from(jobs.of(tier));
        }
    }
}

impl Scheduler {
    /// Looks at every node: for once in some seconds.
    pub fn figures(&self) -> Figures {
        Figures {
            waiting: self.waiting(),
            running: Tier::ALL.map(|tier| self.load(tier).1),
            classes: self.class_figures(),
            forced_starts: self.forced_starts.forced(),
            preemptions: self.preemptions,
            inside_p90: self.inside_p90(),
        }
    }

    fn waiting(&self) -> BTreeMap<(Tier, &'static str), u64> {
        let mut counts = Counts::default();
        let mut in_lanes = Tiers::default();
        for (ix, kind) in self.kinds.waiting() {
            for is_capped in [false, true] {
                let jobs = kind.waiting(is_capped);
                counts.add(self.waits_of_kind(ix, is_capped), jobs);
                in_lanes.add_all(jobs);
            }
        }
        // Of all open lanes that nodes can run, those that wait for something else than their turn.
        let kinds = self.kinds.waiting();
        let firsts: Vec<LaneIx> = kinds.filter_map(|(ix, _)| self.first_lane(ix)).collect();
        let pausing = self.pausing.iter().filter_map(|(_, ix)| self.jobs.get(*ix));
        let pausing = pausing.filter_map(|job| match job.place {
            Place::Lane(ix) => Some(ix),
            Place::Parked | Place::Running(_) => None,
        });
        for ix in pausing.chain(firsts).collect::<BTreeSet<_>>() {
            let Some(lane) = self.lanes.get(ix) else {
                continue;
            };
            let head = lane.jobs.front().and_then(|job| self.jobs.get(*job));
            let is_capped = lane.entry.is_some_and(|entry| entry.is_capped);
            if let Some(waits_for) =
                head.and_then(|job| self.waits_for(job, self.first_lane(job.kind)))
            {
                counts.remove(self.waits_of_kind(lane.kind, is_capped), lane.tiers);
                counts.add(waits_for, lane.tiers);
            }
        }
        let mut parked = Tiers::of_each(|tier| self.load(tier).0);
        parked.remove_all(in_lanes);
        counts.add(WaitsFor::OtherJob, parked);
        counts.0.retain(|_, count| *count > 0);
        counts.0
    }

    /// What most of these lanes' jobs wait for.
    fn waits_of_kind(&self, kind: KindIx, is_capped: bool) -> WaitsFor {
        match self.kinds.unfit(kind) {
            Some(unfit) => unfit.into(),
            None if is_capped => WaitsFor::OwnJobs,
            None if self.all_pause(kind) => WaitsFor::PausedNode,
            None => WaitsFor::Others,
        }
    }

    fn class_figures(&self) -> BTreeMap<String, ClassFigures> {
        let mut classes: BTreeMap<ClassIx, ClassFigures> = BTreeMap::new();
        for (ix, node) in self.nodes.iter().filter(|(_, node)| node.takes_work()) {
            if let Some(group) = self.kinds.get_group(node.group) {
                let figures = classes.entry(group.class).or_default();
                figures.nodes += 1;
                figures.idle += u32::from(node.running.is_none());
                figures.slow += u32::from(self.is_slow(ix));
                figures.distrusted += u32::from(!self.trust.is_trusted(ix, self.now));
            }
        }
        let figures = classes.into_iter().map(|(class, figures)| {
            let name = self.kinds.class_name(class).to_owned();
            let wait = Tier::ALL.map(|tier| self.predicted_wait(tier, &name));
            let backlog_s = self.backlog_s(class);
            let figures = ClassFigures {
                backlog_s,
                wait,
                ..figures
            };
            (name, figures)
        });
        figures.collect()
    }

    fn backlog_s(&self, class: ClassIx) -> f64 {
        let of_class = |ix: &super::groups::GroupIx| {
            let group = self.kinds.get_group(*ix);
            group.is_some_and(|group| group.class == class && group.live() > 0)
        };
        let groups: Vec<_> = self.kinds.groups().filter(of_class).collect();
        let could_run = self
            .kinds
            .waiting()
            .filter(|(ix, _)| groups.iter().any(|group| self.kinds.fits(*ix, *group)));
        let seconds = could_run
            .map(|(_, kind)| kind.backlog_s * self.durations.ratio(kind.needs, Some(class)));
        seconds.sum()
    }
}
