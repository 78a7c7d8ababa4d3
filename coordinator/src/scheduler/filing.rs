//! How waiting jobs stand in their lanes, and lanes in the order of their kinds.

#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::state::Tier;

use super::jobs::{JobIx, Place};
use super::kinds::Refitted;
use super::lanes::{Claim, Entry, LaneIx};
use super::shares::{Filed, UserIx, Virtual};
use super::state::Scheduler;

impl Scheduler {
    /// Puts a job into its lane, by its arrival.
    pub(super) fn enqueue(&mut self, ix: JobIx) {
        self.changed();
        let Some(job) = self.jobs.get(ix) else { return };
        let (owner, kind, tier, cost) = (job.owner, job.kind, job.tier, job.cost_left());
        let arrived = job.arrival();
        let class = (!job.is_choosy()).then_some(job.class);
        let (lane_ix, is_new) = self.lanes.of(owner, kind, class);
        if is_new && let Some(user) = self.shares.get_mut(owner) {
            user.lanes.push(lane_ix);
        }
        let Some(lane) = self.lanes.get_mut(lane_ix) else {
            return;
        };
        let jobs = &self.jobs;
        let is_before = |other: &JobIx| jobs.get(*other).is_some_and(|job| job.arrival() < arrived);
        // Most come last.
        let at = match lane.jobs.back().is_none_or(is_before) {
            true => lane.jobs.len(),
            false => lane.jobs.partition_point(is_before),
        };
        lane.jobs.insert(at, ix);
        lane.backlog_s += cost;
        lane.tiers.add(tier);
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.backlog_s += cost;
            // A lane that is not filed yet counts once it is.
            if let Some(entry) = lane.entry {
                kind.waiting_mut(entry.is_capped).add(tier);
            }
        }
        if let Some(job) = self.jobs.get_mut(ix) {
            job.place = Place::Lane(lane_ix);
        }
        if at == 0 {
            self.rekey(lane_ix);
            self.dirty_kinds.insert(kind);
        }
    }

    /// Takes a waiting job out of its lane.
    pub(super) fn dequeue(&mut self, ix: JobIx) {
        self.changed();
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        let Place::Lane(lane_ix) = std::mem::replace(&mut job.place, Place::Parked) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(lane_ix) else {
            return;
        };
        let (kind, tier, cost) = (lane.kind, job.tier, job.cost_left());
        lane.backlog_s = (lane.backlog_s - cost).max(0.0);
        lane.tiers.remove(tier);
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.backlog_s = (kind.backlog_s - cost).max(0.0);
            if let Some(entry) = lane.entry {
                kind.waiting_mut(entry.is_capped).remove(tier);
            }
        }
        let was_first = lane.jobs.front() == Some(&ix);
        if was_first {
            lane.jobs.pop_front();
        } else {
            lane.jobs.retain(|other| *other != ix);
        }
        if was_first {
            self.rekey(lane_ix);
            self.dirty_kinds.insert(kind);
        }
    }

    /// Files a lane that has another first job, or whose user may start more or less than before, and removes an empty one.
    pub(super) fn rekey(&mut self, ix: LaneIx) {
        let Some(lane) = self.lanes.get(ix) else {
            return;
        };
        let (owner, kind, before) = (lane.user, lane.kind, lane.entry);
        let head = lane.jobs.front().and_then(|job| self.jobs.get(*job));
        let head = head.map(|job| (job.tier, job.bound()));
        let user = self.shares.get(owner);
        let is_capped = user
            .zip(head)
            .is_some_and(|(user, (tier, _))| user.running >= cap(tier));
        let has_forced = user.is_some_and(|user| user.forced.is_some());
        let stood = before.is_some_and(|entry| entry.stands);
        let stands = head.is_some() && !is_capped && self.kinds.is_offered(kind);
        match (stood, stands) {
            (false, true) => self
                .shares
                .stand(owner, head.map_or(1, |(tier, _)| tier.weight())),
            (true, false) => self.shares.sit(owner),
            (true, true) | (false, false) => {}
        }
        let place = self.filed_place_of(ix);
        let entry = head.zip(place).map(|((_, bound), (claim, length))| Entry {
            claim,
            length,
            is_capped,
            // One user has one forced start at a time.
            bound: bound.filter(|_| !is_capped && !has_forced),
            stands,
        });
        self.file(ix, entry);
        if head.is_none() {
            self.lanes.remove(ix);
            if let Some(user) = self.shares.get_mut(owner) {
                user.lanes.retain(|lane| *lane != ix);
            }
        }
    }

    /// A user's tag, the number of its running jobs or its forced start has changed.
    pub(super) fn rekey_user(&mut self, owner: UserIx) {
        let Some(user) = self.shares.get_mut(owner) else {
            return;
        };
        let now = Filed {
            is_capped: Tier::ALL.map(|tier| user.running >= cap(tier)),
            has_forced: user.forced.is_some(),
        };
        let may_start_as_before = std::mem::replace(&mut user.filed, now) == now;
        for lane in user.lanes.clone() {
            match may_start_as_before {
                true => self.move_to(lane, self.filed_place_of(lane)),
                false => self.rekey(lane),
            }
        }
    }

    /// Files a lane where it should be that stands too far in front.
    pub(super) fn refile(&mut self, ix: LaneIx) {
        self.move_to(ix, self.claim_of(ix));
    }

    /// Leaves all else of the lane as it is.
    fn move_to(&mut self, ix: LaneIx, place: Option<(Claim, f64)>) {
        let entry = self.lanes.get(ix).and_then(|lane| lane.entry);
        if let Some((entry, (claim, length))) = entry.zip(place) {
            let entry = Entry {
                claim,
                length,
                ..entry
            };
            self.file(ix, Some(entry));
        }
    }

    /// Files the lane as it is to stand from now on. Users have hundreds of lanes: what stays as it is is not touched.
    fn file(&mut self, ix: LaneIx, entry: Option<Entry>) {
        let Some(lane) = self.lanes.get_mut(ix) else {
            return;
        };
        let before = std::mem::replace(&mut lane.entry, entry);
        let (kind_ix, tiers) = (lane.kind, lane.tiers);
        let Some(kind) = self.kinds.get_mut(kind_ix) else {
            return;
        };
        let place = |entry: Entry| (entry.is_capped, entry.claim);
        if before.map(place) != entry.map(place) {
            if let Some(before) = before {
                kind.claims(before.is_capped).remove(&before.claim);
            }
            if let Some(entry) = entry {
                kind.claims(entry.is_capped).insert(entry.claim);
            }
        }
        let side = |entry: Entry| entry.is_capped;
        if before.map(side) != entry.map(side) {
            if let Some(before) = before {
                kind.waiting_mut(before.is_capped).remove_all(tiers);
            }
            if let Some(entry) = entry {
                kind.waiting_mut(entry.is_capped).add_all(tiers);
            }
        }
        let bound = |entry: Entry| entry.bound;
        if before.and_then(bound) != entry.and_then(bound) {
            if let Some(bound) = before.and_then(bound) {
                kind.bounds.remove(bound, ix);
            }
            if let Some(bound) = entry.and_then(bound) {
                kind.bounds.insert(bound, ix);
            }
        }
        if before.is_some() != entry.is_some() {
            self.kinds.note_lanes(kind_ix);
        }
    }

    /// Where the lane is filed, unless that is behind where it should be, and the length of its first job as predicted now.
    fn filed_place_of(&self, ix: LaneIx) -> Option<(Claim, f64)> {
        let (claim, length) = self.claim_of(ix)?;
        let filed = self.lanes.get(ix)?.entry.map(|entry| entry.claim);
        let may_stay = |filed: &Claim| filed.arrival == claim.arrival && *filed <= claim;
        Some((filed.filter(may_stay).unwrap_or(claim), length))
    }

    /// Where it should be, and that length.
    fn claim_of(&self, ix: LaneIx) -> Option<(Claim, f64)> {
        let lane = self.lanes.get(ix)?;
        let job = self.jobs.get(*lane.jobs.front()?)?;
        let user = self.shares.get(lane.user)?;
        let length = self.length_of(job);
        let claim = Claim {
            finish: Virtual(user.tag.0 + length),
            served: user.served,
            arrival: job.arrival(),
            lane: ix,
        };
        Some((claim, length))
    }

    /// Nodes came, left, or fit other sizes: free ones are compared again with who waits for them, and who waits for what no
    /// node can run does not stand.
    pub(super) fn refit(&mut self, kinds: Refitted) {
        self.dirty_kinds.extend(kinds.changed);
        for ix in kinds.flipped {
            let lanes = self.kinds.get(ix).map(|kind| {
                kind.open
                    .iter()
                    .chain(&kind.capped)
                    .map(|claim| claim.lane)
                    .collect()
            });
            let lanes: Vec<LaneIx> = lanes.unwrap_or_default();
            lanes.into_iter().for_each(|lane| self.rekey(lane));
        }
    }
}

/// Running jobs above which a user is served only where nobody else could use the node.
fn cap(tier: Tier) -> u32 {
    let most = tier.running_max();
    #[cfg(feature = "planted-bugs")]
    let most = most + u32::from(planted::is(Bug::CapOffByOne));
    most
}
