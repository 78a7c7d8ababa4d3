//! What operators want of nodes, as the leader's state knows it.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::NodeId;
use flowai_store::members::{Drain, Standing, Standings};

use super::event::Effect;
use super::state::State;
use crate::scheduler::Event as Heard;

impl State {
    /// What is wanted now in the place of what was wanted before. Nodes that are away are told when they come.
    pub(super) fn members_read(
        &mut self,
        now: Monotonic,
        standings: Standings,
        effects: &mut Vec<Effect>,
    ) {
        let before = std::mem::replace(&mut self.members, standings);
        let names: BTreeSet<&NodeId> = before.keys().chain(self.members.keys()).collect();
        let changed: Vec<(NodeId, Drain)> = names
            .into_iter()
            .map(|node| {
                (
                    node,
                    wanted(before.get(node)),
                    wanted(self.members.get(node)),
                )
            })
            .filter(|(_, was, is)| was != is)
            .map(|(node, _, is)| (node.clone(), is))
            .collect();
        for (node, how) in changed {
            tracing::info!(%node, drain = how.as_str(), "operators want something else of a node");
            self.step(now, Heard::NodeDraining { node, how }, effects);
        }
    }

    /// The autoscaler has a node drained, or takes that back. Where an operator wants something of the node, only that counts.
    pub(super) fn drain_wanted(
        &mut self,
        now: Monotonic,
        node: NodeId,
        how: Drain,
        effects: &mut Vec<Effect>,
    ) {
        if wanted(self.members.get(&node)) == Drain::Off {
            self.step(now, Heard::NodeDraining { node, how }, effects);
        }
    }

    /// Whether this node may say nothing any more, as far as the last look at the rows knows.
    pub(super) fn is_revoked(&self, node: &NodeId) -> bool {
        self.members
            .get(node)
            .is_some_and(|standing| standing.is_revoked)
    }
}

/// A revoked node is given nothing, and what it has goes on elsewhere.
fn wanted(standing: Option<&Standing>) -> Drain {
    match standing {
        Some(standing) if standing.is_revoked => Drain::Now,
        Some(standing) => standing.drain,
        None => Drain::Off,
    }
}
