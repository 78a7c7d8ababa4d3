//! Requests that wait, and which of them go into the next statement. Pure: no clock but the one it is given.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use flowai_actors::limits::{INTAKE_REQUESTS_MAX, INTAKE_VIDEOS_MAX};
use tokio::sync::oneshot;

use super::super::Queueing;
use super::request::Request;
use crate::database::DatabaseError;

pub(super) type Told = Result<Queueing, DatabaseError>;

/// A request and who wants to know what became of it.
pub(super) struct Waiting {
    pub(super) request: Request,
    since: Instant,
    teller: oneshot::Sender<Told>,
}

impl Waiting {
    pub(super) fn new(request: Request, since: Instant) -> (Self, oneshot::Receiver<Told>) {
        let (teller, told) = oneshot::channel();
        let waiting = Self {
            request,
            since,
            teller,
        };
        (waiting, told)
    }

    /// Whoever asked may be gone: then nobody is told.
    pub(super) fn tell(self, what: Told) {
        let _gone = self.teller.send(what);
    }
}

/// In the order in which they came.
#[derive(Default)]
pub(super) struct Gathering(VecDeque<Waiting>);

/// What a lane does next.
pub(super) struct Group {
    /// Of one owner each, in the order of owners.
    pub(super) requests: Vec<Waiting>,
    /// Waited longer than they may.
    pub(super) late: Vec<Waiting>,
}

impl Gathering {
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.0.push_back(waiting);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes those that came first, as many as go into one statement: an owner's second request waits for the next one, and one with
    /// more videos than may go together goes alone. Never empty unless nothing waits.
    pub(super) fn take(&mut self, now: Instant, patience: Duration) -> Group {
        let (mut requests, mut late) = (Vec::new(), Vec::new());
        let (mut owners, mut videos, mut later) = (BTreeSet::new(), 0, VecDeque::new());
        while requests.len() < INTAKE_REQUESTS_MAX
            && later.len() < INTAKE_REQUESTS_MAX
            && let Some(waiting) = self.0.pop_front()
        {
            if now.saturating_duration_since(waiting.since) > patience {
                late.push(waiting);
                continue;
            }
            let with = videos + waiting.request.videos.len();
            let has_room = requests.is_empty() || with <= INTAKE_VIDEOS_MAX;
            if has_room && owners.insert(waiting.request.owner) {
                videos = with;
                requests.push(waiting);
            } else {
                later.push_back(waiting);
            }
        }
        later.append(&mut self.0);
        self.0 = later;
        requests.sort_by_key(|waiting| waiting.request.owner);
        Group { requests, late }
    }
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::{UploadId, UserId};
    use flowai_actors::spec::{FirstFrame, RenderSpec};
    use serde_json::json;

    use super::*;
    use crate::videos::NewVideo;

    const PATIENCE: Duration = Duration::from_secs(5);

    struct Asking {
        gathering: Gathering,
        begin: Instant,
    }

    impl Asking {
        fn new() -> Self {
            Self {
                gathering: Gathering::default(),
                begin: Instant::now(),
            }
        }

        /// `owner` asks for so many videos.
        fn ask(&mut self, owner: u128, videos: usize) {
            let owner = UserId::from_uuid(uuid::Uuid::from_u128(owner));
            let image = UploadId::from_uuid(owner.as_uuid());
            let spec = RenderSpec::example(FirstFrame::Image(image));
            let new: Vec<_> = (0..videos)
                .map(|_| NewVideo::new(owner, &spec, Some(image)))
                .collect();
            let request = Request::new(&new, None, (202, &json!({}))).unwrap();
            let (waiting, _) = Waiting::new(request, self.begin);
            self.gathering.push(waiting);
        }

        /// Owners and numbers of videos of the next group, after so long.
        fn next(&mut self, after: Duration) -> Vec<(u128, usize)> {
            let group = self.gathering.take(self.begin + after, PATIENCE);
            let of = |waiting: &Waiting| {
                (
                    waiting.request.owner.as_u128(),
                    waiting.request.videos.len(),
                )
            };
            group.requests.iter().map(of).collect()
        }
    }

    #[test]
    fn a_group_has_one_request_of_an_owner_and_is_in_their_order() {
        let mut asking = Asking::new();
        for owner in [7, 3, 7, 5, 7] {
            asking.ask(owner, 1);
        }
        assert_eq!(asking.next(Duration::ZERO), [(3, 1), (5, 1), (7, 1)]);
        assert_eq!(asking.next(Duration::ZERO), [(7, 1)]);
        assert_eq!(asking.next(Duration::ZERO), [(7, 1)]);
        assert!(asking.gathering.is_empty());
    }

    #[test]
    fn a_group_is_bounded_by_its_videos_and_a_larger_request_goes_alone() {
        let mut asking = Asking::new();
        asking.ask(1, INTAKE_VIDEOS_MAX + 1);
        asking.ask(2, INTAKE_VIDEOS_MAX - 1);
        asking.ask(3, 2);
        asking.ask(4, 1);
        assert_eq!(asking.next(Duration::ZERO), [(1, INTAKE_VIDEOS_MAX + 1)]);
        assert_eq!(
            asking.next(Duration::ZERO),
            [(2, INTAKE_VIDEOS_MAX - 1), (4, 1)]
        );
        assert_eq!(asking.next(Duration::ZERO), [(3, 2)]);
    }

    #[test]
    fn nobody_is_lost_behind_one_owner_who_asks_without_end() {
        let mut asking = Asking::new();
        for _ in 0..2 * INTAKE_REQUESTS_MAX {
            asking.ask(1, 1);
        }
        asking.ask(2, 1);
        let mut groups = std::iter::from_fn(|| Some(asking.next(Duration::ZERO)));
        let all: Vec<_> = groups
            .by_ref()
            .take_while(|group| !group.is_empty())
            .flatten()
            .collect();
        assert_eq!(all.len(), 2 * INTAKE_REQUESTS_MAX + 1);
    }

    #[test]
    fn who_waited_too_long_is_told_so_and_not_queued() {
        let mut asking = Asking::new();
        asking.ask(1, 1);
        let group = asking.gathering.take(asking.begin + 2 * PATIENCE, PATIENCE);
        assert_eq!((group.requests.len(), group.late.len()), (0, 1));
    }
}
