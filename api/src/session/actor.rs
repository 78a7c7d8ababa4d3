//! The actor: reads the user's events, hands them out, closes who does not keep up.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use flowai_actors::clock::{Clock, SystemClock};
use flowai_actors::ids::UserId;
use flowai_actors::kit::{Actor, ActorProcessingErr, ActorRef, Parcel, PostError};
use flowai_actors::messages::Live;
use flowai_actors::state::JobState;
use flowai_store::database::{DatabaseError, UserTransaction, in_time};
use flowai_store::events::{self, Event};
use flowai_store::videos::{self, Listing, Video};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::messages::{OpenStream, SessionMessage, Subject};
use super::state::{Conflation, Cursor};
use super::stream::{CloseReason, Item, RING, Stream};
use super::{Inner, SessionTask};
use crate::auth::Credential;
use crate::error::ApiError;

/// Streams of one user on one instance: tabs, devices and programs.
const STREAMS_MAX: usize = 32;
/// Requests of one user on one instance that wait for something to happen.
const WAITS_MAX: usize = 128;
/// Events read at a time, and repeated at most to a reader that comes back; half of a stream's ring, so that a reader
/// that has not begun to read still has room.
const PAGE: i64 = RING as i64 / 2;
/// Of the newest jobs so many are in a snapshot of everything, …
const SNAPSHOT_VIDEOS: i64 = 100;
/// … and of those that wait, and of those that run, whose ends a reader must not miss: more than any tier may have, unless its limits
/// are raised for a test of load.
const SNAPSHOT_UNFINISHED: i64 = 1_000;
/// A session that is behind is told again that progress is due after this.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct UserSession {
    pub(super) user: UserId,
    pub(super) sessions: Weak<Inner>,
}

pub(super) struct State {
    clock: SystemClock,
    streams: Vec<OpenedStream>,
    next_number: u64,
    conflation: Conflation,
    is_flush_planned: bool,
}

/// The session's end of a stream.
struct OpenedStream {
    number: u64,
    is_wait: bool,
    credential: Arc<Credential>,
    cursor: Cursor,
    items: mpsc::Sender<Item>,
    reason: Arc<OnceLock<CloseReason>>,
}

impl OpenedStream {
    /// `false` when the reader left or has not kept up.
    fn deliver(&self, item: Item) -> bool {
        match self.items.try_send(item) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(item)) => {
                // Progress is state: the next one says more. An event must not be missed.
                let is_state = matches!(item, Item::Live { .. });
                if !is_state {
                    self.close(CloseReason::Resync);
                }
                is_state
            }
        }
    }

    /// Says why, before the sender is dropped.
    fn close(&self, reason: CloseReason) {
        self.reason.set(reason).ok();
    }
}

impl Actor for UserSession {
    type Msg = Parcel<SessionMessage>;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State {
            clock: SystemClock::new(),
            streams: Vec::new(),
            next_number: 0,
            conflation: Conflation::default(),
            is_flush_planned: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        parcel: Parcel<SessionMessage>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(sessions) = self.sessions.upgrade() else {
            myself.stop(None);
            return Ok(());
        };
        // What waits for the database is boxed: an actor's task is as large as the largest that it may come to wait for, and thousands of them
        // wait for nothing.
        match parcel.open() {
            SessionMessage::Open { request, reply } => {
                let opened = Box::pin(self.open(&sessions, request, state)).await;
                // A caller that has left drops the stream, whose end says so.
                drop(reply.send(opened));
            }
            SessionMessage::Left { stream } => state.streams.retain(|s| s.number != stream),
            SessionMessage::Look => {
                Box::pin(self.read_on(&sessions, state)).await;
            }
            SessionMessage::Head(head) => {
                Box::pin(self.close_revoked(&sessions, state)).await;
                let is_behind = |stream: &OpenedStream| stream.cursor.user_seq < head;
                if state.streams.iter().any(is_behind)
                    && Box::pin(self.read_on(&sessions, state)).await
                {
                    // The last of its events went with a job that was purged before they were read.
                    state.start_again(is_behind);
                }
            }
            SessionMessage::Live(live) => self.take_live(&sessions, state, live),
            SessionMessage::Flush => {
                state.is_flush_planned = false;
                let now = state.clock.now();
                for (job, live) in state.conflation.flush(now) {
                    state.push_live(Item::Live { job, live });
                }
                self.plan_flush(&sessions, state);
            }
            SessionMessage::CloseAll => {
                for stream in &state.streams {
                    stream.close(CloseReason::Resync);
                }
                state.streams.clear();
            }
        }
        state.streams.retain(|stream| !stream.items.is_closed());
        if state.streams.is_empty() {
            sessions.open().remove(&self.user);
            myself.stop(None);
        }
        Ok(())
    }
}

