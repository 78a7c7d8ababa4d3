//! Nodes that are alike: what one of them can run, so can the others, as far as is known.

use std::collections::{BTreeMap, BTreeSet};

use super::memory::Memory;
use super::names::{ClassIx, ModelIx};
use super::needs::{KindIx, Needs};
use super::nodes::NodeIx;

/// Nodes that offer the same models with the same memory on the same device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupIx(pub(super) u32);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    models: BTreeSet<ModelIx>,
    /// To a thirty-second of the next power of two: machines alike differ by what their firmware keeps.
    memory_bytes: u64,
    class: ClassIx,
}

impl GroupKey {
    pub(super) fn of(models: BTreeSet<ModelIx>, memory_bytes: u64, class: ClassIx) -> Self {
        let unit = (memory_bytes.checked_next_power_of_two().unwrap_or(1 << 63) / 32).max(1);
        Self {
            models,
            memory_bytes: memory_bytes.saturating_add(unit / 2) / unit * unit,
            class,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    models: BTreeSet<ModelIx>,
    pub(super) class: ClassIx,
    /// Live ones that take work.
    pub(super) nodes: BTreeSet<NodeIx>,
    /// By clip model.
    pub(super) memory: BTreeMap<ModelIx, Memory>,
    /// By kind: whether its nodes can run such jobs, as far as is known of all of them. Each decision asks for all kinds.
    pub(super) fits: Vec<bool>,
}

impl Group {
    /// Nodes of it that take work.
    pub(super) fn live(&self) -> u32 {
        self.nodes.len() as u32
    }

    pub(super) fn new(models: BTreeSet<ModelIx>, class: ClassIx) -> Self {
        Self {
            models,
            class,
            nodes: BTreeSet::new(),
            memory: BTreeMap::new(),
            fits: Vec::new(),
        }
    }

    /// `kinds`: what each needs, in the order of their numbers.
    pub(super) fn compare<'a>(&mut self, kinds: impl Iterator<Item = &'a Needs>) {
        self.fits = kinds.map(|needs| self.has_what_is_needed(needs)).collect();
    }

    pub(super) fn offers(&self, needs: &Needs) -> bool {
        needs.models().all(|model| self.models.contains(&model))
    }

    pub(super) fn fits(&self, ix: KindIx) -> bool {
        self.fits.get(ix.0 as usize).copied().unwrap_or(false)
    }

    pub(super) fn has_what_is_needed(&self, needs: &Needs) -> bool {
        let memory = self.memory.get(&needs.model);
        self.offers(needs) && memory.is_none_or(|memory| !memory.is_short(needs.size))
    }

    pub(super) fn fits_on(&self, ix: KindIx, needs: &Needs, node: NodeIx) -> bool {
        let memory = self.memory.get(&needs.model);
        let is_short = |memory: &Memory| memory.short_nodes(needs.size).any(|short| short == node);
        self.fits(ix) && !memory.is_some_and(is_short)
    }

    /// Nodes of it that take work and can run such jobs.
    pub(super) fn fitting(&self, needs: &Needs) -> u32 {
        if !self.has_what_is_needed(needs) {
            return 0;
        }
        let memory = self.memory.get(&needs.model).into_iter();
        let short = memory.flat_map(|memory| memory.short_nodes(needs.size));
        let short = short.filter(|node| self.nodes.contains(node)).count();
        self.live() - short as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_apart_to_a_few_percent() {
        let bytes =
            |memory_bytes| GroupKey::of(BTreeSet::new(), memory_bytes, ClassIx(0)).memory_bytes;
        let gib = 1 << 30;
        for about in [4_096, 100 << 20] {
            assert_eq!(bytes(16 * gib - about), 16 * gib);
            assert_eq!(bytes(16 * gib + about), 16 * gib);
        }
        for (one, other) in [
            (8 * gib, 16 * gib),
            (40 * gib, 48 * gib),
            (15 * gib, 16 * gib),
        ] {
            assert!(bytes(one) < bytes(other));
        }
        assert_eq!(bytes(0), 0);
        assert!(bytes(u64::MAX) > bytes(u64::MAX / 4));
    }
}
