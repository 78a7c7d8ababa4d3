//! Kinds of jobs: those of one kind can run on the same nodes, so that a node is compared with kinds and not with jobs.

use std::collections::{BTreeSet, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::ModelId;
use flowai_actors::limits::{MEMORY_CEILING_ALONE_MS, MEMORY_CEILING_MS};

use super::bounds::Bounds;
use super::groups::{Group, GroupIx, GroupKey};
use super::lanes::{Claim, Tiers};
use super::names::{ClassIx, ModelIx, Names};
use super::needs::{KindIx, Needs};
use super::nodes::NodeIx;

#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) needs: Needs,
    /// Lanes whose user may start one more, as they are filed: [`Claims`](super::claims::Claims) has them in their order.
    pub(super) open: BTreeSet<Claim>,
    /// Lanes whose user runs as many as its tier's cap: served where nobody else can use the node.
    pub(super) capped: BTreeSet<Claim>,
    /// Jobs in the open lanes, and in the capped ones.
    waiting: [Tiers; 2],
    /// Of the open lanes' first jobs.
    pub(super) bounds: Bounds,
    /// Baseline GPU-seconds of all jobs in its lanes.
    pub(super) backlog_s: f64,
    /// Nodes that can run it and take work, free or not.
    pub(super) fitting: u32,
}

impl Kind {
    pub(super) fn claims(&mut self, is_capped: bool) -> &mut BTreeSet<Claim> {
        if is_capped {
            &mut self.capped
        } else {
            &mut self.open
        }
    }

    /// Jobs in the capped lanes, or in the others.
    pub(super) fn waiting(&self, is_capped: bool) -> Tiers {
        self.waiting[usize::from(is_capped)]
    }

    pub(super) fn waiting_mut(&mut self, is_capped: bool) -> &mut Tiers {
        &mut self.waiting[usize::from(is_capped)]
    }
}

/// Why no live node can run a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    Model,
    BothModels,
    Memory,
}

/// Kinds whose nodes are others than before.
#[derive(Debug, Clone, Default)]
pub(super) struct Refitted {
    /// More nodes can run these, or fewer: a job that was refused a node for the sake of another may go there now.
    pub(super) changed: Vec<KindIx>,
    /// Of them, those that some node can run only now, or none any more.
    pub(super) flipped: Vec<KindIx>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Kinds {
    models: Names<ModelId>,
    classes: Names<String>,
    kinds: Vec<Kind>,
    by_needs: HashMap<Needs, KindIx>,
    groups: Vec<Group>,
    by_key: HashMap<GroupKey, GroupIx>,
    /// Those with a lane, in the order of their numbers.
    active: BTreeSet<KindIx>,
}

impl Kinds {
    pub(super) fn model(&mut self, name: &ModelId) -> ModelIx {
        ModelIx(self.models.of(name))
    }

    pub(super) fn model_name(&self, ix: ModelIx) -> Option<&ModelId> {
        self.models.get(ix.0)
    }

    pub(super) fn class(&mut self, name: &str) -> ClassIx {
        ClassIx(self.classes.of(&name.to_owned()))
    }

    pub(super) fn class_name(&self, ix: ClassIx) -> &str {
        self.classes.get(ix.0).map_or("", String::as_str)
    }

    pub(super) fn kind(&mut self, needs: Needs) -> KindIx {
        if let Some(ix) = self.by_needs.get(&needs) {
            return *ix;
        }
        let ix = KindIx(self.kinds.len() as u32);
        for group in &mut self.groups {
            let fits = group.has_what_is_needed(&needs);
            group.fits.push(fits);
        }
        let fitting = self.groups.iter().map(|group| group.fitting(&needs));
        self.kinds.push(Kind {
            needs,
            open: BTreeSet::new(),
            capped: BTreeSet::new(),
            waiting: Default::default(),
            bounds: Bounds::default(),
            backlog_s: 0.0,
            fitting: fitting.sum(),
        });
        self.by_needs.insert(needs, ix);
        ix
    }

