//! Kinds of jobs: those of one kind can run on the same nodes, so that a node is compared with kinds and not with jobs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::ModelId;
use flowai_actors::limits::{MEMORY_CEILING_ALONE_MS, MEMORY_CEILING_MS};

use super::bounds::Bounds;
use super::event::Shape;
use super::lanes::Claim;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KindIx(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ModelIx(u32);

impl ModelIx {
    pub(super) const FIRST: Self = Self(0);
}

/// Nodes that offer the same models with the same memory on the same device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupIx(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassIx(u32);

/// The size of a clip in steps of a quarter of an octave: memory grows with frames times pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SizeBucket(u8);

impl SizeBucket {
    pub(super) fn of(shape: Shape) -> Self {
        let volume = f64::from(shape.frames) * f64::from(shape.width) * f64::from(shape.height);
        Self((4.0 * volume.max(1.0).log2()) as u8)
    }
}

/// Short numbers for what has long names. Names are few, and stay.
#[derive(Debug, Clone)]
pub(super) struct Names<K> {
    all: Vec<K>,
    by_name: HashMap<K, u32>,
}

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            by_name: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Names<K> {
    pub(super) fn of(&mut self, name: &K) -> u32 {
        if let Some(ix) = self.by_name.get(name) {
            return *ix;
        }
        let ix = self.all.len() as u32;
        self.all.push(name.clone());
        self.by_name.insert(name.clone(), ix);
        ix
    }

    pub(super) fn get(&self, ix: u32) -> Option<&K> {
        self.all.get(ix as usize)
    }
}

/// What a node must have for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Needs {
    pub(super) model: ModelIx,
    pub(super) keyframe: Option<ModelIx>,
    pub(super) size: SizeBucket,
}

impl Needs {
    pub(super) fn models(&self) -> impl Iterator<Item = ModelIx> {
        self.keyframe.into_iter().chain([self.model])
    }
}

#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) needs: Needs,
    /// Lanes whose user may start one more, in the order in which they are served.
    pub(super) open: BTreeSet<Claim>,
    /// Lanes whose user runs as many as its tier's cap: served where nobody else can use the node.
    pub(super) capped: BTreeSet<Claim>,
    /// Of the open lanes' first jobs.
    pub(super) bounds: Bounds,
    /// Baseline GPU-seconds of all jobs in its lanes.
    pub(super) backlog_s: f64,
    /// Nodes that can run it and take work, free or not.
    pub(super) fitting: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct GroupKey {
    models: BTreeSet<ModelIx>,
    memory_bytes: u64,
    class: ClassIx,
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    models: BTreeSet<ModelIx>,
    pub(super) class: ClassIx,
    /// Live ones that take work.
    nodes: u32,
    /// By clip model: the smallest size that ran out of memory here, and until when that is believed.
    ceilings: BTreeMap<ModelIx, (SizeBucket, Monotonic)>,
}

impl Group {
    /// Nodes of it that take work.
    pub(super) fn live(&self) -> u32 {
        self.nodes
    }

    fn offers(&self, needs: &Needs) -> bool {
        needs.models().all(|model| self.models.contains(&model))
    }

    pub(super) fn fits(&self, needs: &Needs) -> bool {
        let is_small = self
            .ceilings
            .get(&needs.model)
            .is_none_or(|(ceiling, _)| needs.size < *ceiling);
        self.offers(needs) && is_small
    }
}

