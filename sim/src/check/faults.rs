//! Faults begin and end.

use flowai_actors::limits::LINK_SILENCE_MS;

use super::node::Heard as NodeHeard;
use super::plan::Fault;
use super::world::{Occurrence, World};

impl World {
    pub(super) fn fault_begins(&mut self, fault: Fault) {
        self.note_disturbance(fault);
        let for_ms = match fault {
            Fault::KillCoordinator { index, for_ms } => {
                if self.coordinators[index].is_alive {
                    self.kill_coordinator(index);
                }
                for_ms
            }
            Fault::FreezeCoordinator { index, for_ms } => {
                self.coordinators[index].is_frozen = self.coordinators[index].is_alive;
                self.after(LINK_SILENCE_MS, Occurrence::Silence);
                for_ms
            }
            Fault::CutFromStore { index, for_ms } => {
                self.cuts.store[index] += 1;
                for_ms
            }
            Fault::StoreRefuses { for_ms } => {
                self.cuts.store_refuses += 1;
                for_ms
            }
            Fault::ObjectsRefuse { for_ms } => {
                self.cuts.objects_refuse += 1;
                for_ms
            }
            Fault::KillNode { node, for_ms } => {
                let process = self.slots[node].process;
                if self.processes[process].is_alive {
                    self.kill_node(process);
                }
                for_ms
            }
            Fault::FreezeNode { node, for_ms } => {
                self.freeze_node(self.slots[node].process);
                self.after(LINK_SILENCE_MS, Occurrence::Silence);
                for_ms
            }
            Fault::ReplaceFrozenNode { node, for_ms } => {
                let process = self.slots[node].process;
                self.freeze_node(process);
                self.start_node(node);
                let old = Occurrence::Thaws { process };
                return self.after(for_ms, old);
            }
            Fault::CloseNode { node } => {
                let process = self.slots[node].process;
                return self.for_node(process, 0, NodeHeard::Close);
            }
            Fault::CutNode {
                node,
                up,
                down,
                for_ms,
            } => {
                *self.cuts.up.entry(node).or_insert(0) += u32::from(up);
                *self.cuts.down.entry(node).or_insert(0) += u32::from(down);
                self.after(LINK_SILENCE_MS, Occurrence::Silence);
                for_ms
            }
            Fault::HoldRows { owner, for_ms } => {
                *self.cuts.held.entry(owner).or_insert(0) += 1;
                for_ms
            }
            Fault::ResetLink { node } => return self.break_link(self.slots[node].process),
        };
        self.after(for_ms, Occurrence::Ends(fault));
    }

    /// Whoever is to miss a node may have something else to do.
    fn note_disturbance(&mut self, fault: Fault) {
        match fault {
            Fault::KillCoordinator { .. }
            | Fault::FreezeCoordinator { .. }
            | Fault::CutFromStore { .. }
            | Fault::StoreRefuses { .. }
            | Fault::HoldRows { .. } => self.calm_since = self.now,
            Fault::ObjectsRefuse { .. }
            | Fault::KillNode { .. }
            | Fault::FreezeNode { .. }
            | Fault::ReplaceFrozenNode { .. }
            | Fault::CloseNode { .. }
            | Fault::CutNode { .. }
            | Fault::ResetLink { .. } => {}
        }
    }

    pub(super) fn fault_ends(&mut self, fault: Fault) {
        self.note_disturbance(fault);
        match fault {
            Fault::KillCoordinator { index, .. } => {
                if !self.coordinators[index].is_alive {
                    self.start_coordinator(index);
                }
            }
            Fault::FreezeCoordinator { index, .. } => self.thaw_coordinator(index),
            Fault::CutFromStore { index, .. } => self.cuts.store[index] -= 1,
            Fault::StoreRefuses { .. } => self.cuts.store_refuses -= 1,
            Fault::ObjectsRefuse { .. } => self.cuts.objects_refuse -= 1,
            Fault::KillNode { node, .. } => {
                if !self.processes[self.slots[node].process].is_alive {
                    self.start_node(node);
                }
            }
            Fault::FreezeNode { node, .. } => self.thaw_node(self.slots[node].process),
            Fault::CutNode { node, up, down, .. } => {
                if let Some(cut) = self.cuts.up.get_mut(&node) {
                    *cut -= u32::from(up);
                }
                if let Some(cut) = self.cuts.down.get_mut(&node) {
                    *cut -= u32::from(down);
                }
            }
            Fault::HoldRows { owner, .. } => {
                if let Some(held) = self.cuts.held.get_mut(&owner) {
                    *held -= 1;
                }
            }
            // Over in a moment, or with the process.
            Fault::ReplaceFrozenNode { .. } | Fault::CloseNode { .. } | Fault::ResetLink { .. } => {
            }
        }
    }

    /// Links over which nothing was heard for too long are given up by both ends.
    pub(super) fn give_up_silent_links(&mut self) {
        for slot in 0..self.slots.len() {
            let process = self.slots[slot].process;
            let is_cut = |cuts: &std::collections::BTreeMap<usize, u32>| {
                cuts.get(&slot).is_some_and(|cut| *cut > 0)
            };
            let is_silent = self.processes[process].is_frozen
                || is_cut(&self.cuts.up)
                || is_cut(&self.cuts.down)
                || self.links_to_a_frozen_one(process);
            if is_silent {
                self.break_link(process);
            }
        }
    }
}