    pub(super) fn get(&self, ix: KindIx) -> Option<&Kind> {
        self.kinds.get(ix.0 as usize)
    }

    pub(super) fn get_mut(&mut self, ix: KindIx) -> Option<&mut Kind> {
        self.kinds.get_mut(ix.0 as usize)
    }

    /// Whether some live node can run it.
    pub(super) fn is_offered(&self, ix: KindIx) -> bool {
        self.get(ix).is_some_and(|kind| kind.fitting > 0)
    }

    /// A lane of the kind was filled or emptied.
    pub(super) fn note_lanes(&mut self, ix: KindIx) {
        match self
            .get(ix)
            .is_some_and(|kind| kind.open.is_empty() && kind.capped.is_empty())
        {
            true => self.active.remove(&ix),
            false => self.active.insert(ix),
        };
    }

    /// Kinds with waiting jobs that nodes of the group can run.
    pub(super) fn waiting_for(&self, group: GroupIx) -> impl Iterator<Item = (KindIx, &Kind)> {
        let group = self.groups.get(group.0 as usize);
        let active = self
            .active
            .iter()
            .filter_map(|ix| Some((*ix, self.get(*ix)?)));
        active.filter(move |(ix, _)| group.is_some_and(|group| group.fits(*ix)))
    }

    /// All that this term has heard of.
    pub(super) fn all(&self) -> impl Iterator<Item = (KindIx, &Kind)> {
        let numbered = self.kinds.iter().zip(0..);
        numbered.map(|(kind, ix)| (KindIx(ix), kind))
    }

    /// Kinds with waiting jobs.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (KindIx, &Kind)> {
        self.active
            .iter()
            .filter_map(|ix| Some((*ix, self.get(*ix)?)))
    }

    pub(super) fn group(&mut self, models: &[ModelId], memory_bytes: u64, class: &str) -> GroupIx {
        let class = self.class(class);
        let models: BTreeSet<ModelIx> = models.iter().map(|model| self.model(model)).collect();
        let key = GroupKey::of(models.clone(), memory_bytes, class);
        let next = GroupIx(self.groups.len() as u32);
        let ix = *self.by_key.entry(key).or_insert(next);
        if ix == next {
            let mut group = Group::new(models, class);
            group.compare(self.kinds.iter().map(|kind| &kind.needs));
            self.groups.push(group);
        }
        ix
    }

