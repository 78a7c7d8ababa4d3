//! The free nodes, found by what they have loaded and by what they could run.

use std::collections::{BTreeMap, BTreeSet};

use flowai_actors::clock::Monotonic;

use super::groups::GroupIx;
use super::names::ModelIx;
use super::nodes::{Node, NodeIx};

/// Longest idle first: what it holds was used least recently.
type ByIdleness = BTreeSet<(Monotonic, NodeIx)>;

#[derive(Debug, Clone, Default)]
pub(super) struct Free {
    by_group: BTreeMap<GroupIx, ByIdleness>,
    by_model: BTreeMap<ModelIx, ByIdleness>,
    /// How each is filed.
    filed: BTreeMap<NodeIx, (Monotonic, GroupIx, Option<ModelIx>)>,
}

impl Free {
    pub(super) fn is_empty(&self) -> bool {
        self.filed.is_empty()
    }

    /// Files the node as it is now.
    pub(super) fn update(&mut self, ix: NodeIx, node: Option<&Node>) {
        if let Some((since, group, model)) = self.filed.remove(&ix) {
            take(&mut self.by_group, group, (since, ix));
            if let Some(model) = model {
                take(&mut self.by_model, model, (since, ix));
            }
        }
        let Some(node) = node.filter(|node| node.is_free()) else {
            return;
        };
        let key = (node.idle_since, ix);
        self.filed
            .insert(ix, (node.idle_since, node.group, node.model));
        self.by_group.entry(node.group).or_default().insert(key);
        if let Some(model) = node.model {
            self.by_model.entry(model).or_default().insert(key);
        }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupIx> {
        self.by_group.keys().copied()
    }

    pub(super) fn with_model(&self, model: ModelIx) -> impl Iterator<Item = NodeIx> {
        self.by_model
            .get(&model)
            .into_iter()
            .flatten()
            .map(|(_, ix)| *ix)
    }

    pub(super) fn of_group(&self, group: GroupIx) -> impl Iterator<Item = NodeIx> {
        self.by_group
            .get(&group)
            .into_iter()
            .flatten()
            .map(|(_, ix)| *ix)
    }
}

fn take<K: Ord>(sets: &mut BTreeMap<K, ByIdleness>, key: K, entry: (Monotonic, NodeIx)) {
    if let Some(set) = sets.get_mut(&key) {
        set.remove(&entry);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}
