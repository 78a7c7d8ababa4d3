//! Claims in their order, as they stand now.
//!
//! A user's claims all move back whenever it is served, by what it was charged, and there are hundreds of them. So a lane stays
//! where it was filed until somebody comes by: what is filed never stands behind where it should be, and whoever finds it too
//! far in front looks on, and files it anew.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::groups::GroupIx;
use super::kinds::Kind;
use super::lanes::{Claim, LaneIx};
use super::needs::KindIx;
use super::shares::Virtual;
use super::state::Scheduler;

pub(super) type Stream<'a> = Box<dyn Iterator<Item = Claim> + 'a>;

pub(super) fn stream(filed: &BTreeSet<Claim>) -> Stream<'_> {
    Box::new(filed.iter().copied())
}

/// Ordered streams of claims as they are filed, as one of claims as they are.
pub(super) struct Claims<'a> {
    scheduler: &'a Scheduler,
    heads: BinaryHeap<Reverse<(Claim, Option<usize>)>>,
    streams: Vec<Stream<'a>>,
    /// Lanes that were found further in front than they should be.
    pub(super) outdated: Vec<LaneIx>,
}

impl<'a> Claims<'a> {
    pub(super) fn new(scheduler: &'a Scheduler, streams: impl Iterator<Item = Stream<'a>>) -> Self {
        let mut claims = Self {
            scheduler,
            heads: BinaryHeap::new(),
            streams: streams.collect(),
            outdated: Vec::new(),
        };
        for at in 0..claims.streams.len() {
            claims.refill(at);
        }
        claims
    }

    /// Of these kinds, those of users who may start one more.
    pub(super) fn open(scheduler: &'a Scheduler, kinds: impl Iterator<Item = &'a Kind>) -> Self {
        Self::new(scheduler, kinds.map(|kind| stream(&kind.open)))
    }

    fn refill(&mut self, at: usize) {
        if let Some(claim) = self.streams.get_mut(at).and_then(Iterator::next) {
            self.heads.push(Reverse((claim, Some(at))));
        }
    }
}

impl Iterator for Claims<'_> {
    type Item = Claim;

    fn next(&mut self) -> Option<Claim> {
        loop {
            let Reverse((claim, from)) = self.heads.pop()?;
            if let Some(at) = from {
                self.refill(at);
            }
            match self.scheduler.as_it_is(claim) {
                Some(now) if claim < now => {
                    self.outdated.push(claim.lane);
                    self.heads.push(Reverse((now, None)));
                }
                _ => return Some(claim),
            }
        }
    }
}

impl Scheduler {
    /// The filed claim after what its user was charged since.
    pub(super) fn as_it_is(&self, claim: Claim) -> Option<Claim> {
        let lane = self.lanes.get(claim.lane)?;
        let user = self.shares.get(lane.user)?;
        Some(Claim {
            finish: Virtual(user.tag.0 + lane.entry?.length),
            served: user.served,
            ..claim
        })
    }

    /// The lane of the smallest claim of those who could start where a job of this kind may: whoever waits for other nodes is ahead of
    /// nobody here.
    pub(super) fn first_lane(&self, kind: KindIx) -> Option<LaneIx> {
        let live = |group: &GroupIx| {
            let known = self.kinds.get_group(*group);
            known.is_some_and(|known| known.live() > 0) && self.kinds.fits(kind, *group)
        };
        let groups: Vec<GroupIx> = self.kinds.groups().filter(live).collect();
        let kinds = self.kinds.waiting().filter(|(ix, kind)| {
            kind.fitting > 0 && groups.iter().any(|group| self.kinds.fits(*ix, *group))
        });
        let mut claims = Claims::open(self, kinds.map(|(_, kind)| kind));
        // Nor is one that pauses.
        let could_start = |claim: &Claim| {
            let head = self
                .lanes
                .get(claim.lane)
                .and_then(|lane| lane.jobs.front());
            let head = head.and_then(|head| self.jobs.get(*head));
            head.is_some_and(|head| head.paused_s(self.now) == 0.0)
        };
        claims.find(could_start).map(|claim| claim.lane)
    }
}