    pub(super) fn get_group(&self, ix: GroupIx) -> Option<&Group> {
        self.groups.get(ix.0 as usize)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupIx> {
        (0..self.groups.len() as u32).map(GroupIx)
    }

    /// Whether nodes of the group can run the kind, as far as is known of all of them.
    pub(super) fn fits(&self, kind: KindIx, group: GroupIx) -> bool {
        let group = self.get_group(group);
        group.is_some_and(|group| group.fits(kind))
    }

    /// Whether this node of the group can.
    pub(super) fn fits_on(&self, kind: KindIx, group: GroupIx, node: NodeIx) -> bool {
        let (known, group) = (self.get(kind), self.get_group(group));
        known
            .zip(group)
            .is_some_and(|(known, group)| group.fits_on(kind, &known.needs, node))
    }

    /// Nodes of the group that take work and can run the kind.
    pub(super) fn fitting(&self, kind: KindIx, group: GroupIx) -> u32 {
        let (kind, group) = (self.get(kind), self.get_group(group));
        kind.zip(group)
            .map_or(0, |(kind, group)| group.fitting(&kind.needs))
    }

    /// The node took work with one group, and takes it with another now; `None` where it takes none.
    pub(super) fn move_node(
        &mut self,
        node: NodeIx,
        from: Option<GroupIx>,
        to: Option<GroupIx>,
    ) -> Refitted {
        if from == to {
            return Refitted::default();
        }
        if let Some(group) = from.and_then(|from| self.groups.get_mut(from.0 as usize)) {
            group.nodes.remove(&node);
        }
        if let Some(group) = to.and_then(|to| self.groups.get_mut(to.0 as usize)) {
            group.nodes.insert(node);
        }
        let mut refitted = self.recount();
        // As many nodes as before may be other ones: a checkpoint of the class that was left holds its job back no more.
        if let (Some(from), Some(to)) = (from, to) {
            let is_in_both = |kind: &KindIx| self.fits(*kind, from) && self.fits(*kind, to);
            let kinds = (0..self.kinds.len() as u32).map(KindIx);
            refitted.changed.extend(kinds.filter(is_in_both));
        }
        refitted
    }

    /// A job of the kind found too little memory on the node: nothing as large goes there for a while.
    pub(super) fn ran_out_of_memory(
        &mut self,
        kind: KindIx,
        group: GroupIx,
        node: NodeIx,
        now: Monotonic,
    ) -> Refitted {
        let Some(needs) = self.get(kind).map(|kind| kind.needs) else {
            return Refitted::default();
        };
        let believe = |groups: &mut Vec<Group>, for_ms: u64| {
            if let Some(group) = groups.get_mut(group.0 as usize) {
                let memory = group.memory.entry(needs.model).or_default();
                memory.ran_out(node, needs.size, now.plus_ms(for_ms));
            }
        };
        believe(&mut self.groups, MEMORY_CEILING_MS);
        // Where it is too large for all nodes, a passing shortage must not stop them all for long.
        if self.groups.iter().all(|group| group.fitting(&needs) == 0) {
            believe(&mut self.groups, MEMORY_CEILING_ALONE_MS);
        }
        self.learned()
    }

    /// A job of the kind was rendered on the node: nodes alike have the memory for it.
    pub(super) fn had_memory(
        &mut self,
        kind: KindIx,
        group: GroupIx,
        node: NodeIx,
        now: Monotonic,
    ) -> Refitted {
        let needs = self.get(kind).map(|kind| kind.needs);
        let group = self.groups.get_mut(group.0 as usize);
        let Some((needs, group)) = needs.zip(group) else {
            return Refitted::default();
        };
        let memory = group.memory.entry(needs.model).or_default();
        if memory.rendered(node, needs.size, now.plus_ms(MEMORY_CEILING_MS)) {
            self.learned()
        } else {
            Refitted::default()
        }
    }

    /// Forgets what was learned of memory long ago.
    pub(super) fn expire_memory(&mut self, now: Monotonic) -> Refitted {
        let mut has_expired = false;
        for memory in self
            .groups
            .iter_mut()
            .flat_map(|group| group.memory.values_mut())
        {
            has_expired |= memory.expire(now);
        }
        if has_expired {
            self.learned()
        } else {
            Refitted::default()
        }
    }

    /// Something of some group's memory.
    fn learned(&mut self) -> Refitted {
        for group in &mut self.groups {
            group.compare(self.kinds.iter().map(|kind| &kind.needs));
        }
        self.recount()
    }

    fn recount(&mut self) -> Refitted {
        let groups = &self.groups;
        let mut refitted = Refitted::default();
        for (kind, ix) in self.kinds.iter_mut().zip(0..) {
            let fitting = groups.iter().map(|group| group.fitting(&kind.needs)).sum();
            let before = std::mem::replace(&mut kind.fitting, fitting);
            if before != fitting {
                refitted.changed.push(KindIx(ix));
            }
            if (before > 0) != (fitting > 0) {
                refitted.flipped.push(KindIx(ix));
            }
        }
        refitted
    }

    /// Why no live node can run it; `None` when one can.
    pub(super) fn unfit(&self, ix: KindIx) -> Option<Unfit> {
        let kind = self.get(ix)?;
        if kind.fitting > 0 {
            return None;
        }
        let is_offered = |group: &Group| group.live() > 0 && group.offers(&kind.needs);
        Some(if self.groups.iter().any(is_offered) {
            Unfit::Memory
        } else if kind.needs.keyframe.is_some() {
            Unfit::BothModels
        } else {
            Unfit::Model
        })
    }
}
