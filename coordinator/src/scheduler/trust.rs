//! What is thought of a node, by the model of its jobs: a bad driver fails everything, a damaged file one model only.
//!
//! A failure says nothing yet: the job may be at fault. It is the node's when the same job then succeeds elsewhere, and the job's
//! when it fails on two nodes until nobody tries it any more. Until that is known, three different jobs that fail in a row make a node suspect, and it is given one only now and then. Proven three
//! times, it is given none for half an hour; then one job tries it, and each failure doubles the time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{JobId, ModelId, NodeId};
use flowai_actors::limits::{
    NODE_FAULTS_MAX, NODE_FAULTS_WINDOW_MS, NODE_QUARANTINE_MS, NODE_QUARANTINE_MS_MAX,
    NODE_SUSPECT_FAILURES, NODE_SUSPECT_MS,
};

use super::names::ModelIx;
use super::needs::Needs;
use super::nodes::NodeIx;
use super::state::Scheduler;

/// How a node stands with one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Trusted,
    /// One job from then on, and longer pauses while it goes on failing.
    Suspect {
        from: Monotonic,
        pause_ms: u64,
    },
    /// None before then.
    Quarantined {
        until: Monotonic,
        pause_ms: u64,
    },
}

/// What another node rendered failed here.
#[derive(Debug, Clone, Copy)]
struct Proof {
    at: Monotonic,
    /// The attempt was lost. A link that breaks now and then says as much as a device that takes its process along: it counts only
    /// while nothing is rendered.
    was_lost: bool,
}

#[derive(Debug, Clone)]
struct Record {
    /// Different jobs that failed here since the last success.
    in_a_row: BTreeSet<JobId>,
    /// When failures were proven to be the node's.
    proven: VecDeque<Proof>,
    standing: Standing,
}

/// Of nodes that failed something. A node without a record is trusted.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust {
    records: BTreeMap<(NodeIx, ModelIx), Record>,
}

impl Trust {
    /// Whether the node may be given a job of the model.
    fn allows(&self, node: NodeIx, model: ModelIx, now: Monotonic) -> bool {
        if self.records.is_empty() {
            return true;
        }
        let of_model = self.records.get(&(node, model));
        let waits = |record: &Record| match record.standing {
            Standing::Trusted => false,
            Standing::Suspect { from: at, .. } | Standing::Quarantined { until: at, .. } => {
                now < at
            }
        };
        !of_model.is_some_and(waits) && self.quarantines(node, now) < 2
    }

    /// Nodes that something is held against.
    pub(super) fn suspects(&self) -> impl Iterator<Item = NodeIx> {
        self.records.keys().map(|(node, _)| *node)
    }

    /// Whether it is given jobs of all models, as far as it failed some.
    pub(super) fn is_trusted(&self, node: NodeIx, now: Monotonic) -> bool {
        let mut of_node = self.of_node(node);
        of_node.all(|(model, _)| self.allows(node, model, now))
    }

    /// Models of which the node is given nothing: two of them are the node's own fault, and it is given nothing at all.
    fn quarantines(&self, node: NodeIx, now: Monotonic) -> usize {
        let of_node = self.of_node(node);
        of_node.filter(|(_, record)| matches!(record.standing, Standing::Quarantined { until, .. } if now < until)).count()
    }

    fn of_node(&self, node: NodeIx) -> impl Iterator<Item = (ModelIx, &Record)> {
        let from = self.records.range((node, ModelIx::FIRST)..);
        from.take_while(move |((of, _), _)| *of == node)
            .map(|((_, model), record)| (*model, record))
    }

    fn record(&mut self, node: NodeIx, model: ModelIx) -> &mut Record {
        self.records.entry((node, model)).or_insert_with(|| Record {
            in_a_row: BTreeSet::new(),
            proven: VecDeque::new(),
            standing: Standing::Trusted,
        })
    }

    /// A job failed there in a way that may pass elsewhere.
    pub(super) fn failed(&mut self, node: NodeIx, model: ModelIx, job: JobId, now: Monotonic) {
        let record = self.record(node, model);
        record.in_a_row.insert(job);
        record.standing = match record.standing {
            // Given to it before.
            before @ Standing::Quarantined { until, .. } if now < until => before,
            // The job that was to show whether it is well again.
            Standing::Quarantined { pause_ms, .. } => {
                let pause_ms = (2 * pause_ms).min(NODE_QUARANTINE_MS_MAX);
                Standing::Quarantined {
                    until: now.plus_ms(pause_ms),
                    pause_ms,
                }
            }
            Standing::Suspect { pause_ms, .. } => {
                let pause_ms = (2 * pause_ms).min(NODE_QUARANTINE_MS);
                Standing::Suspect {
                    from: now.plus_ms(pause_ms),
                    pause_ms,
                }
            }
            Standing::Trusted if record.in_a_row.len() >= NODE_SUSPECT_FAILURES => {
                Standing::Suspect {
                    from: now.plus_ms(NODE_SUSPECT_MS),
                    pause_ms: NODE_SUSPECT_MS,
                }
            }
            Standing::Trusted => Standing::Trusted,
        };
    }

