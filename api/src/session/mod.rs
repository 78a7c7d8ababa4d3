//! The user-session actor: one for each user with an open stream.
//!
//! Promises: every durable event of the user reaches each of their streams in order and once, whatever the leader's hints
//! do (they are made up for by a look every few seconds); progress reaches them at most four times a second a job; nobody
//! else's do. A reader that does not keep up is closed and starts again from what it saw last. The actor ends with its
//! last stream.

mod actor;
mod messages;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use flowai_actors::ids::UserId;
use flowai_actors::kit::{
    Actor, AskError, BoundedRef, OnCancel, OnFailure, TaskError, TaskKind, Tasks, ask,
};
use flowai_actors::messages::Live;
use flowai_store::database::{Database, DatabaseError, in_time};
use flowai_store::events;
use tokio::time::MissedTickBehavior;

use self::actor::UserSession;
use self::messages::SessionMessage;
use crate::auth::{Authenticator, BELIEVED, Credential};
use crate::error::ApiError;
use crate::live::LiveBoard;

pub(crate) use self::messages::{OpenStream, Subject};
pub(crate) use self::stream::{CloseReason, Item, Stream};

/// Messages that wait for one session: hints may be lost beyond it.
const MAILBOX_MAX: usize = 256;
/// Users with open streams on one instance.
const SESSIONS_MAX: usize = 10_000;
/// A session is told its user's newest count, and looks at its streams' credentials, this often: a revoked sign-in is closed
/// within 5 s, what the authenticator believes included.
const LOOK_INTERVAL: Duration = Duration::from_millis(1_000);
/// Sessions are looked after in so many parts, one after the other: all at once would hold up whoever's progress comes meanwhile.
const LOOK_PARTS: u32 = 16;
/// Credentials are asked about in every so many looks.
const LOOKS_PER_RENEWAL: u32 = 3;
const _: () = assert!(LOOKS_PER_RENEWAL as u128 * LOOK_INTERVAL.as_millis() < BELIEVED.as_millis());
/// Opening reads one page of events.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// The background work of sessions.
#[derive(Debug, Clone, Copy)]
enum SessionTask {
    /// Tells each session where its user stands.
    Look,
    /// Tells one session that held progress is due.
    Flush,
}

impl TaskKind for SessionTask {
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    fn on_failure(self) -> OnFailure {
        match self {
            Self::Look => OnFailure::EndProcess,
            Self::Flush => OnFailure::Log,
        }
    }
}

/// All sessions of an instance. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    authenticator: Authenticator,
    live: Arc<LiveBoard>,
    tasks: Tasks,
    open: Mutex<HashMap<UserId, BoundedRef<SessionMessage>>>,
    /// Those of the open streams, for [`Inner::look`] to ask about together.
    credentials: Mutex<Vec<(UserId, Weak<Credential>)>>,
}

impl Sessions {
    /// None are open yet. Must be called on a runtime.
    pub fn new(database: Database, authenticator: Authenticator, live: Arc<LiveBoard>) -> Self {
        let inner = Arc::new(Inner {
            database,
            authenticator,
            live,
            tasks: Tasks::new(),
            open: Mutex::default(),
            credentials: Mutex::default(),
        });
        let looked_after = Arc::downgrade(&inner);
        inner.tasks.spawn(SessionTask::Look, |_| async move {
            let mut interval = tokio::time::interval(LOOK_INTERVAL / LOOK_PARTS);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for turn in (0..LOOK_PARTS * LOOKS_PER_RENEWAL).cycle() {
                interval.tick().await;
                let Some(inner) = looked_after.upgrade() else {
                    return Ok(());
                };
                if let Err(error) = inner.look(turn).await {
                    tracing::warn!(%error, "sessions are not looked after; trying again");
                }
            }
            Ok(())
        });
        Self { inner }
    }

    /// Opens a stream, in the user's session or in a new one.
    ///
    /// # Errors
    /// `NotFound` for somebody else's job, `Overloaded`, `DependencyDown`.
    pub async fn open(&self, request: OpenStream) -> Result<Stream, ApiError> {
        // The session may end between finding it and asking it: once more reaches a new one.
        for _ in 0..3 {
            let session = self.session_of(request.user).await?;
            let asked = request.clone();
            let build = |reply| SessionMessage::Open {
                request: asked,
                reply,
            };
            match ask(&session, build, OPEN_WITHIN).await {
                Ok(opened) => return opened,
                Err(AskError::Gone | AskError::Rejected) => {
                    self.inner.forget(request.user, &session)
                }
                Err(AskError::Timeout | AskError::Full) => return Err(ApiError::Overloaded),
            }
        }
        Err(ApiError::Overloaded)
    }

