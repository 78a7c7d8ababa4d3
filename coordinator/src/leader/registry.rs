//! The nodes that this term has heard of, for operators and for what an assignment needs to know.

use std::collections::BTreeMap;
use std::ops::Bound;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Epoch, Generation, JobId, ModelId, NodeId, Sha256};
use flowai_actors::limits::MESSAGE_BYTES_MAX;
use flowai_actors::messages::{AdapterTiers, AttemptRef, Beat, KeptAdapters, NodeView, Register};

use super::event::{ModelFiles, ReplyId};
use crate::scheduler::Scheduler;

/// A node that was silent for so long is no longer shown.
const SHOWN_MS: u64 = 600_000;
/// Hashes of adapters that a view names of each memory.
const VIEWED_ADAPTERS_MAX: usize = 8;
/// Of the nodes in one message, beside which the queues are small.
const VIEWED_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

#[derive(Debug)]
struct Entry {
    register: Register,
    /// Of the question that it came with.
    reply: ReplyId,
    /// Of the newest beat.
    seq: u64,
    held_adapters: Vec<Sha256>,
    adapters: AdapterTiers,
    /// For which state of the line a next job was looked for last, and which one the node was told of.
    foretold: Option<(u64, Option<JobId>)>,
    heard_at: Monotonic,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    nodes: BTreeMap<NodeId, Entry>,
}

impl Registry {
    /// Whether a later question of this process was admitted before this one.
    pub(super) fn has_overtaken(&self, register: &Register, reply: ReplyId) -> bool {
        let known = self.nodes.get(&register.node);
        known.is_some_and(|known| {
            known.register.generation == register.generation && reply < known.reply
        })
    }

    pub(super) fn registered(&mut self, register: Register, reply: ReplyId, now: Monotonic) {
        let entry = Entry {
            reply,
            seq: 0,
            held_adapters: Vec::new(),
            adapters: AdapterTiers::default(),
            foretold: None,
            heard_at: now,
            register,
        };
        self.nodes.insert(entry.register.node.clone(), entry);
    }

    /// The generation of the node that is known.
    pub(super) fn generation(&self, node: &NodeId) -> Option<Generation> {
        Some(self.nodes.get(node)?.register.generation)
    }

    /// `false` for a beat that a newer one has overtaken.
    pub(super) fn beat(&mut self, beat: Beat, now: Monotonic) -> bool {
        let Some(entry) = self.nodes.get_mut(&beat.node) else {
            return false;
        };
        if beat.seq <= entry.seq {
            return false;
        }
        entry.seq = beat.seq;
        entry.held_adapters = beat.held_adapters;
        entry.adapters = beat.adapters;
        entry.heard_at = now;
        true
    }

    /// What the node should be told of: the job that `next` finds when the line is another one than when it was asked last, and
    /// the job another one than the node was told of last.
    pub(super) fn foretell(
        &mut self,
        node: &NodeId,
        revision: u64,
        next: impl FnOnce() -> Option<JobId>,
    ) -> Option<JobId> {
        let entry = self.nodes.get_mut(node)?;
        let told = match entry.foretold {
            Some((looked_at, _)) if looked_at == revision => return None,
            Some((_, told)) => told,
            None => None,
        };
        let next = next();
        entry.foretold = Some((revision, next.or(told)));
        next.filter(|_| next != told)
    }

    /// What the node has under this model's name.
    pub(super) fn model(&self, node: &NodeId, model: &ModelId) -> Option<ModelFiles> {
        let models = &self.nodes.get(node)?.register.models;
        let offer = models.iter().find(|offer| offer.id == *model)?;
        Some(ModelFiles {
            model: offer.id.clone(),
            sha256: offer.sha256,
        })
    }

    /// What operators see of the nodes behind `after`, as many as fit into a message, and the last of them where more follow. What
    /// a node was given is of the scheduler: its own word of that is as old as its last beat.
    pub(super) fn views(
        &self,
        after: Option<&NodeId>,
        now: Monotonic,
        epoch: Epoch,
        scheduler: &Scheduler,
    ) -> (Vec<NodeView>, Option<NodeId>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut views, mut bytes) = (Vec::<NodeView>::new(), 0);
        for entry in self
            .nodes
            .range((from, Bound::Unbounded))
            .map(|(_, entry)| entry)
        {
            let view = entry.view(now, epoch, scheduler);
            bytes += serde_json::to_vec(&view).map_or(0, |json| json.len());
            if bytes > VIEWED_BYTES_MAX
                && let Some(last) = views.last()
            {
                let last = last.node.clone();
                return (views, Some(last));
            }
            views.push(view);
        }
        (views, None)
    }

    pub(super) fn forget_silent(&mut self, now: Monotonic) {
        self.nodes
            .retain(|_, entry| now < entry.heard_at.plus_ms(SHOWN_MS));
    }
}

impl Entry {
    fn view(&self, now: Monotonic, epoch: Epoch, scheduler: &Scheduler) -> NodeView {
        let register = &self.register;
        let node = &register.node;
        let running = scheduler.running_on(node).map(|(job, attempt)| AttemptRef {
            job,
            attempt,
            epoch,
        });
        NodeView {
            node: node.clone(),
            generation: register.generation,
            device: register.device.clone(),
            device_class: register.device_class.clone(),
            memory_bytes: register.memory_bytes,
            version: register.version.clone(),
            models: register
                .models
                .iter()
                .map(|offer| offer.id.clone())
                .collect(),
            refused_models: register.refused_models.clone(),
            held_adapters: newest(&self.held_adapters),
            held_adapters_count: u32::try_from(self.held_adapters.len()).ok(),
            adapters: viewed(&self.adapters),
            running,
            is_draining: scheduler.is_draining(node),
            distrusted_models: scheduler.distrusted_on(node),
            slowness: scheduler.slowness(node),
            silent_ms: now.since(self.heard_at).as_millis() as u64,
        }
    }
}

fn newest(adapters: &[Sha256]) -> Vec<Sha256> {
    adapters.iter().take(VIEWED_ADAPTERS_MAX).copied().collect()
}

fn viewed(tiers: &AdapterTiers) -> AdapterTiers {
    let shortened = |tier: &KeptAdapters| KeptAdapters {
        adapters: newest(&tier.adapters),
        usage: tier.usage,
    };
    AdapterTiers {
        fused: tiers.fused.clone(),
        device: tiers.device.as_ref().map(shortened),
        host: shortened(&tiers.host),
        disk: tiers.disk,
    }
}