    /// An attempt was lost there. That says nothing of a node that is trusted, and all of one that is tried.
    pub(super) fn lost(&mut self, node: NodeIx, model: ModelIx, job: JobId, now: Monotonic) {
        let record = self.records.get(&(node, model));
        if record.is_some_and(|record| record.standing != Standing::Trusted) {
            self.failed(node, model, job, now);
        }
    }

    /// A job that had failed there, or was lost there, was rendered elsewhere.
    pub(super) fn proven(&mut self, node: NodeIx, model: ModelIx, was_lost: bool, now: Monotonic) {
        let record = self.record(node, model);
        record.proven.push_back(Proof { at: now, was_lost });
        while record
            .proven
            .front()
            .is_some_and(|proof| proof.at.plus_ms(NODE_FAULTS_WINDOW_MS) <= now)
        {
            record.proven.pop_front();
        }
        let is_quarantined = matches!(record.standing, Standing::Quarantined { .. });
        if record.proven.len() >= NODE_FAULTS_MAX && !is_quarantined {
            record.standing = Standing::Quarantined {
                until: now.plus_ms(NODE_QUARANTINE_MS),
                pause_ms: NODE_QUARANTINE_MS,
            };
        }
    }

    /// A job that failed there failed elsewhere too, until nobody would try it any more: it was the job.
    pub(super) fn exonerated(&mut self, node: NodeIx, model: ModelIx, job: JobId) {
        let Some(record) = self.records.get_mut(&(node, model)) else {
            return;
        };
        record.in_a_row.remove(&job);
        let is_suspect = matches!(record.standing, Standing::Suspect { .. });
        if is_suspect && record.in_a_row.len() < NODE_SUSPECT_FAILURES {
            record.standing = Standing::Trusted;
        }
    }

    /// It rendered a job: it is suspected no more, and after a quarantine all is forgiven. What was proven otherwise counts until it
    /// is old: a node that fails every other job is not well.
    pub(super) fn succeeded(&mut self, node: NodeIx, model: ModelIx, now: Monotonic) {
        let Some(record) = self.records.get_mut(&(node, model)) else {
            return;
        };
        match record.standing {
            // Given to it before.
            Standing::Quarantined { until, .. } if now < until => return,
            Standing::Quarantined { .. } => record.proven.clear(),
            Standing::Trusted | Standing::Suspect { .. } => {
                record.proven.retain(|proof| {
                    !proof.was_lost && now < proof.at.plus_ms(NODE_FAULTS_WINDOW_MS)
                });
            }
        }
        record.standing = Standing::Trusted;
        record.in_a_row.clear();
        if record.proven.is_empty() {
            self.records.remove(&(node, model));
        }
    }

    /// When a pause is over that is not yet.
    pub(super) fn next_due(&self, now: Monotonic) -> Option<Monotonic> {
        let ends =
            self.records
                .values()
                .filter_map(|record| match record.standing {
                    Standing::Trusted => None,
                    Standing::Suspect { from: at, .. }
                    | Standing::Quarantined { until: at, .. } => Some(at),
                });
        ends.filter(|at| now < *at).min()
    }
}

impl Scheduler {
    /// Whether the node may be given a job of the kind, as far as its failures tell.
    pub(super) fn trusts(&self, node: NodeIx, needs: Needs) -> bool {
        needs
            .models()
            .all(|model| self.trust.allows(node, model, self.now))
    }

    /// After failures were counted. Who was kept from one node for the sake of another that is trusted no more may go there now, and
    /// whose pause ends in this very step is given work at once.
    pub(super) fn trust_changed(&mut self) {
        self.trust_due = self.trust.next_due(self.now);
        if let Some(at) = self.trust_due {
            self.wake_by(at);
        }
        let waiting = self.kinds.waiting().map(|(ix, _)| ix);
        self.dirty_kinds.extend(waiting);
    }

    /// Models of which the node is given nothing for now, after failures there.
    pub fn distrusted_on(&self, node: &NodeId) -> Vec<ModelId> {
        let Some(ix) = self.nodes.find(node) else {
            return Vec::new();
        };
        let records = self
            .trust
            .of_node(ix)
            .filter(|(model, _)| !self.trust.allows(ix, *model, self.now));
        records
            .filter_map(|(model, _)| self.kinds.model_name(model).cloned())
            .collect()
    }
}