impl UserSession {
    async fn open(
        &self,
        sessions: &Arc<Inner>,
        request: OpenStream,
        state: &mut State,
    ) -> Result<Stream, ApiError> {
        let is_wait = request.is_wait;
        let same = state.streams.iter().filter(|s| s.is_wait == is_wait);
        if same.count() >= if is_wait { WAITS_MAX } else { STREAMS_MAX } {
            return Err(ApiError::Overloaded);
        }
        let session = sessions.open().get(&self.user).cloned();
        let session = session.ok_or(ApiError::Overloaded)?;
        let (cursor, backlog) = in_time(self.begin(sessions, &request)).await?;
        let (items, receiver) = mpsc::channel(RING);
        let stream = OpenedStream {
            number: state.next_number,
            is_wait,
            credential: sessions.watch(self.user, request.credential),
            cursor,
            items,
            reason: Arc::default(),
        };
        state.next_number += 1;
        for item in backlog {
            stream.deliver(item);
        }
        let opened = Stream {
            number: stream.number,
            items: receiver,
            reason: stream.reason.clone(),
            session,
        };
        state.streams.push(stream);
        Ok(opened)
    }

    /// Where a new stream starts, and what it gets first.
    async fn begin(
        &self,
        sessions: &Inner,
        request: &OpenStream,
    ) -> Result<(Cursor, Vec<Item>), ApiError> {
        let mut transaction = sessions.database.begin_as(self.user).await?;
        // Before the events, so that none falls between.
        let head = events::head(&mut transaction).await?;
        let cursor = |user_seq, job_seq| Cursor {
            subject: request.subject,
            user_seq,
            job_seq,
        };
        match request.subject {
            Subject::User => {
                if let Some(since) = request.since
                    && ((head - PAGE).max(0)..=head).contains(&since)
                {
                    let missed = events::after(&mut transaction, since, PAGE + 1).await?;
                    let last = missed.last().map_or(since, |event| event.user_seq);
                    if is_whole(&missed, since, last, head) {
                        return Ok((cursor(last, 0), as_items(missed)));
                    }
                }
                let videos = Arc::new(everything(&mut transaction).await?);
                Ok((cursor(head, 0), vec![Item::Snapshot { id: head, videos }]))
            }
            Subject::Job(job) => {
                let video = videos::find(&mut transaction, job)
                    .await?
                    .ok_or(ApiError::NotFound("a video of this id"))?;
                let since = request.since.unwrap_or(0);
                if (0..=video.seq).contains(&since) {
                    let missed =
                        events::of_job_after(&mut transaction, job, since, PAGE + 1).await?;
                    let last = missed.last().map_or(since, |event| event.seq);
                    if is_whole(&missed, since, last, video.seq) {
                        return Ok((cursor(head, last), as_items(missed)));
                    }
                }
                let (id, videos) = (video.seq, Arc::new(vec![video]));
                Ok((cursor(head, id), vec![Item::Snapshot { id, videos }]))
            }
        }
    }

