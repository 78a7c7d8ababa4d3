//! What operators want of nodes, as the leader's state knows it.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::NodeId;
use flowai_actors::messages::Holding;
use flowai_store::members::{Drain, Standing, Standings};

use super::event::Effect;
use super::state::{State, end_of};
use crate::scheduler::{AttemptEnd, Event as Heard};

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
        let was_revoked = |node: &NodeId| before.get(node).is_some_and(|was| was.is_revoked);
        let revoked = self.members.iter();
        let revoked = revoked.filter(|(node, is)| is.is_revoked && !was_revoked(node));
        let revoked: Vec<NodeId> = revoked.map(|(node, _)| node.clone()).collect();
        for (node, how) in changed {
            tracing::info!(%node, drain = how.as_str(), "operators want something else of a node");
            self.step(now, Heard::NodeDraining { node, how }, effects);
        }
        for node in revoked {
            self.take_back(now, &node, effects);
        }
    }

    /// Whatever this node says counts no more: what it has goes on elsewhere at once, and that is nobody's death.
    pub(super) fn take_back(&mut self, now: Monotonic, node: &NodeId, effects: &mut Vec<Effect>) {
        let is_its_own = |held: &&Holding| held.node == *node;
        let held = self.held.values().map(|held| &held.holding);
        let taken: Vec<Holding> = held.filter(is_its_own).cloned().collect();
        for held in taken {
            // What it delivered before is looked at in the object store, and needs no word of its own.
            if !self.ending.contains_key(&(held.at.job, held.at.attempt)) {
                let end = AttemptEnd::Stopped { checkpoint: None };
                self.step(now, end_of(&held, end), effects);
            }
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
        if !self.is_operators(&node) {
            self.step(now, Heard::NodeDraining { node, how }, effects);
        }
    }

    /// Whether an operator wants something of this node.
    pub(super) fn is_operators(&self, node: &NodeId) -> bool {
        wanted(self.members.get(node)) != Drain::Off
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
