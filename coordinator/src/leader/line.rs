//! What those who wait were told of their places, so that only changes are told.

use std::collections::HashMap;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::JobId;
use flowai_actors::limits::PROGRESS_INTERVAL_MS;
use flowai_actors::messages::{Live, LiveState};
use flowai_actors::waiting::{StartsIn, Waits};

use crate::scheduler::{Place, Range, Scheduler, WaitsFor};

/// Places that are told; whoever stands further back hears of it when the line gets shorter.
const PLACES_TOLD_MAX: usize = 1_000;
/// Told at once: half of a link's credit, so that other messages pass. The rest follows at the next interval, those behind first:
/// where jobs start all the time, the front of the line is news each time.
const TOLD_AT_ONCE_MAX: usize = 32;

/// What of a place is news when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    position: u32,
    waits_for: WaitsFor,
    /// Of the forecast, in steps of about 40 %: it changes all the time.
    patience: Option<i32>,
}

impl Told {
    fn of(place: &Place) -> Self {
        let steps = |range: Range| (2.0 * range.p90_s.max(5.0).log2()).round() as i32;
        Self {
            position: place.position,
            waits_for: place.waits_for,
            patience: place.starts_in.map(steps),
        }
    }
}

/// As it is said to people and programs.
pub(super) fn waits(waits_for: WaitsFor, starts_in: Option<Range>) -> Waits {
    Waits {
        code: waits_for.code().to_owned(),
        reason: waits_for.as_str().to_owned(),
        starts_in: starts_in.map(|Range { p50_s, p90_s }| StartsIn { p50_s, p90_s }),
    }
}

#[derive(Debug, Default)]
pub(super) struct Line {
    told: HashMap<JobId, Told>,
    /// Of the line that was looked at last.
    revision: u64,
    /// Not everything of it was told: up to this place only.
    told_up_to: Option<u32>,
    next_at: Monotonic,
}

impl Line {
    /// The place that was told of a job, if it stands near enough to the front to be told.
    pub(super) fn position(&self, job: JobId) -> Option<u32> {
        self.told.get(&job).map(|told| told.position)
    }

    /// Somebody listens who heard nothing so far.
    pub(super) fn tell_all(&mut self) {
        self.told.clear();
        self.told_up_to = Some(0);
    }

    /// What is news, at most every [`PROGRESS_INTERVAL_MS`].
    pub(super) fn news(&mut self, scheduler: &Scheduler, now: Monotonic) -> Vec<Live> {
        let is_news = self.told_up_to.is_some() || self.revision != scheduler.revision();
        if !is_news || now < self.next_at {
            return Vec::new();
        }
        self.revision = scheduler.revision();
        self.next_at = now.plus_ms(PROGRESS_INTERVAL_MS);
        let places = scheduler.line(PLACES_TOLD_MAX);
        let is_told =
            |told: &HashMap<_, _>, place: &Place| told.get(&place.job) == Some(&Told::of(place));
        let mut news: Vec<&Place> = places
            .iter()
            .filter(|place| !is_told(&self.told, place))
            .collect();
        let told_up_to = self.told_up_to.unwrap_or(0);
        let is_in_front = |place: &&Place| place.position <= told_up_to;
        let in_front = news.iter().take_while(|place| is_in_front(place)).count();
        news.rotate_left(in_front);
        let has_more = news.len() > TOLD_AT_ONCE_MAX;
        news.truncate(TOLD_AT_ONCE_MAX);
        let last = news.last().map(|place| place.position);
        self.told_up_to = last.filter(|_| has_more);
        let told: HashMap<_, _> = places
            .iter()
            .filter_map(|place| Some((place.job, *self.told.get(&place.job)?)))
            .collect();
        self.told = told;
        news.into_iter()
            .map(|place| {
                self.told.insert(place.job, Told::of(place));
                Live {
                    user: place.user,
                    job: place.job,
                    live: LiveState::Position {
                        position: place.position,
                        waits: waits(place.waits_for, place.starts_in),
                    },
                }
            })
            .collect()
    }
}
