//! Requests that wait, and which of them go into the next statement. Pure.

use std::collections::{BTreeMap, VecDeque};

use flowai_actors::limits::{INTAKE_REQUESTS_MAX, INTAKE_VIDEOS_MAX, INTAKE_WAITING_MAX};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::Queueing;
use super::request::Request;
use crate::database::DatabaseError;

/// What whoever asked is told.
pub(super) type Outcome = Result<Queueing, DatabaseError>;

/// A request and who wants to know what became of it.
pub(super) struct Waiting {
    pub(super) request: Request,
    ticket: u64,
    asker: oneshot::Sender<Outcome>,
}

impl Waiting {
    /// The asker may be gone: then nobody is told.
    pub(super) fn tell(self, outcome: Outcome) {
        let _gone = self.asker.send(outcome);
    }
}

/// Where a request stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    owner: Uuid,
    ticket: u64,
}

/// Owners take turns, one request at a time: the next one is written when the one before is, so that its jobs and credits count.
#[derive(Default)]
pub(super) struct Gathering {
    lines: BTreeMap<Uuid, Line>,
    /// Owners who have a request that may be taken.
    turns: VecDeque<Uuid>,
    waiting: usize,
    last_ticket: u64,
}

/// One owner's requests, in the order in which they came.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    is_under_way: bool,
}

impl Gathering {
    /// `None` when as many wait as may.
    pub(super) fn push(&mut self, request: Request) -> Option<(Place, oneshot::Receiver<Outcome>)> {
        if self.waiting >= INTAKE_WAITING_MAX {
            return None;
        }
        let (asker, outcome) = oneshot::channel();
        self.last_ticket += 1;
        let place = Place {
            owner: request.owner,
            ticket: self.last_ticket,
        };
        let line = self.lines.entry(place.owner).or_default();
        if line.waiting.is_empty() && !line.is_under_way {
            self.turns.push_back(place.owner);
        }
        line.waiting.push_back(Waiting {
            request,
            ticket: place.ticket,
            asker,
        });
        self.waiting += 1;
        Some((place, outcome))
    }