    /// Reads what is new and hands it out; whether all of it was read. A database that is away is asked again at the next look.
    async fn read_on(&self, sessions: &Arc<Inner>, state: &mut State) -> bool {
        loop {
            let Some(from) = state.streams.iter().map(|s| s.cursor.user_seq).min() else {
                return true;
            };
            let page = match in_time(self.page(sessions, from)).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, user = %self.user, "events cannot be read; trying again");
                    return false;
                }
            };
            let is_last = (page.len() as i64) < PAGE;
            for event in page {
                state.conflation.forget(event.job);
                if event.kind.is_end() {
                    sessions.live.forget(event.job);
                }
                state.push_event(&Arc::new(event));
            }
            if is_last {
                return true;
            }
        }
    }

    async fn page(&self, sessions: &Inner, from: i64) -> Result<Vec<Event>, ApiError> {
        let mut transaction = sessions.database.begin_as(self.user).await?;
        Ok(events::after(&mut transaction, from, PAGE).await?)
    }

    async fn close_revoked(&self, sessions: &Inner, state: &mut State) {
        let mut kept = Vec::with_capacity(state.streams.len());
        for stream in state.streams.drain(..) {
            match in_time(sessions.authenticator.still_counts(&stream.credential)).await {
                Ok(false) => stream.close(CloseReason::Revoked),
                // Asked again at the next look.
                Ok(true) | Err(_) => kept.push(stream),
            }
        }
        state.streams = kept;
    }

    fn take_live(&self, sessions: &Arc<Inner>, state: &mut State, live: Live) {
        let now = state.clock.now();
        let job = live.job;
        if let Some(live) = state.conflation.offer(job, live.live, now) {
            state.push_live(Item::Live { job, live });
        }
        self.plan_flush(sessions, state);
    }

    fn plan_flush(&self, sessions: &Arc<Inner>, state: &mut State) {
        let Some(due) = state.conflation.next_due() else {
            return;
        };
        if state.is_flush_planned {
            return;
        }
        let session = sessions.open().get(&self.user).cloned();
        let Some(session) = session else {
            return;
        };
        state.is_flush_planned = true;
        let wait = due.since(state.clock.now()).max(Duration::from_millis(1));
        sessions.tasks.spawn(SessionTask::Flush, |_| async move {
            tokio::time::sleep(wait).await;
            // No other is planned before this one is heard.
            while let Err(PostError::Full(_)) =
                session.send(SessionMessage::Flush, FLUSH_WITHIN).await
            {}
            Ok(())
        });
    }
}

impl State {
    /// Numbers have no gaps: whoever would not get one in between reads the state anew.
    fn push_event(&mut self, event: &Arc<Event>) {
        self.start_again(|stream| stream.cursor.user_seq + 1 < event.user_seq);
        self.streams.retain_mut(|stream| {
            !stream.cursor.take(event) || stream.deliver(Item::Event(event.clone()))
        });
    }

    /// Closes streams that cannot be told all that happened; their readers come back from where they are, and get a snapshot.
    fn start_again(&mut self, is_lost: impl Fn(&OpenedStream) -> bool) {
        self.streams.retain(|stream| {
            let is_lost = is_lost(stream);
            if is_lost {
                stream.close(CloseReason::Resync);
            }
            !is_lost
        });
    }

    fn push_live(&mut self, item: Item) {
        let Item::Live { job, .. } = &item else {
            return;
        };
        let job = *job;
        self.streams
            .retain(|stream| !stream.cursor.concerns(job) || stream.deliver(item.clone()));
    }
}

/// The caller's newest jobs and all that have not ended, newest first.
async fn everything(transaction: &mut UserTransaction) -> Result<Vec<Video>, DatabaseError> {
    let mut found = BTreeMap::new();
    for (state, limit) in [
        (None, SNAPSHOT_VIDEOS),
        (Some(JobState::Queued), SNAPSHOT_UNFINISHED),
        (Some(JobState::Running), SNAPSHOT_UNFINISHED),
    ] {
        let listing = Listing {
            state,
            limit,
            ..Listing::default()
        };
        let videos = videos::list(transaction, &listing).await?;
        found.extend(videos.into_iter().map(|video| (video.id, video)));
    }
    Ok(found.into_values().rev().collect())
}

/// Whether these are all events from `since` to `head`, few enough to be sent: some may have gone with their week.
fn is_whole(missed: &[Event], since: i64, last: i64, head: i64) -> bool {
    let count = missed.len() as i64;
    count <= PAGE && last == since + count && last >= head
}

fn as_items(events: Vec<Event>) -> Vec<Item> {
    let items = events.into_iter().map(Arc::new).map(Item::Event);
    items.collect()
}