/// Why no live node can run a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    Model,
    BothModels,
    Memory,
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
        let fitting = self
            .groups
            .iter()
            .filter(|group| group.fits(&needs))
            .map(|group| group.nodes);
        self.kinds.push(Kind {
            needs,
            open: BTreeSet::new(),
            capped: BTreeSet::new(),
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
        active.filter(move |(_, kind)| group.is_some_and(|group| group.fits(&kind.needs)))
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
        let key = GroupKey {
            models: models.clone(),
            memory_bytes,
            class,
        };
        let next = GroupIx(self.groups.len() as u32);
        let ix = *self.by_key.entry(key).or_insert(next);
        if ix == next {
            self.groups.push(Group {
                models,
                class,
                nodes: 0,
                ceilings: BTreeMap::new(),
            });
        }
        ix
    }

    pub(super) fn get_group(&self, ix: GroupIx) -> Option<&Group> {
        self.groups.get(ix.0 as usize)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupIx> {
        (0..self.groups.len() as u32).map(GroupIx)
    }

    pub(super) fn fits(&self, kind: KindIx, group: GroupIx) -> bool {
        let (kind, group) = (self.get(kind), self.get_group(group));
        kind.zip(group)
            .is_some_and(|(kind, group)| group.fits(&kind.needs))
    }

    /// Another live node of the group, or one less. Gives the kinds that some node can run only now, or none any more.
    pub(super) fn count(&mut self, ix: GroupIx, change: i32) -> Vec<KindIx> {
        let Some(group) = self.groups.get_mut(ix.0 as usize) else {
            return Vec::new();
        };
        group.nodes = group.nodes.saturating_add_signed(change);
        self.recount()
    }

    /// A job of the kind found too little memory on a node of the group: nothing as large goes there for a while.
    pub(super) fn ran_out_of_memory(
        &mut self,
        kind: KindIx,
        group: GroupIx,
        now: Monotonic,
    ) -> Vec<KindIx> {
        let Some(needs) = self.get(kind).map(|kind| kind.needs) else {
            return Vec::new();
        };
        let others = self
            .groups
            .iter()
            .zip(0..)
            .filter(|(_, ix)| GroupIx(*ix) != group);
        let fit_elsewhere = others.filter(|(other, _)| other.nodes > 0 && other.fits(&needs));
        // Where all nodes are alike, a passing shortage must not stop them all for long.
        let ceiling_ms = match fit_elsewhere.count() {
            0 => MEMORY_CEILING_ALONE_MS,
            _ => MEMORY_CEILING_MS,
        };
        let until = now.plus_ms(ceiling_ms);
        if let Some(group) = self.groups.get_mut(group.0 as usize) {
            let ceiling = group
                .ceilings
                .entry(needs.model)
                .or_insert((needs.size, until));
            *ceiling = (ceiling.0.min(needs.size), until);
        }
        self.recount()
    }

    /// Forgets what was learned of memory long ago.
    pub(super) fn expire_ceilings(&mut self, now: Monotonic) -> Vec<KindIx> {
        let mut has_expired = false;
        for group in &mut self.groups {
            let before = group.ceilings.len();
            group.ceilings.retain(|_, (_, until)| now < *until);
            has_expired |= group.ceilings.len() < before;
        }
        if has_expired {
            self.recount()
        } else {
            Vec::new()
        }
    }

    fn recount(&mut self) -> Vec<KindIx> {
        let groups = &self.groups;
        let mut flipped = Vec::new();
        for (kind, ix) in self.kinds.iter_mut().zip(0..) {
            let fitting = groups
                .iter()
                .filter(|group| group.fits(&kind.needs))
                .map(|group| group.nodes)
                .sum();
            let before = std::mem::replace(&mut kind.fitting, fitting);
            if (before > 0) != (fitting > 0) {
                flipped.push(KindIx(ix));
            }
        }
        flipped
    }

    /// Why no live node can run it; `None` when one can.
    pub(super) fn unfit(&self, ix: KindIx) -> Option<Unfit> {
        let kind = self.get(ix)?;
        if kind.fitting > 0 {
            return None;
        }
        let is_offered = |group: &Group| group.nodes > 0 && group.offers(&kind.needs);
        Some(if self.groups.iter().any(is_offered) {
            Unfit::Memory
        } else if kind.needs.keyframe.is_some() {
            Unfit::BothModels
        } else {
            Unfit::Model
        })
    }
}