    /// Whether a lane has something to do.
    pub(super) fn is_due(&self) -> bool {
        !self.turns.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next statement's requests, of one owner each and in the order of owners; none when nothing is due. One with more videos than
    /// may go together goes alone.
    pub(super) fn take(&mut self) -> Vec<Waiting> {
        let (mut group, mut videos) = (Vec::new(), 0);
        while group.len() < INTAKE_REQUESTS_MAX
            && let Some(owner) = self.turns.pop_front()
        {
            let Some(line) = self.lines.get_mut(&owner) else {
                continue;
            };
            let first = line.waiting.front();
            let with = videos + first.map_or(0, |first| first.request.videos.len());
            if !group.is_empty() && with > INTAKE_VIDEOS_MAX {
                self.turns.push_front(owner);
                break;
            }
            if let Some(first) = line.waiting.pop_front() {
                line.is_under_way = true;
                self.waiting -= 1;
                videos = with;
                group.push(first);
            }
        }
        group.sort_by_key(|waiting| waiting.request.owner);
        group
    }

    /// The owner's request that was taken is over: it is the next one's turn.
    pub(super) fn done(&mut self, owner: Uuid) {
        let Some(line) = self.lines.get_mut(&owner) else {
            return;
        };
        line.is_under_way = false;
        if line.waiting.is_empty() {
            self.lines.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
    }

    /// Takes a request out that waits no longer; `false` when it was taken before.
    pub(super) fn withdraw(&mut self, place: Place) -> bool {
        let Some(line) = self.lines.get_mut(&place.owner) else {
            return false;
        };
        let at = line
            .waiting
            .iter()
            .position(|waiting| waiting.ticket == place.ticket);
        let Some(at) = at else { return false };
        line.waiting.remove(at);
        self.waiting -= 1;
        if line.waiting.is_empty() && !line.is_under_way {
            self.lines.remove(&place.owner);
            self.turns.retain(|owner| *owner != place.owner);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::{Sha256, UploadId, UserId};
    use flowai_actors::spec::RenderSpec;
    use serde_json::json;

    use super::*;
    use crate::videos::NewVideo;

    fn ask(gathering: &mut Gathering, owner: u128, videos: usize) -> Option<Place> {
        let owner = UserId::from_uuid(Uuid::from_u128(owner));
        let image = UploadId::from_uuid(owner.as_uuid());
        let spec = RenderSpec::small("tiny".parse().unwrap(), Sha256::from_bytes([1; 32]));
        let new: Vec<_> = (0..videos)
            .map(|_| NewVideo::new(owner, &spec, Some(image)))
            .collect();
        let request = Request::new(&new, None, (202, &json!({}))).unwrap();
        gathering.push(request).map(|(place, _)| place)
    }

    /// Owners and numbers of videos of the next group.
    fn next(gathering: &mut Gathering) -> Vec<(u128, usize)> {
        let group = gathering.take();
        let of = |waiting: &Waiting| {
            (
                waiting.request.owner.as_u128(),
                waiting.request.videos.len(),
            )
        };
        group.iter().map(of).collect()
    }

    fn done(gathering: &mut Gathering, owners: &[u128]) {
        for owner in owners {
            gathering.done(Uuid::from_u128(*owner));
        }
    }

    #[test]
    fn a_group_has_one_request_of_an_owner_and_is_in_their_order() {
        let mut gathering = Gathering::default();
        for owner in [7, 3, 7, 5] {
            ask(&mut gathering, owner, 1);
        }
        assert_eq!(next(&mut gathering), [(3, 1), (5, 1), (7, 1)]);
        // Also by another lane: an owner's second one waits until the first is over.
        assert_eq!(next(&mut gathering), []);
        done(&mut gathering, &[3, 5, 7]);
        assert_eq!(next(&mut gathering), [(7, 1)]);
        done(&mut gathering, &[7]);
        assert!(!gathering.is_due() && gathering.lines.is_empty());
    }

    #[test]
    fn whoever_asks_without_end_stands_behind_the_others() {
        let mut gathering = Gathering::default();
        for _ in 0..INTAKE_REQUESTS_MAX * 2 {
            ask(&mut gathering, 1, 1);
        }
        ask(&mut gathering, 2, 1);
        assert_eq!(next(&mut gathering), [(1, 1), (2, 1)]);
    }

    #[test]
    fn a_group_is_bounded_and_nobody_overtakes_what_did_not_fit() {
        let mut gathering = Gathering::default();
        ask(&mut gathering, 1, INTAKE_VIDEOS_MAX + 1);
        ask(&mut gathering, 2, INTAKE_VIDEOS_MAX - 1);
        ask(&mut gathering, 3, 2);
        ask(&mut gathering, 3, 1);
        ask(&mut gathering, 4, 1);
        assert_eq!(next(&mut gathering), [(1, INTAKE_VIDEOS_MAX + 1)]);
        assert_eq!(next(&mut gathering), [(2, INTAKE_VIDEOS_MAX - 1)]);
        assert_eq!(next(&mut gathering), [(3, 2), (4, 1)]);
        done(&mut gathering, &[3]);
        assert_eq!(next(&mut gathering), [(3, 1)]);
        for owner in 10..=10 + INTAKE_REQUESTS_MAX as u128 {
            ask(&mut gathering, owner, 1);
        }
        assert_eq!(next(&mut gathering).len(), INTAKE_REQUESTS_MAX);
    }

    #[test]
    fn what_is_withdrawn_leaves_nothing_and_what_was_taken_is_not_withdrawn() {
        let mut gathering = Gathering::default();
        let first = ask(&mut gathering, 1, 1).unwrap();
        let second = ask(&mut gathering, 1, 1).unwrap();
        let other = ask(&mut gathering, 2, 1).unwrap();
        assert!(gathering.withdraw(other));
        assert_eq!(next(&mut gathering), [(1, 1)]);
        assert!(!gathering.withdraw(first));
        assert!(gathering.withdraw(second));
        done(&mut gathering, &[1]);
        assert_eq!((gathering.waiting(), gathering.lines.len()), (0, 0));
    }

    #[test]
    fn no_more_wait_than_may() {
        let mut gathering = Gathering::default();
        for owner in 0..INTAKE_WAITING_MAX as u128 {
            assert!(ask(&mut gathering, owner, 1).is_some());
        }
        assert!(ask(&mut gathering, 0, 1).is_none());
        next(&mut gathering);
        assert!(ask(&mut gathering, 0, 1).is_some());
    }
}