    /// A hint that a user has new durable events.
    pub fn events_ready(&self, user: UserId) {
        if let Some(session) = self.inner.open().get(&user) {
            session.try_send(SessionMessage::Look).ok();
        }
    }

    /// The newest state of a job of a user.
    pub fn live(&self, live: Live) {
        if let Some(session) = self.inner.open().get(&live.user) {
            session.try_send(SessionMessage::Live(live)).ok();
        }
    }

    /// Ends every stream with `resync`: the instance goes down.
    pub async fn close_all(&self) {
        for session in self.inner.all() {
            let wait = Duration::from_secs(1);
            session.send(SessionMessage::CloseAll, wait).await.ok();
        }
    }

    /// Resolves when sessions are no longer looked after: the instance must end.
    pub async fn failed(&self) -> TaskError {
        self.inner.tasks.failed().await
    }

    async fn session_of(&self, user: UserId) -> Result<BoundedRef<SessionMessage>, ApiError> {
        {
            let open = self.inner.open();
            if let Some(session) = open.get(&user) {
                return Ok(session.clone());
            }
            if open.len() >= SESSIONS_MAX {
                return Err(ApiError::Overloaded);
            }
        }
        let session = UserSession {
            user,
            sessions: Arc::downgrade(&self.inner),
        };
        let (actor, _) = Actor::spawn(None, session, ()).await.map_err(|error| {
            tracing::error!(%error, "a session does not start");
            ApiError::Internal
        })?;
        let session = BoundedRef::new(actor, MAILBOX_MAX);
        // Of two that were started at once, the second ends unheard.
        let winner = self
            .inner
            .open()
            .entry(user)
            .or_insert_with(|| session.clone())
            .clone();
        if winner.cell().get_id() != session.cell().get_id() {
            session.cell().stop(None);
        }
        Ok(winner)
    }
}

impl Inner {
    /// Looks after the part of the users whose turn it is: a statement or three, however many they are.
    async fn look(&self, turn: u32) -> Result<(), DatabaseError> {
        let is_turn = |user: &UserId| part_of(*user) == turn % LOOK_PARTS;
        if turn < LOOK_PARTS {
            let credentials = self.credentials_of(is_turn);
            in_time(self.authenticator.renew(&credentials)).await?;
        }
        let sessions: Vec<_> = {
            let open = self.open();
            let turn = open.iter().filter(|(user, _)| is_turn(user));
            turn.map(|(user, session)| (*user, session.clone()))
                .collect()
        };
        if sessions.is_empty() {
            return Ok(());
        }
        let users: Vec<UserId> = sessions.iter().map(|(user, _)| *user).collect();
        let heads = in_time(events::heads(&self.database, &users)).await?;
        for (user, session) in sessions {
            let head = heads.get(&user).copied().unwrap_or(0);
            // A full mailbox has enough to do; the next look is near.
            session.try_send(SessionMessage::Head(head)).ok();
        }
        Ok(())
    }

    /// Keeps an eye on a stream's credential as long as somebody holds it.
    fn watch(&self, user: UserId, credential: Credential) -> Arc<Credential> {
        let credential = Arc::new(credential);
        let mut watched = self
            .credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        watched.push((user, Arc::downgrade(&credential)));
        credential
    }

    /// Those of these users; the ones that nobody holds any more are forgotten.
    fn credentials_of(&self, is_wanted: impl Fn(&UserId) -> bool) -> Vec<Arc<Credential>> {
        let mut watched = self
            .credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        watched.retain(|(_, credential)| credential.strong_count() > 0);
        let wanted = watched.iter().filter(|(user, _)| is_wanted(user));
        wanted
            .filter_map(|(_, credential)| credential.upgrade())
            .collect()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<UserId, BoundedRef<SessionMessage>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<BoundedRef<SessionMessage>> {
        self.open().values().cloned().collect()
    }

    /// Removes a session that has ended, unless another has taken its place.
    fn forget(&self, user: UserId, ended: &BoundedRef<SessionMessage>) {
        let mut open = self.open();
        let is_this = open
            .get(&user)
            .is_some_and(|session| session.cell().get_id() == ended.cell().get_id());
        if is_this {
            open.remove(&user);
        }
    }
}

/// Users are dealt out by the random end of their ids.
fn part_of(user: UserId) -> u32 {
    let (_, low) = user.as_uuid().as_u64_pair();
    (low % u64::from(LOOK_PARTS)) as u32
}
