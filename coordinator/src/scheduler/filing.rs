//! How waiting jobs stand in their lanes, and lanes in the order of their kinds.

#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::state::Tier;

use super::bounds::Bound;
use super::jobs::{JobIx, Place};
use super::kinds::Refitted;
use super::lanes::{Claim, Entry, LaneIx};
use super::shares::{UserIx, Virtual};
use super::state::Scheduler;

impl Scheduler {
    /// Puts a job into its lane, by its arrival.
    pub(super) fn enqueue(&mut self, ix: JobIx) {
        self.changed();
        let Some(job) = self.jobs.get(ix) else { return };
        let (owner, kind, seq, cost) = (job.owner, job.kind, job.seq, job.cost_left());
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.backlog_s += cost;
        }
        let class = (!job.is_choosy()).then_some(job.class);
        let (lane_ix, is_new) = self.lanes.of(owner, kind, class);
        if is_new && let Some(user) = self.shares.get_mut(owner) {
            user.lanes.push(lane_ix);
        }
        let Some(lane) = self.lanes.get_mut(lane_ix) else {
            return;
        };
        let jobs = &self.jobs;
        let at = lane
            .jobs
            .partition_point(|other| jobs.get(*other).is_some_and(|other| other.seq < seq));
        lane.jobs.insert(at, ix);
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
        let (kind, cost) = (lane.kind, job.cost_left());
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.backlog_s = (kind.backlog_s - cost).max(0.0);
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

    /// Files a lane as its first job and its user stand now, and removes an empty one.
    pub(super) fn rekey(&mut self, ix: LaneIx) {
        let before = self.unfile(ix);
        let Some(lane) = self.lanes.get(ix) else {
            return;
        };
        let (owner, kind) = (lane.user, lane.kind);
        let head = lane.jobs.front().and_then(|job| self.jobs.get(*job));
        let head = head.map(|job| (job.tier, job.bound()));
        let user = self.shares.get(owner);
        let is_capped = user
            .zip(head)
            .is_some_and(|(user, (tier, _))| user.running >= cap(tier));
        let has_forced = user.is_some_and(|user| user.forced.is_some());
        let stood = before.is_some_and(|entry| entry.stands);
        let stands = head.is_some() && !is_capped && self.kinds.is_offered(kind);
        let mut is_lifted = false;
        match (stood, stands) {
            (false, true) => {
                is_lifted = self
                    .shares
                    .stand(owner, head.map_or(1, |(tier, _)| tier.weight()))
            }
            (true, false) => self.shares.sit(owner),
            (true, true) | (false, false) => {}
        }
        match head {
            Some((_, bound)) => self.file(
                ix,
                Flags {
                    is_capped,
                    stands,
                    // One user has one forced start at a time.
                    bound: bound.filter(|_| !has_forced),
                },
            ),
            None => {
                self.lanes.remove(ix);
                if let Some(user) = self.shares.get_mut(owner) {
                    user.lanes.retain(|lane| *lane != ix);
                }
            }
        }
        self.kinds.note_lanes(kind);
        if is_lifted {
            self.refile_others(owner, ix);
        }
    }

    /// Files all lanes of a user anew: its tag or the number of its running jobs has changed.
    pub(super) fn rekey_user(&mut self, owner: UserIx) {
        let lanes = self.shares.get(owner).map(|user| user.lanes.clone());
        for lane in lanes.into_iter().flatten() {
            self.rekey(lane);
        }
    }

    /// The user's tag has changed, and nothing else of these lanes.
    fn refile_others(&mut self, owner: UserIx, but: LaneIx) {
        let lanes = self.shares.get(owner).map(|user| user.lanes.clone());
        for lane in lanes.into_iter().flatten().filter(|lane| *lane != but) {
            if let Some(Entry {
                is_capped,
                stands,
                bound,
                ..
            }) = self.unfile(lane)
            {
                self.file(
                    lane,
                    Flags {
                        is_capped,
                        stands,
                        bound,
                    },
                );
            }
        }
    }

    fn unfile(&mut self, ix: LaneIx) -> Option<Entry> {
        let lane = self.lanes.get_mut(ix)?;
        let entry = lane.entry.take()?;
        let kind = self.kinds.get_mut(lane.kind)?;
        if entry.is_capped {
            kind.capped.remove(&entry.claim);
        } else {
            kind.open.remove(&entry.claim);
        }
        if let Some(bound) = entry.bound {
            kind.bounds.remove(bound, ix);
        }
        Some(entry)
    }

    fn file(&mut self, ix: LaneIx, flags: Flags) {
        let Some(claim) = self.claim_of(ix) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(ix) else {
            return;
        };
        let Some(kind) = self.kinds.get_mut(lane.kind) else {
            return;
        };
        let Flags {
            is_capped,
            stands,
            bound,
        } = flags;
        if is_capped {
            kind.capped.insert(claim);
        } else {
            kind.open.insert(claim);
        }
        let bound = bound.filter(|_| !is_capped);
        if let Some(bound) = bound {
            kind.bounds.insert(bound, ix);
        }
        lane.entry = Some(Entry {
            claim,
            is_capped,
            bound,
            stands,
        });
    }

    fn claim_of(&self, ix: LaneIx) -> Option<Claim> {
        let lane = self.lanes.get(ix)?;
        let job = self.jobs.get(*lane.jobs.front()?)?;
        let user = self.shares.get(lane.user)?;
        Some(Claim {
            finish: Virtual(user.tag.0 + self.length_of(job)),
            served: user.served,
            seq: job.seq,
            lane: ix,
        })
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

struct Flags {
    is_capped: bool,
    stands: bool,
    bound: Option<Bound>,
}

/// Running jobs above which a user is served only where nobody else could use the node.
fn cap(tier: Tier) -> u32 {
    let most = tier.running_max();
    #[cfg(feature = "planted-bugs")]
    let most = most + u32::from(planted::is(Bug::CapOffByOne));
    most
}
