//! What operators and autoscalers watch.

use std::collections::BTreeMap;

use flowai_actors::state::Tier;

use super::forecast::Range;
use super::kinds::ClassIx;
use super::line::WaitsFor;
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
#[derive(Debug, Clone, PartialEq)]
pub struct ClassFigures {
    /// Those that take work, free or not.
    pub nodes: u32,
    /// Of them, those without a job.
    pub idle: u32,
    /// GPU-seconds of all waiting jobs that could run here, as this class would take for them.
    pub backlog_s: f64,
    /// Until a job that came now would start, by tier.
    pub wait: [Option<Range>; Tier::ALL.len()],
}

impl Scheduler {
    /// Looks at every lane: for once in some seconds.
    pub fn figures(&self) -> Figures {
        let first = self.first_lane();
        let mut waiting = BTreeMap::new();
        for (_, lane) in self.lanes.iter() {
            let head = lane.jobs.front().and_then(|job| self.jobs.get(*job));
            let why = head.and_then(|job| Some((job, self.waits_for(job, first)?)));
            if let Some((job, why)) = why {
                *waiting.entry((job.tier, why.code())).or_insert(0) += lane.jobs.len() as u64;
            }
        }
        for job in self
            .children
            .values()
            .flatten()
            .filter_map(|job| self.jobs.get(*job))
        {
            *waiting
                .entry((job.tier, WaitsFor::OtherJob.code()))
                .or_insert(0) += 1;
        }
        Figures {
            waiting,
            running: Tier::ALL.map(|tier| self.load(tier).1),
            classes: self.class_figures(),
            forced_starts: self.forced_starts.forced(),
            preemptions: self.preemptions,
            inside_p90: self.inside_p90(),
        }
    }

    fn class_figures(&self) -> BTreeMap<String, ClassFigures> {
        let mut nodes: BTreeMap<ClassIx, (u32, u32)> = BTreeMap::new();
        for (_, node) in self.nodes.iter().filter(|(_, node)| node.takes_work()) {
            if let Some(group) = self.kinds.get_group(node.group) {
                let (all, idle) = nodes.entry(group.class).or_default();
                *all += 1;
                *idle += u32::from(node.running.is_none());
            }
        }
        let figures = nodes.into_iter().map(|(class, (nodes, idle))| {
            let name = self.kinds.class_name(class).to_owned();
            let wait = Tier::ALL.map(|tier| self.predicted_wait(tier, &name));
            let backlog_s = self.backlog_s(class);
            (
                name,
                ClassFigures {
                    nodes,
                    idle,
                    backlog_s,
                    wait,
                },
            )
        });
        figures.collect()
    }

    fn backlog_s(&self, class: ClassIx) -> f64 {
        let of_class = |ix: &super::kinds::GroupIx| {
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
