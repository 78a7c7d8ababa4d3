//! The nodes, as far as work is given to them.

use std::collections::{BTreeSet, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, JobId, NodeId};

use super::durations::Cold;
use super::event::{Drain, Readiness};
use super::groups::GroupIx;
use super::jobs::{AdapterKey, JobIx};
use super::names::ModelIx;

/// A node's name. It stays, so that a job knows where it failed when the node has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeIx(u32);

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) generation: Generation,
    pub(super) group: GroupIx,
    pub(super) lease_until: Monotonic,
    pub(super) running: Option<Running>,
    pub(super) drain: Drain,
    pub(super) readiness: Readiness,
    /// Jobs in a row that it did not take.
    pub(super) not_taken: u32,
    /// Before then it is in doubt, whatever it says.
    pub(super) doubted_until: Monotonic,
    /// Loaded.
    pub(super) model: Option<ModelIx>,
    pub(super) fused: BTreeSet<AdapterKey>,
    pub(super) near: BTreeSet<AdapterKey>,
    /// Whose start it was stopped for.
    pub(super) reserved: Option<JobId>,
    /// Since when it has nothing to do.
    pub(super) idle_since: Monotonic,
}

/// What a node works on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) job: JobIx,
    pub(super) attempt: Attempt,
    pub(super) since: Monotonic,
    /// GPU-seconds that its owner was charged at the start.
    pub(super) charged: f64,
    /// Seconds from `since` to the end, as predicted.
    pub(super) expected_s: f64,
    /// GPU-seconds of the whole job on this node, as predicted, without loads.
    pub(super) whole_s: f64,
    /// It began here with the first step: what it takes says what such jobs take.
    pub(super) is_whole: bool,
    /// Of what is expected, loads.
    pub(super) load_s: f64,
    /// What had to be brought when it began: by its end the node has all of it.
    pub(super) cold: Cold,
    pub(super) progress: Option<Progress>,
    /// Seconds that all steps would take at the quickest pace that it had here.
    pub(super) quickest_s: Option<f64>,
    /// Some of its steps here were slow, by its node's fault.
    pub(super) was_slow: bool,
    /// It was told to stop.
    pub(super) is_stopping: bool,
    /// For its node is slow.
    pub(super) is_leaving: bool,
}

/// How far an attempt has come, as its node tells. It may have begun with a checkpoint, or under an earlier leader: only what
/// is between two words was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    first: Word,
    /// From which the present pace is taken.
    mark: Word,
    newest: Word,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    /// Steps done, of all.
    done: f64,
    at: Monotonic,
}

/// Fewer of the steps say little of the others.
const SEEN_MIN: f64 = 0.05;

impl Progress {
    /// Seconds from the newest word to the end. `whole_s`: of the whole job, as predicted.
    fn left_s(&self, whole_s: f64) -> f64 {
        let seen = self.newest.done - self.first.done;
        let left = 1.0 - self.newest.done;
        if seen < SEEN_MIN {
            return whole_s * left;
        }
        self.newest.at.since(self.first.at).as_secs_f64() * left / seen
    }
}

impl Running {
    /// Seconds until it ends, as far as its progress and its prediction tell: none when that is over.
    pub(super) fn left_s(&self, now: Monotonic) -> f64 {
        self.ahead_s(now).max(0.0)
    }

    /// Whether it ends within so many seconds. Of one that should have ended as long ago nobody knows: by its progress, which
    /// says nothing of what comes after the last step, and by its prediction, which counts that.
    pub(super) fn ends_within(&self, seconds: f64, now: Monotonic) -> bool {
        let ahead_s = self.ahead_s(now);
        let predicted_s = self.expected_s - now.since(self.since).as_secs_f64();
        ahead_s <= seconds && ahead_s.max(predicted_s) >= -seconds
    }

    /// Seconds until it ends as predicted, negative since then.
    fn ahead_s(&self, now: Monotonic) -> f64 {
        let ran_s = |since| now.since(since).as_secs_f64();
        match &self.progress {
            Some(progress) => progress.left_s(self.whole_s) - ran_s(progress.newest.at),
            None => self.expected_s - ran_s(self.since),
        }
    }

    /// So many of all steps are done. `done`: 0 to 1.
    pub(super) fn came_to(&mut self, done: f64, at: Monotonic) {
        let newest = Word { done, at };
        let (first, mark) = self
            .progress
            .map_or((newest, newest), |progress| (progress.first, progress.mark));
        self.progress = Some(Progress {
            first,
            mark,
            newest,
        });
    }

    /// How much is done as far as its node told, 0 to 1.
    pub(super) fn done(&self) -> f64 {
        self.progress.map_or(0.0, |progress| progress.newest.done)
    }

    /// Seconds that all steps would take at the pace of the newest ones, once these are at least such a part of all and took so long.
    /// Each step counts in one such pace.
    pub(super) fn pace_s(&mut self, part_min: f64, ms_min: u64) -> Option<f64> {
        let progress = self.progress.as_mut()?;
        let (from, to) = (progress.mark, progress.newest);
        let (part, took) = (to.done - from.done, to.at.since(from.at));
        // Sums of parts are not exact.
        if part < 0.999 * part_min || took.as_millis() < u128::from(ms_min) {
            return None;
        }
        progress.mark = to;
        Some(took.as_secs_f64() / part)
    }
}

impl Node {
    /// Whether it may be given a job, once it is free: what only it can run keeps its place in the line while it is in doubt.
    pub(super) fn takes_work(&self) -> bool {
        !self.is_draining()
    }

    /// Whether it gets no other job, whoever wanted that.
    pub(super) fn is_draining(&self) -> bool {
        self.drain != Drain::Off || self.readiness == Readiness::Closing
    }

    pub(super) fn is_free(&self) -> bool {
        self.running.is_none() && self.takes_work() && self.readiness == Readiness::Ready
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    names: Vec<NodeId>,
    live: Vec<Option<Node>>,
    by_name: HashMap<NodeId, NodeIx>,
}

impl Nodes {
    pub(super) fn named(&mut self, name: &NodeId) -> NodeIx {
        if let Some(ix) = self.find(name) {
            return ix;
        }
        let ix = NodeIx(self.names.len() as u32);
        self.names.push(name.clone());
        self.live.push(None);
        self.by_name.insert(name.clone(), ix);
        ix
    }

    pub(super) fn find(&self, name: &NodeId) -> Option<NodeIx> {
        self.by_name.get(name).copied()
    }

    /// # Panics
    /// For a number that [`Nodes::named`] did not give.
    pub(super) fn name(&self, ix: NodeIx) -> &NodeId {
        &self.names[ix.0 as usize]
    }

    pub(super) fn get(&self, ix: NodeIx) -> Option<&Node> {
        self.live.get(ix.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, ix: NodeIx) -> Option<&mut Node> {
        self.live.get_mut(ix.0 as usize)?.as_mut()
    }

    pub(super) fn by_name(&self, name: &NodeId) -> Option<&Node> {
        self.get(self.find(name)?)
    }

    pub(super) fn insert(&mut self, ix: NodeIx, node: Node) {
        if let Some(slot) = self.live.get_mut(ix.0 as usize) {
            *slot = Some(node);
        }
    }

    pub(super) fn remove(&mut self, ix: NodeIx) -> Option<Node> {
        self.live.get_mut(ix.0 as usize)?.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeIx, &Node)> {
        let numbered = self.live.iter().zip(0..);
        numbered.filter_map(|(slot, ix)| Some((NodeIx(ix), slot.as_ref()?)))
    }
}
